"""TensorBoard in the page: a real run in the browser, behind the login, and harmless when anything is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from conftest import App, answers, free_port, wait_until
from gemma_ft import recipes
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings
from served import served

SECONDS = 60_000
CURVES = "tensorboard/data/plugin/scalars/scalars"
TAGS = "tensorboard/data/plugin/scalars/tags"
WITH_LOGIN = """
from gemma_ft.settings import Settings
from gemma_ft.ui.page import build_page, launch_options
from gemma_ft.ui.services import Services

services = Services(Settings.from_env())
build_page(services).launch(**launch_options(services), auth=("ada", "lovelace"))
"""
WITHOUT = """
import sys
sys.modules[{name!r}] = None
import app
app.main()
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """A function that serves the page with a small program; see `served`."""
    with ExitStack() as stack:
        settings = Settings(home=tmp_path / "home", port=free_port())
        yield lambda *code, **environment: stack.enter_context(served(settings, *code, **environment))


def ended_run(settings: Settings) -> RunDir:
    """Make a run that is over: the page would see to it that one which waits is trained."""
    run = create_run(settings.runs, recipes.try_it())
    run.write_state(run.state().model_copy(update={"status": "finished"}))
    return run


def new_run(settings: Settings, values: tuple[float, ...] = (3.0, 2.0, 1.0)) -> RunDir:
    """Make a run with one curve, written by TensorBoard's own writer in a process of its own."""
    run = ended_run(settings)
    code = (
        "import sys, json\n"
        "from torch.utils.tensorboard import SummaryWriter\n"
        "with SummaryWriter(sys.argv[1]) as writer:\n"
        "    for step, value in enumerate(json.loads(sys.argv[2])):\n"
        "        writer.add_scalar('train/loss', value, step)\n"
    )
    command = [sys.executable, "-c", code, str(run.tensorboard), json.dumps(values)]
    subprocess.run(command, check=True, env=own_environment(), timeout=120)
    return run


def client(app: App) -> httpx.Client:
    return httpx.Client(base_url=app.url, timeout=60)


def curves(web: httpx.Client, run: RunDir) -> list[float]:
    """Return the values of a run's loss as TensorBoard tells them."""
    answer = web.get(CURVES, params={"run": run.run_id, "tag": "train/loss"})
    return [point[2] for point in answer.json()] if answer.status_code == 200 else []


def shown_runs(web: httpx.Client) -> set[str]:
    return set(web.get(TAGS).raise_for_status().json())


def children_of(app: App) -> list[psutil.Process]:
    return [child for child in psutil.Process(app.process.pid).children() if child.name() == "server"]


@pytest.mark.browser
@pytest.mark.train
def test_the_tab_shows_the_scalars_of_the_run_on_the_screen(
    tuned_settings: Settings, start_app: Callable[..., App], open_page: Callable[..., Page]
) -> None:
    app = start_app(tuned_settings)
    run = app.manager.runs()[0]
    page = open_page(f"{app.url}/?run={run.run_id}")
    expect(page.locator(".dash .pill")).to_have_text("finished", timeout=SECONDS)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("tab", name="TensorBoard").click()
    frame = page.frame_locator("iframe[title=TensorBoard]")
    frame.get_by_role("combobox", name="Filter tags (regex)").fill("^train/loss$", timeout=SECONDS)
    expect(frame.locator("card-view", has_text=run.run_id).first).to_contain_text("loss", timeout=SECONDS)
    expect(frame.get_by_role("textbox", name="Filter runs (regex)")).to_have_value(f"^{run.run_id}$")
    assert any("/tensorboard/" in url for url in asked)
    told = curves(client(app), run)
    facts = [json.loads(line) for line in run.events.read_text().splitlines()]
    losses = [fact["loss"] for fact in facts if fact["event"] == "step"]
    assert told == pytest.approx(losses, abs=1e-3)


