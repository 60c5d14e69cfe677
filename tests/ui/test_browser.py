"""The page as a person uses it, in a real browser: the whole way, and what must survive on it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from conftest import App, wait_for_end, wait_until
from contrast import CONTRAST
from gemma_ft import recipes
from gemma_ft.monitor.identity import is_alive
from gemma_ft.settings import Settings

pytestmark = [pytest.mark.browser, pytest.mark.train]

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
POINTS = "() => window.gemmaDashboard?.curves.axis.step.length ?? 0"
DRAWN = "() => document.querySelector('#loss-chart')?.data?.[0]?.x?.length ?? 0"
START_SECONDS = 120_000


def start_try_it(page: Page) -> None:
    page.get_by_role("button", name="Try it", exact=True).click()
    expect(page.locator("#review-config")).to_contain_text("gemma-3-tiny")
    expect(page.locator("#start-button")).to_be_enabled()
    page.locator("#start-button").click()


def status(page: Page) -> Any:
    return page.locator(".dash .pill")


def test_the_whole_way_from_try_it_to_the_comparison(
    start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    app = start_app()
    page = open_page(app.url)
    for name in ("Create", "Dashboard", "Playground"):
        expect(page.get_by_role("tab", name=name)).to_be_visible()
    start_try_it(page)

    expect(status(page)).to_have_text("training", timeout=START_SECONDS)
    expect(page.locator("#stop-button")).to_be_visible()
    page.wait_for_function(f"({POINTS})() >= 5", timeout=START_SECONDS)
    page.wait_for_function(f"({DRAWN})() >= 5")
    expect(page.get_by_role("log", name="Log")).to_contain_text("Step 5 of 150")

    expect(status(page)).to_have_text("finished", timeout=START_SECONDS)
    page.wait_for_function(f"({DRAWN})() === 150")
    losses = page.evaluate("() => window.gemmaDashboard.curves.outline('loss')[1]")
    assert losses[-1] < 0.1 * losses[0]
    expect(page.locator("#stop-button")).to_be_hidden()
    expect(page.locator(".samples")).to_contain_text(PARIS)

    page.get_by_role("button", name="Try it in the Playground").click()
    page.get_by_role("textbox", name="Question", exact=True).fill(FRANCE)
    page.locator("#ask-button").click()
    expect(page.locator("#chat-tuned")).to_contain_text(PARIS, timeout=60_000)
    expect(page.locator("#chat-base")).to_contain_text(FRANCE)
    expect(page.locator("#chat-base")).not_to_contain_text(PARIS)

    second = open_page(f"{app.url}/?tab=dashboard")
    expect(status(second)).to_have_text("finished")
    second.wait_for_function(f"({DRAWN})() === 150")


def test_an_answer_can_be_stopped_and_the_next_question_asked(
    tuned_settings: Settings, start_app: Callable[..., App], open_page: Callable[..., Page]
) -> None:
    app = start_app(tuned_settings)
    page = open_page(f"{app.url}/?tab=playground")
    expect(page.locator("#playground-run input")).to_have_value(re.compile("capitals"))
    page.get_by_text("How the answers are made").click()
    page.get_by_label("number input for Longest answer").fill("2048")
    page.get_by_label("number input for Temperature").fill("2")
    page.get_by_role("textbox", name="Question", exact=True).fill("Tell me everything.")
    page.locator("#ask-button").click()
    expect(page.locator("#chat-base .bot")).not_to_contain_text("Loading", timeout=60_000)
    page.locator("#stop-answer-button").click()
    page.get_by_label("number input for Temperature").fill("0")
    page.get_by_label("number input for Longest answer").fill("32")
    page.locator("#clear-button").click()
    page.locator("#surprise-button").click()
    expect(page.get_by_role("textbox", name="Question", exact=True)).to_have_value(re.compile("capital"))
    page.get_by_role("textbox", name="Question", exact=True).fill(FRANCE)
    page.get_by_role("textbox", name="Question", exact=True).press("Enter")
    expect(page.locator("#chat-tuned")).to_contain_text(PARIS, timeout=30_000)


def test_a_run_survives_the_browser_and_the_death_of_the_page(
    start_app: Callable[[], App], open_page: Callable[..., Page], browser: Browser
) -> None:
    app = start_app()
    page = open_page(app.url)
    start_try_it(page)
    expect(status(page)).to_have_text("training", timeout=START_SECONDS)
    page.close()
    (run,) = app.manager.runs()
    trainer = app.manager.state(run).trainer
    app.kill()
    assert is_alive(trainer)
    app = start_app()
    again = open_page(f"{app.url}/?run={run.run_id}")
    expect(status(again)).to_have_text("finished", timeout=START_SECONDS)
    again.wait_for_function(f"({DRAWN})() === 150")
    assert wait_for_end(app.manager, run).attempt == 1


def test_stop_then_resume_from_the_dashboard(start_app: Callable[[], App], open_page: Callable[..., Page]) -> None:
    app = start_app()
    config = recipes.try_it()
    long = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": 3000})})
    run = app.manager.start(long)
    page = open_page(f"{app.url}/?tab=dashboard")
    page.wait_for_function(f"({POINTS})() >= 3", timeout=START_SECONDS)
    page.locator("#stop-button").click()
    expect(status(page)).to_have_text("stopped", timeout=30_000)
    expect(page.locator("#stop-button")).to_be_hidden()
    page.locator("#resume-button").click()
    expect(status(page)).to_have_text("training", timeout=START_SECONDS)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#cancel-button").click()
    at = page.evaluate(POINTS)
    page.wait_for_function(f"({POINTS})() > {at}")
    assert run.wished() is None
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#cancel-button").click()
    expect(status(page)).to_have_text("stopped", timeout=30_000)
    assert app.manager.state(run).attempt == 2


def test_a_model_that_is_no_gemma_blocks_the_start_and_a_failed_run_says_what_happened(
    start_app: Callable[[], App], open_page: Callable[..., Page], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "<b>llama</b>"}))
    app = start_app()
    page = open_page(app.url)
    model = page.get_by_label("Model", exact=True)
    model.fill(str(tmp_path))
    model.press("Enter")
    for step in ("Data", "Method", "Review"):
        page.get_by_role("button", name=f"Next: {step}").click()
    expect(page.locator("#review-config")).to_contain_text(str(tmp_path), timeout=START_SECONDS)
    expect(page.locator("#review-verdict")).to_contain_text("'<b>llama</b>'")
    expect(page.locator("#start-button")).to_be_disabled()

    config = recipes.try_it()
    app.manager.start(config.model_copy(update={"model": config.model.model_copy(update={"id": str(tmp_path)})}))
    page.get_by_role("tab", name="Dashboard").click()
    expect(status(page)).to_have_text("failed", timeout=30_000)
    card = page.get_by_role("alert")
    expect(card).to_contain_text("The model cannot be loaded")
    expect(card).to_contain_text("'<b>llama</b>'")
    expect(card).to_contain_text("Choose a model of the Gemma family")
    expect(page.locator("#resume-button")).to_be_visible()


def test_a_mistake_in_the_form_is_named_and_nothing_typed_is_lost(
    start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    page = open_page(start_app().url)
    page.get_by_role("button", name="Next: Data").click()
    expect(page.locator("#data-verdict")).to_contain_text("135 to train on")
    page.get_by_role("button", name="Next: Method").click()
    page.get_by_label("Learning rate").fill("5")
    page.get_by_role("button", name="Next: Review").click()
    expect(page.locator("#review-verdict")).to_contain_text("training.learning_rate: must be at most 1")
    expect(page.locator("#start-button")).to_be_disabled()
    page.locator("#create-steps").get_by_role("button", name="Back").last.click()
    expect(page.get_by_label("Learning rate")).to_have_value("5")


def test_an_uploaded_file_is_looked_at_and_its_bad_row_is_named(
    start_app: Callable[[], App], open_page: Callable[..., Page], tmp_path: Path
) -> None:
    rows = [{"prompt": f"q{n}", "completion": f"<img src=x onerror=alert({n})>"} for n in range(6)]
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("\n".join(json.dumps(row) for row in rows))
    bad.write_text("\n".join(json.dumps(row) for row in [*rows, {"prompt": "", "completion": "x"}]))
    app = start_app()
    page = open_page(app.url)
    page.get_by_role("button", name="Next: Data").click()
    page.get_by_label("A file of mine").check()
    page.locator("#data-upload input[type=file]").set_input_files(bad)
    expect(page.locator("#data-verdict")).to_contain_text("Row 7")
    page.locator("#data-upload").get_by_role("button", name="Clear").click()
    page.locator("#data-upload input[type=file]").set_input_files(good)
    expect(page.locator("#data-verdict")).to_contain_text("5 to train on, 1 held out")
    expect(page.locator("#xray-rows")).to_contain_text("<img src=x onerror=alert")
    assert (app.settings.home / "uploads").is_dir()


def test_the_page_survives_a_restart_of_the_server_with_what_was_typed(
    start_app: Callable[[], App], browser: Browser
) -> None:
    app = start_app()
    page = browser.new_page()
    page.goto(app.url)
    page.get_by_role("tab", name="Playground").click()
    page.get_by_role("textbox", name="Question", exact=True).fill("typed before the restart")
    page.get_by_role("tab", name="Dashboard").click()
    expect(page.locator(".dash-empty")).to_be_visible()
    page.wait_for_function("() => window.gemmaDashboard?.told")
    page.wait_for_event("response", lambda response: "component_server" in response.url)
    os.kill(app.process.pid, signal.SIGKILL)
    app.process.wait()
    wait_until(lambda: page.evaluate("() => window.gemmaDashboard.failures > 1"), what="the page to notice")
    start_app()
    wait_until(lambda: page.evaluate("() => window.gemmaDashboard.failures === 0"), what="the page to recover")
    page.get_by_role("tab", name="Playground").click()
    expect(page.get_by_role("textbox", name="Question", exact=True)).to_have_value("typed before the restart")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_tab_scrolls_sideways_and_text_can_be_read(
    start_app: Callable[[], App], open_page: Callable[..., Page], scheme: str, width: int
) -> None:
    page = open_page(start_app().url, viewport={"width": width, "height": 844}, color_scheme=scheme)
    for name in ("Create", "Dashboard", "Playground"):
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    page.get_by_role("tab", name="Create").click()
    for selector in (".page-header p", ".welcome p", "#tab-create label", ".about p", "button:text-is('Try it')"):
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
