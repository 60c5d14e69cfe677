"""The Dashboard in a real browser: states, curves, log and machine of runs that the test writes as a trainer would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError

import pytest
from playwright.sync_api import Page, expect

from conftest import ROOT, App, answers, free_port, wait_until
from gemma_ft.errors import ErrorReport
from gemma_ft.jobs.devices import PROCESSOR, take
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.rundir import StopProgress
from gemma_ft.settings import Settings
from written_runs import STEP_SECONDS, TOKENS, WrittenRun

pytestmark = pytest.mark.browser

LAST = "() => window.gemmaDashboard?.curves.lastStep ?? 0"
DRAWN = "() => document.querySelector('#loss-chart')?.data?.[1]?.x?.length ?? 0"
RANGE = "() => document.querySelector('#loss-chart').layout.xaxis.range.map(Math.round)"
BUTTONS = ("stop", "cancel", "save", "sample", "leave", "resume", "playground", "continue")
SECONDS = 60_000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page, on one home for all tests of this module."""
    settings = Settings(home=tmp_path_factory.mktemp("dashboard"), port=free_port())
    environment = {**own_environment(), "GEMMA_FT_HOME": str(settings.home), "GRADIO_SERVER_PORT": str(settings.port)}
    with (settings.home / "app.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    found = App(settings, process)
    wait_until(lambda: process.poll() is not None or answers(found.url), what="the page to answer", timeout=120)
    yield found
    process.terminate()
    process.wait(20)


@pytest.fixture
def show(app: App, open_page: Callable[..., Page]) -> Callable[..., Page]:
    """A function that opens the Dashboard with a run and waits until its state is on the screen."""

    def show_run(run: WrittenRun, **context: Any) -> Page:
        page = open_page(f"{app.url}/?run={run.run.run_id}", **context)
        page.wait_for_function("() => window.gemmaDashboard?.view", timeout=SECONDS)
        return page

    return show_run


def new(app: App, **more: Any) -> WrittenRun:
    return WrittenRun(app.settings.home, **more).begin()


def figure(page: Page, key: str) -> Any:
    return page.locator(f'.kpis [data-key="{key}"]')


def test_each_state_has_one_truth_and_only_the_buttons_that_make_sense(app: App, show: Callable[..., Page]) -> None:
    home = app.settings.home
    device = take(app.settings.devices, [PROCESSOR], 1)  # or else the page would let the queued run begin
    assert device is not None
    error = ErrorReport(kind="memory", title="The GPU's memory is full", what_happened="8 rows.", what_to_do="Use 4.")
    due = time.time() + 300
    stop = StopProgress(wish="stop", next_rung_at=due)
    model = new(app).steps(30).state("finished")
    model.run.model.mkdir()
    states = {
        "preparing": (new(app).tell("phase", phase="tokenising", done=30, total=120).state("preparing"), "Preparing"),
        "training": (new(app).steps(250).state("training"), "Training"),
        "stopping": (
            new(app).steps(30).state("stopping", stop=stop),
            "Stopping",
        ),
        "finished": (model, "Finished: your model is ready"),
        "useless": (new(app).steps(30).state("finished"), "Finished, but there is no model"),
        "stopped": (new(app).steps(30).tell("checkpoint", step=30, path="x").state("stopped"), "Stopped"),
        "failed": (
            new(app).steps(30).state("failed", error=error, last_line="<b>boom</b>"),
            "The GPU's memory is full",
        ),
        "interrupted": (new(app).steps(30).state("interrupted"), "Interrupted"),
        "queued": (WrittenRun(home).state("queued", supervisor=None, created_at=due), "Waiting to start"),
    }
    buttons = {
        "preparing": {"stop", "cancel"},
        "training": {"stop", "cancel", "save", "sample"},
        "stopping": {"cancel"},
        "finished": {"playground", "continue"},
        "useless": set(),
        "stopped": {"resume"},
        "failed": {"resume"},
        "interrupted": {"resume"},
        "queued": {"leave"},
    }
    page = show(states["training"][0])
    for name, (written, headline) in states.items():
        page.locator("#run-choice").select_option(written.run.run_id)
        expect(page.locator(".headline")).to_have_text(headline)
        expect(page.locator(".pill")).to_have_text("finished" if name == "useless" else name)
        for button in BUTTONS:
            seen = expect(page.locator(f"#{button}-button"))
            seen.to_be_visible() if button in buttons[name] else seen.to_be_hidden()
        assert written.run.run_id in page.url
        if name == "preparing":
            expect(page.locator(".bar-label")).to_contain_text("Tokenising: 25 %")
        elif name == "training":
            expect(page.locator(".bar-label")).to_contain_text("Step 250 of 1,000 · 25 % · epoch 0.75")
        elif name == "stopping":
            expect(page.locator(".detail")).to_contain_text(re.compile(r"longer than 4 min \d\d s"))
        elif name == "stopped":
            expect(page.locator(".detail")).to_contain_text("The last checkpoint is of step 30.")
        elif name == "failed":
            card = page.get_by_role("alert")
            expect(card).to_contain_text("What to do: Use 4.")
            card.get_by_text("Details").click()
            expect(card.locator("pre")).to_have_text("<b>boom</b>")
    waiting = states["queued"][0].run
    app.manager.stop(waiting.run_id)
    wait_until(lambda: app.manager.state(waiting).status == "stopped", what="the run to leave the line")
    device.release()


def test_every_figure_agrees_with_what_the_facts_say(app: App, show: Callable[..., Page]) -> None:
    run = new(app).machine(20).steps(600, eval_every=100).state("training")
    facts = [json.loads(line) for line in run.run.events.read_text().splitlines()]
    steps = [fact for fact in facts if fact["event"] == "step"]
    evals = [fact for fact in facts if fact["event"] == "eval"]
    page = show(run)
    best = min(evals, key=lambda fact: fact["loss"])
    said = {
        "parameters": "1.0 B",
        "trained": "13.0 M · 1.3 %",
        "layers": "26",
        "context": "32.8 k",
        "precision": "bfloat16",
        "memory": "14 GB",
        "step": "600 / 1,000",
        "percent": "60 %",
        "epoch": "1.80",
        "loss": f"{steps[-1]['loss']:.4f}",
        "held_out": f"{evals[-1]['loss']:.4f}",
        "best": f"{best['loss']:.4f} · step {best['step']}",
        "steps_per_second": f"{1 / STEP_SECONDS:.2f}",
        "tokens_per_second": f"{TOKENS / STEP_SECONDS:,.0f}",
        "rows_per_second": f"{(3 / 1000) * 135 / STEP_SECONDS:.3f}",
        "tokens": f"{steps[-1]['tokens'] / 1e3:.1f} k",
        "gradient": f"{steps[-1]['grad_norm']:.3f}",
        "step_mean": "500 ms",
        "step_p95": "500 ms",
        "evaluation": "1.20 s × 6",
        "price": "–",
    }
    for key, text in said.items():
        expect(figure(page, key)).to_have_text(text)
    # 400 steps are left, with an evaluation after each hundred so far; the facts end in the past or the near future.
    shown = page.evaluate("() => window.gemmaDashboard.view.clock")
    assert shown["ends_at"] - run.now == pytest.approx(400 * STEP_SECONDS + 400 * 1.25 * 6 / 599, rel=0.02)
    # Four times the weights that work on a token (the base is frozen), and attention, at the L4's 121 tera-operations.
    percent = float(figure(page, "utilisation").inner_text().removesuffix(" %"))
    assert percent == pytest.approx(100 * 4 * 1e9 * TOKENS / STEP_SECONDS / 121e12, rel=0.15)
    assert all(page.locator(".kpi").evaluate_all("nodes => nodes.map(node => node.title.length > 10)"))


def test_the_zoom_stays_through_ten_ticks_and_shows_the_stretch_in_detail(app: App, show: Callable[..., Page]) -> None:
    run = new(app, max_steps=8000).steps(4000, spike=2222).state("training")
    page = show(run)
    page.wait_for_function(f"({DRAWN})() > 100", timeout=SECONDS)
    peaks = page.evaluate("() => Math.max(...window.gemmaDashboard.curves.outline('loss')[1])")
    assert peaks == 50.0
    page.evaluate("() => Plotly.relayout('loss-chart', {'xaxis.range[0]': 2200, 'xaxis.range[1]': 2250})")
    page.wait_for_function("() => window.gemmaDashboard.curves.detail", timeout=SECONDS)
    near = "() => document.querySelector('#loss-chart').data[0].x.filter((x) => x >= 2200 && x <= 2250).length"
    page.wait_for_function(f"({near})() === 51", timeout=SECONDS)
    for _ in range(10):
        seen = page.evaluate(LAST)
        run.steps(3)
        page.wait_for_function(f"({LAST})() > {seen}", timeout=SECONDS)
        drawn = "() => document.querySelector('#loss-chart').data[0].x.at(-1)"
        page.wait_for_function(f"({drawn})() === {run.step}", timeout=SECONDS)
        assert page.evaluate(RANGE) == [2200, 2250]
    assert page.evaluate(f"({near})()") == 51
    assert page.evaluate("() => Math.max(...document.querySelector('#loss-chart').data.map((d) => d.x.length))") <= 1600


def test_a_page_that_nobody_sees_asks_nothing_and_misses_nothing(app: App, show: Callable[..., Page]) -> None:
    run = new(app).steps(50).state("training")
    page = show(run)
    page.wait_for_function(f"({LAST})() === 50", timeout=SECONDS)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "component_server" in request.url else None)
    hide = "(state) => { Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });"
    page.evaluate(f"{hide} document.dispatchEvent(new Event('visibilitychange')); }}", "hidden")
    page.wait_for_function("() => !window.gemmaDashboard.asking")
    asked.clear()
    run.steps(30)
    page.wait_for_timeout(2500)
    assert asked == []
    page.evaluate(f"{hide} document.dispatchEvent(new Event('visibilitychange')); }}", "visible")
    page.wait_for_function(f"({LAST})() === 80", timeout=SECONDS)
    page.get_by_role("tab", name="Create").click()
    page.wait_for_function("() => !window.gemmaDashboard.asking")
    asked.clear()
    run.steps(20)
    page.wait_for_timeout(1500)
    assert asked == []
    page.get_by_role("tab", name="Dashboard").click()
    page.wait_for_function(f"({LAST})() === 100", timeout=SECONDS)
    assert page.evaluate("() => window.gemmaDashboard.curves.axis.step") == list(range(1, 101))


