"""The card of a failed run on the page, and the same on the command line: what to do first, the traceback folded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from conftest import App
from gemma_ft import recipes
from gemma_ft.errors import ErrorReport
from gemma_ft.jobs.spawn import PROJECT_ROOT, own_environment
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings

REPORT = ErrorReport(
    kind="bug",
    title="The training failed",
    what_happened="KeyError: 'missing'",
    what_to_do="Read the details.",
    details="Traceback (most recent call last):\n  File \"<x>\", line 1\n<b>KeyError</b>: 'missing'",
)


def failed_run(settings: Settings, report: ErrorReport) -> RunDir:
    run = create_run(settings.runs, recipes.try_it())
    run.write_state(run.state().model_copy(update={"status": "failed", "error": report, "ended_at": 1.0}))
    return run


@pytest.mark.browser
def test_the_traceback_is_folded_shown_as_text_and_stays_open(
    demo_settings: Settings, start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    failed_run(demo_settings, REPORT)
    page = open_page(f"{start_app().url}/?tab=dashboard")
    card = page.get_by_role("alert")
    expect(card).to_contain_text("What to do: Read the details.")
    text = card.locator("pre")
    expect(text).to_be_hidden()
    card.get_by_text("Details", exact=True).click()
    expect(text).to_be_visible()
    assert text.text_content() == REPORT.details
    assert text.locator("b").count() == 0
    asked = page.evaluate("() => window.gemmaDashboard.polls")
    page.wait_for_function(f"() => window.gemmaDashboard.polls >= {asked} + 3")
    expect(text).to_be_visible()


@pytest.mark.browser
def test_a_failure_without_details_has_nothing_to_unfold(
    demo_settings: Settings, start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    failed_run(demo_settings, REPORT.model_copy(update={"details": ""}))
    page = open_page(f"{start_app().url}/?tab=dashboard")
    expect(page.get_by_role("alert")).to_contain_text("KeyError")
    assert page.get_by_role("alert").locator("details").count() == 0


def test_show_prints_the_details(settings: Settings) -> None:
    run = failed_run(settings, REPORT)
    told = subprocess.run(
        [sys.executable, "-m", "gemma_ft", "show", run.run_id],
        env=own_environment() | {"GEMMA_FT_HOME": str(settings.home)},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stderr
    assert "What to do: Read the details." in told
    assert all(f"    {line}" in told for line in REPORT.details.splitlines())
