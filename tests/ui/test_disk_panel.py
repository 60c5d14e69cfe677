"""The panel about the disk: sizes are told, and nothing goes without a yes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from conftest import App, wait_until
from gemma_ft import recipes
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings

pytestmark = pytest.mark.browser


def stopped_run(settings: Settings) -> RunDir:
    run = create_run(settings.runs, recipes.try_it())
    (run.checkpoints / "checkpoint-5").mkdir(parents=True)
    (run.checkpoints / "checkpoint-5" / "weights").write_bytes(b"x" * 3_000_000)
    run.write_state(run.state().model_copy(update={"status": "stopped"}))
    return run


def test_checkpoints_and_runs_are_deleted_after_a_yes_and_never_while_a_run_is_going_on(
    demo_settings: Settings, start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    run = stopped_run(demo_settings)
    app = start_app()
    page = open_page(f"{app.url}/?run={run.run_id}")
    expect(page.locator(".dash .pill")).to_have_text("stopped")
    page.get_by_role("button", name="Disk").click()
    expect(page.locator("#disk-use")).to_contain_text("checkpoints 3.0 MB")

    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#delete-checkpoints-button").click()
    page.wait_for_timeout(1000)
    expect(page.locator("#disk-use")).to_contain_text("checkpoints 3.0 MB")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.locator("#delete-checkpoints-button").click()
    expect(page.locator("#disk-use")).to_contain_text("checkpoints 0")
    assert run.run_id in asked[0]
    assert not run.checkpoints.exists()

    run.write_state(run.state().model_copy(update={"status": "queued"}))
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#delete-run-button").click()
    expect(page.get_by_text("Stop it first")).to_be_visible(timeout=30_000)
    assert run.path.is_dir()
    app.manager.stop(run.run_id)
    wait_until(lambda: app.manager.state(run).status == "stopped", what="the run to leave the line")

    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#delete-run-button").click()
    wait_until(lambda: not run.path.exists(), what="the run to be gone")
    expect(page.locator(".dash-empty")).to_contain_text("There is no run", timeout=30_000)