def test_two_browsers_agree_and_an_answer_without_news_is_tiny(app: App, show: Callable[..., Page]) -> None:
    run = new(app).steps(120).state("training")
    pages = [show(run), show(run)]
    run.steps(30)
    for page in pages:
        page.wait_for_function(f"({LAST})() === 150", timeout=SECONDS)
        expect(figure(page, "step")).to_have_text("150 / 1,000")
    curves = [page.evaluate("() => JSON.stringify([...window.gemmaDashboard.curves.curves])") for page in pages]
    assert curves[0] == curves[1]
    run.state("stopped")
    for page in pages:
        expect(page.locator(".pill")).to_have_text("stopped")
    texts = [page.locator(".kpis").inner_text() for page in pages]
    assert texts[0] == texts[1]
    page = pages[0]
    page.evaluate("() => window.scrollTo(0, 0)")  # away from the machine, of which there is always news
    with page.expect_response(lambda response: "component_server" in response.url and len(response.body()) < 20) as got:
        pass
    assert got.value.json() == {"same": True}


def test_a_hostile_log_is_harmless(app: App, show: Callable[..., Page]) -> None:
    run = new(app).state("training")
    with run.run.log.open("ab") as file:
        file.write(b"<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{x}}\n")
        file.write(b"\x1b[31mred\x1b[0m \xff\xfe\n" + b"y" * 2**20 + b"\n")
        file.write(b"12:00:00 INFO no error at all\n\r10%|#\r55%|##")
    page = show(run)
    log = page.get_by_role("log", name="Log")
    expect(log).to_contain_text("<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{x}}")
    expect(log).to_contain_text("red \ufffd\ufffd")
    expect(log).to_contain_text("the whole line is in the file")
    expect(log.locator(".open")).to_have_text("55%|##")
    expect(page.locator("button.count.error")).to_have_text("0 errors")
    assert page.title() != "owned"
    assert log.locator("img").count() == 0
    with run.run.log.open("ab") as file:
        file.write(b"\r100%|###\nCRITICAL: it broke\n")
    expect(page.locator("button.count.error")).to_have_text("1 error")
    expect(log).to_contain_text("100%|###")
    expect(log).not_to_contain_text("55%")


