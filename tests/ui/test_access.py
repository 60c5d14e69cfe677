"""Requests that a browser makes for pages of other sites are refused; the page's own and those of programs are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from playwright.sync_api import Browser

from conftest import App, answers, free_port, wait_until
from gemma_ft.settings import Settings
from served import served

SPACE = "someone-tunes.hf.space"
EVIL = "https://evil.example"
PATHS = ("", "config", "gradio_api/info", "tensorboard/data/environment", "gemma_ft/app.css")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with served(Settings(home=tmp_path_factory.mktemp("home"), port=free_port())) as page:
        yield page


def status(app: App, path: str = "config", method: str = "GET", **headers: str) -> int:
    """Ask with headers as given; `_` stands for `-`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, f"{app.url}/{path}", headers=given, timeout=60).status_code


@pytest.mark.parametrize("path", PATHS)
def test_another_origin_is_refused_on_a_space_and_elsewhere(app: App, path: str) -> None:
    assert status(app, path) == 200
    assert status(app, path, host=SPACE, origin=EVIL) == 403
    assert status(app, path, origin=EVIL) == 403
    assert status(app, path, origin="null") == 403


def test_another_origin_cannot_call_the_api(app: App) -> None:
    body = {"data": []}
    url = f"{app.url}/gradio_api/call/runs"
    for headers in ({"origin": EVIL, "host": SPACE}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
        assert httpx.post(url, json=body, headers=headers).status_code == 403
    assert httpx.post(url, json=body, headers={"origin": app.url}).status_code == 200


def test_the_pages_own_requests_pass_also_behind_a_proxy(app: App) -> None:
    assert status(app, origin=app.url) == 200
    assert status(app, host=SPACE, origin=f"https://{SPACE}") == 200
    assert status(app, host=f"{SPACE}:443", origin=f"https://{SPACE.upper()}") == 200
    assert status(app, origin=f"https://{SPACE}", x_forwarded_host=SPACE) == 200
    assert status(app, origin=f"https://{SPACE}", x_forwarded_host=f"inner:80, {SPACE}") == 200
    assert status(app, origin=f"https://{SPACE}", sec_fetch_site="same-origin") == 200


def test_another_port_of_this_machine_is_another_site(app: App) -> None:
    assert status(app, origin=f"http://127.0.0.1:{app.settings.port + 1}") == 403
    assert status(app, origin="http://127.0.0.1") == 403


def test_a_header_that_a_script_can_set_opens_nothing(app: App) -> None:
    assert status(app, origin=EVIL, x_forwarded_host="evil.example", sec_fetch_site="cross-site") == 403
    assert status(app, origin="http://evil.example", x_forwarded_host="evil.example", host="192.168.1.9:7860") == 403


def test_a_link_from_another_site_can_be_followed_but_a_form_cannot_be_sent(app: App) -> None:
    assert status(app, "", sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 200
    assert status(app, "login", "POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 403


def test_an_origin_that_is_none_is_refused(app: App) -> None:
    for nonsense in ("http://[", "http://host:port", "//", "file://", "x" * 5000):
        assert status(app, origin=nonsense) == 403, nonsense


def test_programs_are_not_asked_where_they_come_from(app: App) -> None:
    assert Client(app.url, verbose=False).predict(api_name="/runs") == []


@pytest.mark.browser
def test_a_page_of_another_site_cannot_reach_this_one(app: App, browser: Browser, tmp_path: Path) -> None:
    """In a real browser: the other page is at another port, which is another origin."""
    (tmp_path / "index.html").write_text("<title>other</title>")
    other = free_port()
    command = [sys.executable, "-m", "http.server", str(other), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(f"http://localhost:{other}"), what="the other page")
        page = browser.new_context().new_page()
        page.goto(f"http://localhost:{other}")
        with page.expect_response(lambda response: "gradio_api" in response.url) as seen:
            page.evaluate(
                "(url) => fetch(url, {method: 'POST', mode: 'no-cors', body: '{\"data\": []}'}).catch(() => null)",
                f"{app.url}/gradio_api/call/runs",
            )
        assert seen.value.status == 403
        page.context.close()
    finally:
        server.terminate()
        server.wait(20)
