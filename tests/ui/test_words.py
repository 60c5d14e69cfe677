"""What a person reads, and what a browser is sent: pure functions, no page needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemma_ft import recipes
from gemma_ft.config import knobs, parse_config
from gemma_ft.errors import ConfigError, ErrorReport
from gemma_ft.events import FactWriter
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.log import read_log
from gemma_ft.monitor.summary import last_step
from gemma_ft.rundir import RunState, StopProgress
from gemma_ft.settings import Settings
from gemma_ft.ui.actions import possible
from gemma_ft.ui.form import LEFT_OUT, Form
from gemma_ft.ui.model_step import describe_model
from gemma_ft.ui.present import count, duration, escape, rate, seconds, view
from gemma_ft.ui.review_step import check_values, plan_values
from gemma_ft.ui.services import Services


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0, "0 s"),
        (59.4, "59 s"),
        (61, "1 min 01 s"),
        (3600, "1 h 00 min"),
        (86_400 * 2 + 3700, "2 d 1 h"),
        (float("inf"), "–"),
    ],
)
def test_time_spans(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(None, "–"), (0, "0"), (950, "950"), (180_224, "180.2 k"), (1.2e6, "1.2 M"), (27.432e9, "27.4 B")],
)
def test_large_numbers(number: float | None, said: str) -> None:
    assert count(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(None, "–"), (0.01234, "0.012"), (4.567, "4.57"), (45.67, "45.7"), (1234.5, "1,234"), (98_765.0, "98.8 k")],
)
def test_rates(number: float | None, said: str) -> None:
    assert rate(number) == said


@pytest.mark.parametrize(
    ("number", "said"), [(None, "–"), (0.0123, "12 ms"), (3.214, "3.21 s"), (32.14, "32.1 s"), (125, "2 min 05 s")]
)
def test_short_times(number: float | None, said: str) -> None:
    assert seconds(number) == said


ABOUT = {"name": "capitals", "model": "demo/gemma-3-tiny"}


def facts_of(tmp_path: Path, steps: int, *, pace: float = 1.0, max_steps: int = 100) -> RunFacts:
    writer = FactWriter(tmp_path / "events.jsonl")
    writer.append("phase", phase="training", step=0, max_steps=max_steps)
    for n in range(1, steps + 1):
        writer.append("step", step=n, max_steps=max_steps, loss=1 / n, seconds=pace * n)
    writer.close()
    return RunFacts(tmp_path / "events.jsonl").refresh()


STATES: list[tuple[dict[str, Any], str, set[str]]] = [
    ({"status": "queued"}, "Waiting", {"leave"}),
    ({"status": "preparing", "phase": "loading"}, "Preparing", {"stop", "cancel"}),
    ({"status": "training", "phase": "training"}, "Training", {"stop", "cancel", "save", "sample"}),
    ({"status": "stopping", "stop": StopProgress(wish="stop", next_rung_at=50)}, "Stopping", {"cancel"}),
    ({"status": "stopping", "stop": StopProgress(wish="shutdown", next_rung_at=50)}, "Stopping", {"cancel"}),
    ({"status": "stopping", "stop": StopProgress(wish="cancel", next_rung_at=50)}, "Stopping", set()),
    ({"status": "finished"}, "Finished", {"chat", "continue"}),
    ({"status": "stopped"}, "Stopped", {"resume"}),
    ({"status": "interrupted"}, "Interrupted", {"resume"}),
    (
        {
            "status": "failed",
            "error": ErrorReport(kind="x", title="The disk is full", what_happened="a", what_to_do="b"),
        },
        "The disk is full",
        {"resume"},
    ),
]


def in_words(value: Any) -> str:
    """The same in each process: sets have no order."""
    return str(sorted(value) if isinstance(value, set) else value)[:40]


@pytest.mark.parametrize(("state", "headline", "buttons"), STATES, ids=in_words)
def test_each_state_has_one_headline_and_only_the_buttons_that_make_sense(
    tmp_path: Path, state: dict[str, Any], headline: str, buttons: set[str]
) -> None:
    told = RunState(created_at=0, heartbeat=40, **state)
    shown = view(ABOUT, told, facts_of(tmp_path, 3), has_model=True, now=42.0)
    assert shown["headline"].startswith(headline)
    can = possible(told, has_model=True, asks=True, place=None, waiting=0, in_control=True)
    assert set(can) == buttons


def test_a_finished_run_without_a_model_says_so(tmp_path: Path) -> None:
    state = RunState(created_at=0, status="finished")
    shown = view(ABOUT, state, facts_of(tmp_path, 3), has_model=False, now=1)
    assert "no model" in shown["headline"]
    assert possible(state, has_model=False, asks=True, place=None, waiting=0, in_control=True) == []


@pytest.mark.parametrize(("now", "silent"), [(62.0, False), (64.0, True)])
def test_a_training_that_says_nothing_for_long_is_said_to_be_silent(tmp_path: Path, now: float, silent: bool) -> None:
    facts = facts_of(tmp_path, 3, pace=1.0)
    facts.newest = 2.0
    state = RunState(created_at=0, status="training", phase="training", heartbeat=now)
    assert ("No sign of life" in view(ABOUT, state, facts, has_model=False, now=now)["detail"]) == silent


def test_a_training_that_reports_every_hundredth_step_may_be_silent_for_longer(tmp_path: Path) -> None:
    writer = FactWriter(tmp_path / "events.jsonl")
    writer.append("phase", phase="training", step=0, max_steps=1000)
    for n in (100, 200, 300):
        writer.append("step", step=n, max_steps=1000, loss=1.0, seconds=1.0 * n, duration=1.0)
    writer.close()
    facts = RunFacts(tmp_path / "events.jsonl").refresh()
    facts.newest = 0.0
    state = RunState(created_at=0, status="training", phase="training")
    said = [view(ABOUT, state, facts, has_model=False, now=now)["detail"] for now in (290.0, 310.0)]
    assert ["No sign of life" in detail for detail in said] == [False, True]


def test_text_for_markdown_carries_no_markup() -> None:
    hostile = "<script>alert(1)</script> [x](javascript:1) **b** `c`"
    assert "<script" not in escape(hostile)
    assert "\\[x\\]" in escape(hostile)


def test_a_config_fills_the_form_and_the_form_gives_it_back() -> None:
    form = Form()
    config = recipes.try_it()
    assert parse_config(form.values(form.show(config))) == config
    assert set(form.inputs) | LEFT_OUT == {path for path, _ in knobs()}


def test_every_input_has_a_visible_label_and_help() -> None:
    for path, component in Form().inputs.items():
        assert component.label, path
        assert component.info, path


def test_the_review_shows_the_whole_configuration_or_what_is_wrong(settings: Settings) -> None:
    services = Services(settings)
    form = Form()
    values = form.values(form.show(recipes.try_it()))
    _, whole, report = check_values(services, values, "")
    verdict, fit, doctor, whole_report = plan_values(services, values, report, "")
    assert "Ready to start" in verdict
    assert parse_config(values).to_yaml() == whole
    assert whole_report["ok"]
    assert "It fits" in fit
    assert doctor.count('data-state="good"') == 10
    values["training"]["learning_rate"] = 5
    verdict, whole, report = check_values(services, values, "")
    assert "training.learning\\_rate" in verdict
    assert plan_values(services, values, report, "") == ("", "", "", None)


def test_a_visitor_of_a_space_cannot_name_files_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("[]")
    services = Services(Settings(home=tmp_path / "home", on_space=True))
    for values in (
        {"data": {"source": "file", "path": str(tmp_path / "secret.json")}},
        {"model": {"id": str(tmp_path)}},
    ):
        with pytest.raises(ConfigError, match="On a Space"):
            services.admit(parse_config(values))
    kept = services.keep_upload(tmp_path / "secret.json")
    services.admit(parse_config({"data": {"source": "file", "path": str(kept)}}))
    assert kept == services.keep_upload(tmp_path / "secret.json")


def test_a_model_that_is_not_listed_is_welcome() -> None:
    assert "270M" not in describe_model("ada/gemma-mine")
    assert "26 layers" in describe_model("google/gemma-3-1b-it")


def test_the_newest_step_is_found_however_much_was_written_after_it(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    writer = FactWriter(events)
    writer.append("step", step=10, loss=1.0)
    for number in range(8):
        writer.append("sample", step=10, prompt=f"q{number}", answer="word " * 2000)
    assert last_step(events)["step"] == 10
    assert last_step(tmp_path / "none") == {}


def test_a_log_is_read_on_and_its_beginning_is_left_out_when_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_log(path) == ("", 0)
    path.write_text("one\ntw")
    text, offset = read_log(path)
    assert text == "one\n"
    path.write_text("one\ntwo é\n")
    assert read_log(path, offset)[0] == "two é\n"
    path.write_text("x" * 50 + "\n" + "y" * 50 + "\n")
    text, offset = read_log(path, 0, limit=60)
    assert text == "... (older lines are in the file)\n" + "y" * 50 + "\n"
    assert offset == 102
