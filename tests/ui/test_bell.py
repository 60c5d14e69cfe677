"""Being told: the browser's notifications, the address in the Review, and the test that is really sent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, expect

from conftest import App, wait_for_end, wait_until
from gemma_ft.config import ModelConfig, RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.notify import Notifier, announce_end
from gemma_ft.rundir import create_run
from gemma_ft.settings import Settings
from gemma_ft.ui.bell import OVERLAP_SECONDS, news
from gemma_ft.ui.services import Services
from gemma_ft.webhook import NotifyConfig
from letterbox import open_letterbox

BROKEN = RunConfig(name="broken", model=ModelConfig(id="/no/such/folder"))
SECRET = "very-secret-9c1f"
SLOW = 60_000
"""Milliseconds; a machine may be busy."""
RECORD = """
window.shown = [];
window.Notification = class extends window.Notification {
  constructor(title, options) { super(title, options); window.shown.push({ title, ...options }); }
};
"""
HIDE = """() => {
  Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
SHOWN = "() => window.shown.map((each) => each.title)"


def asks(response: Response) -> bool:
    """Tell whether this answers a question for ends."""
    return "component_server" in response.url and '"since"' in (response.request.post_data or "")


def asks_again(page: Page) -> None:
    """Let the page ask for ends twice more, as it does whenever it is hidden or shown: the first may be an old one."""
    for _ in range(2):
        with page.expect_response(asks, timeout=60_000):
            page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


@pytest.fixture
def belled(start_app: Callable[[], App], open_page: Callable[..., Page]) -> tuple[App, Page]:
    """A page on the Dashboard whose browser allows notifications and remembers them, with the bell switched on."""
    app = start_app()
    page = open_page(f"{app.url}/?tab=dashboard", permissions=["notifications"])
    page.add_init_script(RECORD)
    page.reload()
    page.locator("#bell-button").click()
    expect(page.locator("#bell-button")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(SHOWN) == ["You will be told here"]
    return app, page


@pytest.mark.browser
def test_a_run_on_the_screen_says_nothing_and_a_hidden_page_tells_of_its_end_once(belled: tuple[App, Page]) -> None:
    app, page = belled
    first = app.manager.start(BROKEN)
    expect(page.locator(".dash .pill")).to_have_text("failed", timeout=60_000)
    asks_again(page)
    assert page.evaluate(SHOWN) == ["You will be told here"]

    page.evaluate(HIDE)
    second = app.manager.start(BROKEN)
    error = wait_for_end(app.manager, second).error
    assert error is not None
    asks_again(page)
    page.wait_for_function("() => window.shown.length > 1", timeout=60_000)
    shown = page.evaluate("() => window.shown[1]")
    assert shown["title"] == f"broken failed: {error.title}"
    assert error.what_to_do in shown["body"]
    assert first.run_id not in shown["tag"]
    asks_again(page)
    assert len(page.evaluate(SHOWN)) == 2


@pytest.mark.browser
def test_the_end_of_another_run_and_an_alarm_are_told_also_on_another_tab_and_after_a_reload(
    belled: tuple[App, Page],
) -> None:
    app, page = belled
    first = app.manager.start(BROKEN)
    wait_for_end(app.manager, first)
    page.goto(f"{app.url}/?run={first.run_id}")
    expect(page.locator("#bell-button")).to_have_attribute("aria-pressed", "true", timeout=60_000)
    asks_again(page)
    second = app.manager.start(BROKEN)
    page.wait_for_function("() => window.shown.some((each) => each.title.startsWith('broken failed'))", timeout=60_000)
    page.get_by_role("tab", name="Create").click()
    Notifier(second, app.settings).send("attention", "broken needs attention: the disk is full", "Free 3 GB.")
    page.wait_for_function("() => window.shown.length === 2", timeout=60_000)
    assert page.evaluate(SHOWN)[1] == "broken needs attention: the disk is full"


@pytest.mark.browser
@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("delete window.Notification", "has no notifications"),
        ("Object.defineProperty(window, 'isSecureContext', { value: false })", "only for pages that came over https"),
        ("Notification.requestPermission = async () => 'denied'", "press again and choose Allow"),
        ("Object.defineProperty(Notification, 'permission', { value: 'denied' })", "blocks notifications"),
    ],
)
def test_a_browser_that_shows_none_is_said_so_with_what_works_instead(
    start_app: Callable[[], App], open_page: Callable[..., Page], before: str, said: str
) -> None:
    page = open_page(f"{start_app().url}/?tab=dashboard")
    page.add_init_script(before)
    page.reload()
    page.locator("#bell-button").click()
    expect(page.locator(".bell")).to_contain_text(said, timeout=SLOW)
    expect(page.locator("#bell-button")).to_have_attribute("aria-pressed", "false")