def test_the_log_has_sections_levels_a_search_and_the_whole_file(app: App, show: Callable[..., Page]) -> None:
    error = ErrorReport(kind="x", title="It failed", what_happened="So it is.", what_to_do="Nothing.")
    run = new(app, max_steps=3000).steps(2500).log(
        "12:00:04 WARNING careful", "12:00:05 ERROR The training failed", "Traceback (most recent call last):",
        '  File "a.py", line 1', "ValueError: the needle", *(f"12:00:06 INFO later {n}" for n in range(100)),
    ).state("failed", error=error)  # fmt: skip
    page = show(run)
    log = page.get_by_role("log", name="Log")
    expect(log.locator("summary")).to_have_text(["Training"])
    expect(log.locator(".line:not(.open)")).to_have_count(2000)
    log.scroll_into_view_if_needed()
    expect(log.get_by_text("The training failed")).to_be_in_viewport(timeout=SECONDS)
    page.locator("button.count.error").click()
    expect(log.locator(".line:visible")).to_have_count(4)
    page.get_by_label("Level").select_option("info")
    page.get_by_label("Search in the log").fill("NEEDLE")
    expect(page.locator(".hits")).to_have_text("1 found")
    expect(log.locator("mark")).to_have_text("needle")
    expect(log.locator(".line:visible")).to_have_count(1)
    page.get_by_label("Search in the log").fill("")
    log.locator("summary").click()
    expect(log.locator(".line:visible")).to_have_count(0)
    with page.expect_download() as got:
        page.get_by_role("link", name="Download").click()
    assert got.value.suggested_filename == f"{run.run.run_id}.log"
    assert got.value.path().read_bytes() == run.run.log.read_bytes()