@pytest.mark.browser
def test_nothing_of_it_is_loaded_before_the_tab_is_opened_nor_again_when_one_comes_back(
    serve: Callable[..., App], open_page: Callable[..., Page]
) -> None:
    app = serve()
    run = new_run(app.settings)
    page = open_page(f"{app.url}/?tab=dashboard")
    expect(page.locator("#shown-run textarea, #shown-run input").first).to_have_value(run.run_id, timeout=SECONDS)
    assert page.locator("iframe").count() == 0
    assert children_of(app) == []
    page.get_by_role("tab", name="TensorBoard").click()
    frame = page.frame_locator("iframe[title=TensorBoard]")
    expect(frame.locator("card-view").first).to_be_visible(timeout=SECONDS)
    frame.locator("body").evaluate("() => { window.marked = true; }")
    page.get_by_role("tab", name="Curves").click()
    expect(frame.locator("body")).to_be_hidden()
    with page.expect_response(lambda response: "gradio_api" in response.url):
        page.get_by_role("tab", name="TensorBoard").click()
    expect(frame.locator("card-view").first).to_be_visible()
    assert frame.locator("body").evaluate("() => window.marked")


@pytest.mark.browser
def test_it_works_in_a_page_that_is_itself_in_a_frame_of_another_site(
    serve: Callable[..., App], browser: Browser, tmp_path: Path
) -> None:
    app = serve()
    new_run(app.settings)
    outer = free_port()
    (tmp_path / "outer").mkdir()
    inner = f"http://127.0.0.1:{app.settings.port}/?tab=dashboard"
    (tmp_path / "outer/index.html").write_text(f'<iframe src="{inner}" width="1200" height="850"></iframe>')
    (tmp_path / "outer/favicon.ico").write_bytes(b"")
    command = [sys.executable, "-m", "http.server", str(outer), "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, cwd=tmp_path / "outer", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(f"http://localhost:{outer}"), what="the outer page")
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.goto(f"http://localhost:{outer}/")
        space = page.frame_locator("iframe").first
        space.get_by_role("tab", name="TensorBoard").click()
        board = space.frame_locator("iframe[title=TensorBoard]")
        expect(board.locator("card-view").first).to_be_visible(timeout=SECONDS)
        page.context.close()
    finally:
        server.terminate()
        server.wait(20)


def test_it_is_refused_without_login_and_open_after_it(serve: Callable[..., App]) -> None:
    app = serve(WITH_LOGIN)
    run = new_run(app.settings)
    with client(app) as web:
        for path in ("tensorboard/", CURVES, TAGS, "tensorboard/index.js", "tensorboard/data/logdir"):
            refused = web.get(path)
            assert refused.status_code == 401, path
            assert run.run_id not in refused.text
        assert web.post("login", data={"username": "ada", "password": "wrong"}).status_code == 400
        assert web.get("tensorboard/").status_code == 401
        web.cookies.set("access-token-made-up", "x")
        assert web.get("tensorboard/").status_code == 401
        assert children_of(app) == []

        web.post("login", data={"username": "ada", "password": "lovelace"}).raise_for_status()
        assert "<title>TensorBoard</title>" in web.get("tensorboard/").raise_for_status().text
        wait_until(lambda: curves(web, run) == [3.0, 2.0, 1.0], what="the curve")
        web.get("logout")
        assert web.get("tensorboard/").status_code == 401


def test_runs_that_come_and_go_are_followed(serve: Callable[..., App]) -> None:
    app = serve()
    first = new_run(app.settings)
    with client(app) as web:
        wait_until(lambda: shown_runs(web) == {first.run_id}, what="the first run")
        second = new_run(app.settings, (9.0,))
        wait_until(lambda: curves(web, second) == [9.0], what="the second run")
        assert shown_runs(web) == {first.run_id, second.run_id}


def test_damaged_event_files_and_links_out_of_the_runs_harm_nothing(serve: Callable[..., App], tmp_path: Path) -> None:
    app = serve()
    good = new_run(app.settings)
    outside = new_run(Settings(home=tmp_path / "elsewhere"), (666.0,))
    damaged = ended_run(app.settings)
    damaged.tensorboard.mkdir()
    (damaged.tensorboard / "events.out.tfevents.1.host.1.0").write_bytes(os.urandom(10_000))
    cut = new_run(app.settings)
    (file,) = cut.tensorboard.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    linking = ended_run(app.settings)
    linking.tensorboard.symlink_to(outside.tensorboard)
    (app.settings.runs / outside.run_id).symlink_to(outside.path)
    with client(app) as web:
        wait_until(lambda: curves(web, good) == [3.0, 2.0, 1.0], what="the curve")
        wait_until(lambda: curves(web, cut) == [3.0, 2.0], what="what was whole of the file that was cut")
        assert shown_runs(web) <= {good.run_id, cut.run_id, damaged.run_id}
        for escape in ("../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "data/../../app.py"):
            answer = web.get(f"tensorboard/{escape}")
            assert "root:" not in answer.text
            assert answer.status_code in (301, 302, 307, 400, 404), escape


def test_it_stays_under_its_prefix_when_the_page_has_one(serve: Callable[..., App]) -> None:
    app = serve(GRADIO_ROOT_PATH="/gemma")
    run = new_run(app.settings)
    with client(app) as web:
        assert web.get("tensorboard").headers["location"] == "tensorboard/"
        assert web.get("font-roboto/a.woff2").headers["location"] == "../tensorboard/font-roboto/a.woff2"
        wait_until(lambda: curves(web, run) == [3.0, 2.0, 1.0], what="the curve")


@pytest.mark.parametrize(("name", "said"), [("tensorboard", "not installed"), ("a2wsgi", "not installed")])
def test_a_missing_tensorboard_is_a_sentence(serve: Callable[..., App], name: str, said: str) -> None:
    app = serve(WITHOUT.format(name=name))
    with client(app) as web:
        answer = web.get("tensorboard/")
        assert answer.status_code == 503
        assert said in answer.text
        assert "Traceback" not in answer.text
        assert web.get("healthz").status_code == 200


def test_without_the_data_server_it_reads_by_itself(serve: Callable[..., App]) -> None:
    app = serve(WITHOUT.format(name="tensorboard_data_server"))
    run = new_run(app.settings)
    with client(app) as web:
        wait_until(lambda: curves(web, run) == [3.0, 2.0, 1.0], what="the curve")
        assert children_of(app) == []


def test_a_data_server_that_dies_is_a_sentence_and_the_next_request_brings_a_new_one(serve: Callable[..., App]) -> None:
    app = serve()
    run = new_run(app.settings)
    with client(app) as web:
        wait_until(lambda: curves(web, run) == [3.0, 2.0, 1.0], what="the curve")
        (server,) = children_of(app)
        server.kill()
        answer = web.get(TAGS)
        assert answer.status_code == 503
        assert "Traceback" not in answer.text
        wait_until(lambda: curves(web, run) == [3.0, 2.0, 1.0], what="the curve again")
        (again,) = [child for child in children_of(app) if child.status() != psutil.STATUS_ZOMBIE]
        assert again.pid != server.pid


def test_the_data_server_ends_with_the_page(serve: Callable[..., App]) -> None:
    app = serve()
    with client(app) as web:
        web.get("tensorboard/").raise_for_status()
    (server,) = children_of(app)
    app.kill()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, what="its end")


def test_only_methods_that_read_are_taken(serve: Callable[..., App]) -> None:
    app = serve()
    with client(app) as web:
        for method in ("PUT", "DELETE", "PATCH"):
            assert web.request(method, "tensorboard/").status_code == 405


def test_many_first_requests_at_once_make_one(serve: Callable[..., App]) -> None:
    app = serve()

    def ask(_: Any) -> int:
        with client(app) as web:
            return web.get("tensorboard/data/environment").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {200}
    assert len(children_of(app)) == 1