@pytest.mark.browser
@pytest.mark.train
def test_an_address_is_typed_tried_and_told_of_the_end_with_no_page_open(
    start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    app = start_app()
    page = open_page(app.url)
    with open_letterbox() as box:
        page.get_by_role("button", name="Try it", exact=True).click()
        expect(page.locator("#review-config")).to_contain_text("gemma-3-tiny", timeout=SLOW)
        page.get_by_text("Be told when it ends (optional)").click()
        page.locator("#notify-test-button").click()
        expect(page.locator("#notify-test-said")).to_contain_text("There is no address", timeout=SLOW)
        page.get_by_label("ntfy topic or webhook").fill(f"ftp://{SECRET}")
        expect(page.locator("#review-verdict")).to_contain_text("must begin with", timeout=SLOW)
        page.get_by_label("ntfy topic or webhook").fill(box.url)
        page.locator("#notify-test-button").click()
        expect(page.locator("#notify-test-said")).to_contain_text("200 (OK)", timeout=SLOW)
        assert [letter.json["title"] for letter in box.letters] == ["This is a test"]
        box.answers[:] = [404]
        page.locator("#notify-test-button").click()
        expect(page.locator("#notify-test-said")).to_contain_text("404 (Not Found)", timeout=SLOW)

        expect(page.locator("#review-config")).to_contain_text("notify.url is set; it is not shown", timeout=SLOW)
        expect(page.locator("#start-button")).to_be_enabled(timeout=SLOW)
        page.locator("#start-button").click()
        wait_until(lambda: app.manager.runs(), what="the run")
        page.close()
        (run,) = app.manager.runs()
        assert wait_for_end(app.manager, run).status == "finished"
        wait_until(lambda: len(box.letters) == 3, what="the notice")
        assert box.letters[2].json["event"] == "finished"
    files = [path for path in app.settings.home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == ["config.json"]


def test_a_browser_is_told_of_ends_and_alarms_since_it_asked_and_of_no_others(settings: Settings) -> None:
    manager = JobManager(settings)
    old, new, going = (create_run(settings.runs, BROKEN) for _ in range(3))
    now = old.state().created_at
    for run, ended in ((old, now - 2 * OVERLAP_SECONDS), (new, now + 5)):
        run.write_state(run.state().model_copy(update={"status": "finished", "ended_at": ended}))
    os.utime(old.state_file, (now - 3600, now - 3600))
    Notifier(going, settings).send("attention", "broken needs attention: it is hot", "Cool it.")
    assert news(manager, None, now=now)["notices"] == []
    told = news(manager, now, now=now + 10)
    assert told["active"]
    assert {(notice["run"], notice["occasion"]) for notice in told["notices"]} == {
        (new.run_id, "finished"),
        (going.run_id, "attention"),
    }
    later = news(manager, now + 3600, now=now + 3600)
    assert (later["active"], later["notices"]) == (False, [])


def test_an_end_is_announced_once_however_often_it_is_asked(settings: Settings) -> None:
    run = create_run(settings.runs, BROKEN)
    announce_end(run, settings)
    run.write_state(run.state().model_copy(update={"status": "failed", "ended_at": 1.0}))
    for _ in range(3):
        announce_end(run, settings)
    assert (run.path / "notices.jsonl").read_text().count('"notice"') == 1
    run.write_state(run.state().model_copy(update={"attempt": 2}))
    announce_end(run, settings)
    assert (run.path / "notices.jsonl").read_text().count('"notice"') == 2


def test_a_visitor_of_a_space_must_give_an_encrypted_address(tmp_path: Path) -> None:
    services = Services(Settings(home=tmp_path, on_space=True))
    services.admit(RunConfig(notify=NotifyConfig(url=f"https://example.org/{SECRET}")))
    with pytest.raises(ConfigError, match="https") as caught:
        services.admit(RunConfig(notify=NotifyConfig(url=f"http://example.org/{SECRET}")))
    assert not re.search(SECRET, str(caught.value))