def test_nothing_but_a_runs_log_can_be_downloaded(app: App) -> None:
    for name in ("..%2f..%2fapp.log", "nothing", "..", "x%00"):
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{app.url}/gemma_ft/log/{name}", timeout=20)
        assert refused.value.code == 404


def test_the_chart_library_is_kept_for_ever_and_our_scripts_are_asked_for_again(app: App) -> None:
    from gemma_ft.ui.served import PLOTLY_ADDRESS

    with urllib.request.urlopen(f"{app.url}/{PLOTLY_ADDRESS}", timeout=20) as response:
        assert "immutable" in response.headers["Cache-Control"]
        assert len(response.read()) > 1_000_000
    with urllib.request.urlopen(f"{app.url}/gemma_ft/charts.js", timeout=20) as response:
        assert response.headers["Cache-Control"] == "no-cache"


def test_curves_over_time_and_tokens_alerts_and_other_runs(app: App, show: Callable[..., Page]) -> None:
    other = new(app, seed=2).steps(400, eval_every=100).state("finished")
    run = new(app).steps(300, eval_every=100).machine(150).state("training")
    alert = {"t": run.now, "rule": "spike", "severity": "warning", "title": "The loss <b>jumped</b>", "step": 200}
    alerts = run.run.path / "alerts.jsonl"
    alerts.write_text(json.dumps({**alert, "advice": "Lower the learning rate.", "active": True}) + "\n")
    page = show(run)
    page.wait_for_function(f"({DRAWN})() === 300", timeout=SECONDS)
    banner = page.locator(".alert-banners .alert")
    expect(banner).to_contain_text("The loss <b>jumped</b> Lower the learning rate.")
    texts = page.evaluate("() => document.querySelector('#loss-chart').data.find((d) => d.name === 'marks').text")
    assert texts == ["checkpoint"] * 3 + ["The loss &lt;b>jumped&lt;/b>"]
    with alerts.open("a") as file:
        file.write(json.dumps({**alert, "active": False}) + "\n")
    expect(banner).to_have_count(0)
    expect(page.locator(".alerts summary")).to_have_text("Alerts: 1")

    first = "() => document.querySelector('#loss-chart').data[1].x"
    page.locator(".segments").get_by_text("Tokens").click()
    page.wait_for_function(f"({first})().at(-1) === {300 * TOKENS}", timeout=SECONDS)
    page.locator(".segments").get_by_text("Time").click()
    page.wait_for_function(f"Math.abs(({first})().at(-1) - 300 * {STEP_SECONDS} - 2 * 1.25) < 0.1", timeout=SECONDS)
    page.get_by_label("Log scale").check()
    page.wait_for_function("() => document.querySelector('#loss-chart').layout.yaxis.type === 'log'", timeout=SECONDS)
    page.get_by_text("Compare", exact=True).click()
    page.get_by_label(other.run.run_id).check()
    names = "() => document.querySelector('#loss-chart').data.map((d) => d.name)"
    page.wait_for_function(f"({names})().includes('capitals, held-out')", timeout=SECONDS)
    page.get_by_label("Machine", exact=True).scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('#machine-gpu-use-chart')?.data?.[0].x.length > 100")
    expect(page.locator(".gauges")).to_contain_text("60 °C")


