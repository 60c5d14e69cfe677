"""The line of waiting runs and the control of a home, on the page: what a person sees and can press."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from conftest import App, free_port, wait_until
from gemma_ft import recipes
from gemma_ft.jobs.devices import PROCESSOR, Devices, take
from gemma_ft.rundir import create_run
from gemma_ft.settings import Settings

pytestmark = pytest.mark.browser


@pytest.fixture
def busy(demo_settings: Settings) -> Iterator[Devices]:
    """The home's only device, taken by this process: whatever is started waits."""
    devices = take(demo_settings.devices, [PROCESSOR], 1)
    assert devices is not None
    yield devices
    devices.release()


def test_a_double_click_on_start_makes_one_run_which_waits_and_can_be_moved_and_leave(
    busy: Devices, demo_settings: Settings, start_app: Callable[..., App], open_page: Callable[..., Page]
) -> None:
    app = start_app()
    page = open_page(app.url)
    page.get_by_role("button", name="Try it", exact=True).click()
    expect(page.locator("#start-button")).to_be_enabled(timeout=60_000)
    page.locator("#start-button").dblclick()
    expect(page.locator(".dash .pill")).to_have_text("queued", timeout=60_000)
    expect(page.locator(".dash")).to_contain_text("Number 1 in line")
    (run,) = app.manager.runs()
    expect(page.locator("#leave-button")).to_be_visible()
    expect(page.locator("#stop-button")).to_be_hidden()
    expect(page.locator("#first-button")).to_be_hidden()

    second = app.manager.start(recipes.try_it())
    expect(page.locator("#last-button")).to_be_visible()
    page.locator("#last-button").click()
    expect(page.locator(".dash")).to_contain_text("Number 2 in line")
    assert app.manager.waiting() == [second, run]
    page.locator("#first-button").click()
    expect(page.locator(".dash")).to_contain_text("Number 1 in line")
    page.locator("#leave-button").click()
    expect(page.locator(".dash .pill")).to_have_text("stopped", timeout=30_000)
    assert app.manager.waiting() == [second]
    app.manager.stop(second.run_id)
    wait_until(lambda: not app.manager.waiting(), what="the line to be empty")

    page.get_by_role("tab", name="Create").click()
    page.locator("#start-button").click()
    wait_until(lambda: len(app.manager.runs()) == 3, what="a run of another press")
    app.manager.stop(app.manager.runs()[0].run_id)


def test_a_second_page_on_one_home_says_so_only_watches_and_takes_over(
    busy: Devices, demo_settings: Settings, start_app: Callable[..., App], open_page: Callable[..., Page]
) -> None:
    first = start_app()
    run = first.manager.start(recipes.try_it())
    watching = start_app(replace(demo_settings, port=free_port()))
    page = open_page(f"{watching.url}/?run={run.run_id}")
    expect(page.locator(".dash-notice")).to_contain_text("only watches")
    expect(page.locator(".dash .pill")).to_have_text("queued")
    expect(page.locator("#leave-button")).to_be_hidden()
    client = Client(watching.url, verbose=False)
    with pytest.raises(Exception, match="only watches"):
        client.predict(run.run_id, api_name="/stop_run")
    assert client.predict(api_name="/runs")[0]["status"] == "queued"
    first.kill()
    expect(page.locator(".dash-notice")).to_be_hidden(timeout=30_000)
    page.locator("#leave-button").click()
    expect(page.locator(".dash .pill")).to_have_text("stopped", timeout=30_000)


def test_runs_that_were_interrupted_are_offered_to_be_resumed_together(
    busy: Devices, demo_settings: Settings, start_app: Callable[..., App], open_page: Callable[..., Page]
) -> None:
    lost = [create_run(demo_settings.runs, recipes.try_it()) for _ in range(2)]
    for run in lost:
        run.write_state(run.state().model_copy(update={"status": "interrupted"}))
    app = start_app()
    page = open_page(f"{app.url}/?tab=dashboard")
    expect(page.locator(".dash .pill")).to_have_text("interrupted")
    page.locator("#rescue-button").click()
    expect(page.locator(".dash .pill")).to_have_text("queued", timeout=60_000)
    wait_until(lambda: len(app.manager.waiting()) == 2, what="both in line")
    assert [app.manager.state(run).attempt for run in lost] == [2, 2]
    for run in lost:
        app.manager.stop(run.run_id)


def test_interrupted_runs_go_on_by_themselves_where_that_is_set(
    busy: Devices, demo_settings: Settings, start_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(demo_settings.runs, recipes.try_it())
    run.write_state(run.state().model_copy(update={"status": "interrupted"}))
    monkeypatch.setenv("GEMMA_FT_AUTO_RESUME", "1")
    app = start_app()
    wait_until(lambda: app.manager.waiting() == [run], what="it to wait in line")
    assert run.state().rescues == 1
    app.manager.stop(run.run_id)
