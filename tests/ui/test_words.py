"""What a person reads, and what a browser is sent: pure functions, no page needed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from gemma_ft import recipes
from gemma_ft.config import knobs, parse_config
from gemma_ft.errors import ConfigError, ErrorReport
from gemma_ft.events import FactWriter
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts, last_step
from gemma_ft.monitor.log import read_log
from gemma_ft.rundir import RunDir, RunState, StopProgress, create_run
from gemma_ft.settings import Settings
from gemma_ft.ui.form import LEFT_OUT, Form
from gemma_ft.ui.live import LiveRuns, first_and_last, thin
from gemma_ft.ui.model_step import describe_model
from gemma_ft.ui.present import count, duration, escape, remaining_seconds, view
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


ABOUT = {"name": "capitals", "model": "demo/gemma-3-tiny"}


def facts_of(tmp_path: Path, steps: int, *, pace: float = 1.0, max_steps: int = 100) -> RunFacts:
    facts = RunFacts(tmp_path / "none")
    facts.steps = [{"t": pace * n, "step": n, "max_steps": max_steps, "loss": 1 / n} for n in range(1, steps + 1)]
    return facts


def test_the_time_left_is_the_pace_times_the_steps_left_also_after_a_resume(tmp_path: Path) -> None:
    assert remaining_seconds(facts_of(tmp_path, 1)) is None
    assert remaining_seconds(facts_of(tmp_path, 40, pace=2.0)) == pytest.approx(120)
    long = facts_of(tmp_path, 40, pace=3600.0)
    assert duration(remaining_seconds(long)) == "2 d 12 h"


STATES: list[tuple[dict[str, Any], str, set[str]]] = [
    ({"status": "queued"}, "Waiting", {"can_stop", "can_cancel"}),
    ({"status": "preparing", "phase": "loading"}, "Preparing", {"can_stop", "can_cancel"}),
    ({"status": "training", "phase": "training"}, "Training", {"can_stop", "can_cancel"}),
    ({"status": "stopping", "stop": StopProgress(wish="stop", next_rung_at=50)}, "Stopping", {"can_cancel"}),
    ({"status": "stopping", "stop": StopProgress(wish="cancel", next_rung_at=50)}, "Stopping", set()),
    ({"status": "finished"}, "Finished", {"can_chat"}),
    ({"status": "stopped"}, "Stopped", {"can_resume"}),
    ({"status": "interrupted"}, "Interrupted", {"can_resume"}),
    (
        {
            "status": "failed",
            "error": ErrorReport(kind="x", title="The disk is full", what_happened="a", what_to_do="b"),
        },
        "The disk is full",
        {"can_resume"},
    ),
]


@pytest.mark.parametrize(("state", "headline", "buttons"), STATES, ids=lambda value: str(value)[:40])
def test_each_state_has_one_headline_and_only_the_buttons_that_make_sense(
    tmp_path: Path, state: dict[str, Any], headline: str, buttons: set[str]
) -> None:
    shown = view(ABOUT, RunState(created_at=0, heartbeat=40, **state), facts_of(tmp_path, 3), has_model=True, now=42.0)
    assert shown["headline"].startswith(headline)
    assert {name for name in shown if name.startswith("can_") and shown[name]} == buttons


def test_a_finished_run_without_a_model_says_so(tmp_path: Path) -> None:
    shown = view(ABOUT, RunState(created_at=0, status="finished"), facts_of(tmp_path, 3), has_model=False, now=1)
    assert "no model" in shown["headline"]
    assert not shown["can_chat"]


@pytest.mark.parametrize(("now", "silent"), [(62.0, False), (64.0, True)])
def test_a_training_that_says_nothing_for_long_is_said_to_be_silent(tmp_path: Path, now: float, silent: bool) -> None:
    facts = facts_of(tmp_path, 3, pace=1.0)
    facts.newest = 3.0
    state = RunState(created_at=0, status="training", phase="training", heartbeat=now)
    assert ("No sign of life" in view(ABOUT, state, facts, has_model=False, now=now)["detail"]) == silent


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


def finished_run(home: Path, steps: int) -> RunDir:
    run = create_run(home / "runs", recipes.try_it())
    writer = FactWriter(run.events)
    writer.append("phase", phase="training", step=0, max_steps=steps)
    for step in range(1, steps + 1):
        writer.append(
            "step", step=step, max_steps=steps, loss=float("nan") if step == 3 else 1 / step, learning_rate=1e-3
        )
    writer.close()
    run.log.write_text("".join(f"line {n}\n" for n in range(steps)))
    run.write_state(RunState(status="finished", created_at=0))
    return run


def test_a_browser_gets_everything_once_and_then_only_what_is_new(tmp_path: Path) -> None:
    run = finished_run(tmp_path, 10)
    live = LiveRuns(JobManager(Settings(home=tmp_path)))
    first = live.poll(None)
    assert first["reset"]
    assert first["run"] == run.run_id
    assert first["steps"]["step"] == list(range(1, 11))
    assert first["steps"]["loss"][2] is None
    assert first["log"].startswith("line 0\n")
    second = live.poll(first["cursor"])
    assert not second["reset"]
    assert (second["steps"]["step"], second["log"], second["runs"]) == ([], "", None)
    writer = FactWriter(run.events)
    writer.append("step", step=11, max_steps=12, loss=0.5)
    third = live.poll(second["cursor"])
    assert third["steps"]["step"] == [11]
    assert live.poll(first["cursor"])["steps"]["step"] == [11], "a lost answer can be asked for again"
    assert LiveRuns(JobManager(Settings(home=tmp_path))).poll(third["cursor"])["steps"]["step"] == []


def test_a_resumed_run_begins_the_curve_anew_without_the_steps_that_were_taken_back(tmp_path: Path) -> None:
    run = finished_run(tmp_path, 10)
    live = LiveRuns(JobManager(Settings(home=tmp_path)))
    cursor = live.poll(None)["cursor"]
    writer = FactWriter(run.events)
    writer.append("phase", phase="training", step=6, max_steps=10)
    writer.append("step", step=7, max_steps=10, loss=0.5)
    news = live.poll(cursor)
    assert news["reset"]
    assert news["steps"]["step"] == [1, 2, 3, 4, 5, 6, 7]


def test_two_browsers_that_ask_while_a_run_grows_miss_nothing(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", recipes.try_it())
    live = LiveRuns(JobManager(Settings(home=tmp_path)))
    writer = FactWriter(run.events)
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def follow(name: str) -> None:
        cursor: Any = None
        while not seen[name] or seen[name][-1] < 2000:
            news = live.poll(cursor)
            cursor = news["cursor"]
            seen[name] += news["steps"]["step"]

    threads = [threading.Thread(target=follow, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    for step in range(1, 2001):
        writer.append("step", step=step, max_steps=2000, loss=1.0)
    for thread in threads:
        thread.join(60)
    assert seen == {"a": list(range(1, 2001)), "b": list(range(1, 2001))}


def test_the_newest_step_is_found_however_much_was_written_after_it(tmp_path: Path) -> None:
    run = finished_run(tmp_path, 10)
    writer = FactWriter(run.events)
    for number in range(8):
        writer.append("sample", step=10, prompt=f"q{number}", answer="word " * 2000)
    assert last_step(run.events)["step"] == 10
    assert last_step(tmp_path / "none") == {}


def test_of_many_answers_the_first_and_the_newest_of_each_question_are_sent() -> None:
    samples = [{"prompt": p, "step": n, "answer": str(n)} for n in range(50) for p in ("a", "b")]
    assert [(fact["prompt"], fact["step"]) for fact in first_and_last(samples)] == [
        ("a", 0),
        ("b", 0),
        ("a", 49),
        ("b", 49),
    ]


def test_an_unknown_run_and_an_empty_home_are_told(tmp_path: Path) -> None:
    live = LiveRuns(JobManager(Settings(home=tmp_path)))
    assert live.poll({})["run"] is None
    finished_run(tmp_path, 2)
    assert LiveRuns(JobManager(Settings(home=tmp_path))).poll({"run": "../x"})["missing"] == "../x"


def test_long_curves_are_thinned_and_keep_their_extremes() -> None:
    facts = [{"step": n, "loss": 100.0 if n == 7777 else 1 / (n + 1)} for n in range(100_000)]
    kept = thin(facts, 2000)
    assert len(kept) <= 2001
    assert any(fact["loss"] == 100.0 for fact in kept)
    assert kept[-1]["step"] == 99_999
    assert [fact["step"] for fact in kept] == sorted(fact["step"] for fact in kept)


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