def test_this_machine_is_shown_also_when_nothing_trains(app: App, open_page: Callable[..., Page]) -> None:
    page = open_page(f"{app.url}/?run=no-such-run")
    expect(page.locator(".dash-empty")).to_have_text("There is no run no-such-run.")
    expect(page.locator(".gauges")).to_contain_text("Processor")
    expect(page.locator(".gauges")).to_contain_text(re.compile(r"\d GB of \d+"))


@pytest.mark.slow
def test_a_run_of_a_million_steps_is_browsed_smoothly(app: App, show: Callable[..., Page]) -> None:
    run = new(app, max_steps=2_000_000).steps(1_000_000, spike=765_432).machine(100_000).state("training")
    page = show(run)
    page.wait_for_function(f"({DRAWN})() > 100", timeout=SECONDS)
    page.evaluate("() => Plotly.relayout('loss-chart', {'xaxis.range[0]': 765000, 'xaxis.range[1]': 766000})")
    near = "() => document.querySelector('#loss-chart').data[0].y.includes(50)"
    page.wait_for_function(f"({near})()", timeout=SECONDS)
    sizes: list[int] = []
    page.on("response", lambda r: sizes.append(len(r.body())) if "component_server" in r.url else None)
    for _ in range(10):
        run.steps(3)
        page.wait_for_function(f"({LAST})() === {run.step}", timeout=SECONDS)
    assert max(sizes) < 2500
    page.get_by_label("Machine", exact=True).scroll_into_view_if_needed()
    page.wait_for_function(
        "() => document.querySelector('#machine-cpu-chart')?.data?.[0].x.length > 300", timeout=SECONDS
    )
