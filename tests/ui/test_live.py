"""What a browser is sent when it asks for news of a run: everything once, then only what is new, and never too much."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma_ft import recipes
from gemma_ft.events import FactWriter
from gemma_ft.jobs.manager import JobManager
from gemma_ft.rundir import RunDir, RunState, create_run
from gemma_ft.settings import Settings
from gemma_ft.ui import followed
from gemma_ft.ui.live import LiveRuns, first_and_last, thinned


def a_run(home: Path, steps: int, *, status: str = "finished", max_steps: int | None = None) -> RunDir:
    run = create_run(home / "runs", recipes.try_it())
    writer = FactWriter(run.events)
    writer.append("phase", phase="training", step=0, max_steps=max_steps or steps)
    for step in range(1, steps + 1):
        loss = float("nan") if step == 3 else 500.0 if step == 7777 else 1 / step
        writer.append("step", step=step, max_steps=max_steps or steps, loss=loss, learning_rate=1e-3, seconds=step / 2)
    writer.close()
    run.log.write_text("".join(f"line {n}\n" for n in range(steps)))
    run.write_state(RunState.model_validate({"status": status, "created_at": 0, "started_at": 1, "ended_at": 2}))
    return run


def live_runs(home: Path) -> LiveRuns:
    return LiveRuns(JobManager(Settings(home=home)))


def everything(live: LiveRuns, cursor: Any = None) -> list[dict[str, Any]]:
    """Ask until there is nothing new, and return the answers."""
    answers = [live.poll(cursor)]
    while "same" not in answers[-1]:
        answers.append(live.poll(answers[-1]["cursor"]))
    return answers


def test_a_browser_gets_everything_once_and_then_only_what_is_new(tmp_path: Path) -> None:
    run = a_run(tmp_path, 10)
    live = live_runs(tmp_path)
    first = live.poll(None)
    assert first["reset"]
    assert first["run"] == run.run_id
    assert first["steps"]["step"] == list(range(1, 11))
    assert first["steps"]["curves"]["loss"]["mean"][1:4] == [0.5, None, 0.25]
    assert first["steps"]["clock"][-1] == 5
    assert first["log"]["text"].startswith("line 0\n")
    assert first["layout"].keys() == {"Model", "Progress", "Speed", "Time"}
    assert {key for group in first["layout"].values() for key, *_ in group} == first["figures"].keys() | {
        "elapsed",
        "left",
        "price",
    }
    second = live.poll(first["cursor"])
    assert second == {"same": True}
    writer = FactWriter(run.events)
    writer.append("step", step=11, max_steps=12, loss=0.5)
    with run.log.open("a") as log:
        log.write("more\nhalf")
    third = live.poll(first["cursor"])
    assert third["steps"]["step"] == [11]
    assert (third["log"]["text"], third["log"]["open"], third["log"]["first"]) == ("more", "half", 10)
    assert not {"reset", "runs", "layout", "evals"} & third.keys()
    assert live.poll(first["cursor"])["steps"]["step"] == [11], "a lost answer can be asked for again"
    assert live_runs(tmp_path).poll(third["cursor"]) == {"same": True}, "a page that was restarted knows as much"


def test_a_resumed_run_begins_the_curve_anew_without_the_steps_that_were_taken_back(tmp_path: Path) -> None:
    run = a_run(tmp_path, 10)
    live = live_runs(tmp_path)
    cursor = live.poll(None)["cursor"]
    writer = FactWriter(run.events)
    writer.append("phase", phase="training", step=6, max_steps=10)
    writer.append("step", step=7, max_steps=10, loss=0.5)
    news = live.poll(cursor)
    assert news["reset"]
    assert news["steps"]["step"] == [1, 2, 3, 4, 5, 6, 7]
    assert news["marks"] == [["seam", 6, ""]]


def test_two_browsers_that_ask_while_a_run_grows_miss_nothing(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", recipes.try_it())
    live = live_runs(tmp_path)
    writer = FactWriter(run.events)
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def follow(name: str) -> None:
        cursor: Any = None
        while not seen[name] or seen[name][-1] < 2000:
            news = live.poll(cursor)
            cursor = news.get("cursor", cursor)
            seen[name] += news["steps"]["step"] if "steps" in news else []

    threads = [threading.Thread(target=follow, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    for step in range(1, 2001):
        writer.append("step", step=step, max_steps=2000, loss=1.0)
    for thread in threads:
        thread.join(60)
    for steps in seen.values():
        assert steps == sorted(set(steps))
        assert steps[-1] == 2000
        if len(steps) < 2000:  # Only a stretch of more than 500 steps in one answer is thinned.
            assert max(b - a for a, b in itertools.pairwise(steps)) <= 4


def test_a_long_run_is_sent_small_with_its_spike_and_refined_where_one_looks_closer(tmp_path: Path) -> None:
    run = a_run(tmp_path, 20_000)
    live = live_runs(tmp_path)
    answers = everything(live)
    first = next(news for news in answers if "steps" in news)
    assert len(json.dumps(first["steps"])) < 90_000
    loss = first["steps"]["curves"]["loss"]
    assert 500.0 in loss["y"]
    assert loss["x"][loss["y"].index(500.0)] == 7777
    assert len(loss["x"]) <= 1001
    assert (first["steps"]["step"][0], first["steps"]["step"][-1]) == (1, 20_000)
    assert sum("steps" in news for news in answers) == 1
    near = live.poll({"ask": "refine", "run": run.run_id, "from": 7700.5, "to": 7800})["steps"]
    assert near["step"] == list(range(7700, 7802))
    assert near["curves"]["loss"]["mean"][7777 - 7700] == 500.0
    assert live.poll({"ask": "refine", "run": "../x", "from": 0, "to": 1})["steps"] is None


def test_a_very_long_run_is_read_in_short_calls_that_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "FACTS_SECONDS", 0.0)
    a_run(tmp_path, 20_000)
    answers = everything(live_runs(tmp_path))
    shares = [news["reading"] for news in answers if "reading" in news]
    assert len(shares) >= 3
    assert all(0 < share < 1 for share in shares)
    assert not any("steps" in news for news in answers if "reading" in news)
    assert [news["steps"]["step"][-1] for news in answers if "steps" in news] == [20_000]


def test_only_the_tail_of_a_long_log_is_sent_with_the_counts_of_all_of_it(tmp_path: Path) -> None:
    run = a_run(tmp_path, 1)
    run.log.write_text("12:00:00 INFO Training\n" + "12:00:00 ERROR no\n12:00:00 INFO yes\n" * 3000)
    log = live_runs(tmp_path).poll(None)["log"]
    assert log["first"] == 4001
    assert log["text"].count("\n") == 1999
    assert log["levels"] == "ei" * 1000
    assert log["counts"] == [6001, 3000, 0]
    assert log["sections"] == [(0, "Training")]


def test_the_machine_is_sent_when_it_is_looked_at_and_shared_by_all(tmp_path: Path) -> None:
    run = a_run(tmp_path, 3)
    samples = FactWriter(run.system)
    for number in range(1000):
        samples.append("sample", cpu_percent=99.0 if number == 500 else 5.0, memory_used=1, memory_total=2, gpus=[])
    live = live_runs(tmp_path)
    first = live.poll(None)
    assert "system" not in first
    cursor = {**first["cursor"], "want": ["system", "machine"]}
    news = live.poll(cursor)
    assert len(news["system"]["t"]) <= 400
    assert max(news["system"]["curves"]["cpu"]["high"]) == 99.0
    assert np.mean(news["system"]["curves"]["cpu"]["mean"]) == pytest.approx(5.1, abs=0.2)
    assert news["system"]["totals"]["memory"] == 2
    again = live.poll({**news["cursor"], "want": ["system", "machine"]})
    assert "system" not in again
    assert again["machine"] == news["machine"], "within a second nobody measures again"
    assert news["machine"]["totals"]["memory"] > 1e8


def test_alerts_are_read_on_by_offset(tmp_path: Path) -> None:
    run = a_run(tmp_path, 3)
    live = live_runs(tmp_path)
    cursor = live.poll(None)["cursor"]
    alerts = FactWriter(run.path / "alerts.jsonl")
    alerts.append("alert", rule="loss_spike", severity="warning", title="The loss jumped", step=2, active=True)
    news = live.poll(cursor)
    assert [alert["title"] for alert in news["alerts"]] == ["The loss jumped"]
    assert live.poll(news["cursor"]) == {"same": True}


def test_the_losses_of_other_runs_can_be_laid_over(tmp_path: Path) -> None:
    one, other = a_run(tmp_path, 5), a_run(tmp_path, 2000)
    found = live_runs(tmp_path).poll({"ask": "overlay", "runs": [one.run_id, other.run_id, "../x"]})["overlays"]
    assert found.keys() == {one.run_id, other.run_id}
    assert found[one.run_id]["steps"]["step"] == [1, 2, 3, 4, 5]
    assert len(found[other.run_id]["steps"]["step"]) <= 250
    assert not found[one.run_id]["active"]


def test_of_many_answers_the_first_and_the_newest_of_each_question_are_sent() -> None:
    samples = [{"prompt": p, "step": n, "answer": str(n)} for n in range(50) for p in ("a", "b")]
    assert [(fact["prompt"], fact["step"]) for fact in first_and_last(samples)] == [
        ("a", 0),
        ("b", 0),
        ("a", 49),
        ("b", 49),
    ]


def test_of_many_marks_an_even_part_with_the_newest_is_sent() -> None:
    assert thinned([1, 2, 3], 5) == [1, 2, 3]
    kept = thinned(list(range(1000)), 100)
    assert (len(kept), kept[-1], kept) == (100, 999, sorted(kept))


def test_an_unknown_run_and_an_empty_home_are_told(tmp_path: Path) -> None:
    assert live_runs(tmp_path).poll({})["run"] is None
    a_run(tmp_path, 2)
    assert live_runs(tmp_path).poll({"run": "../x"})["missing"] == "../x"


def test_a_damaged_run_can_still_be_looked_at(tmp_path: Path) -> None:
    run = a_run(tmp_path, 2)
    run.config_file.write_text("{")
    run.events.write_text('{"torn\n{"event":"step"}\n{"event":"phase","phase":7,"done":"x","total":0}\n')
    run.system.mkdir()
    run.log.unlink()
    run.log.mkdir()
    news = live_runs(tmp_path).poll({"want": ["system"]})
    assert news["run"] == run.run_id
    assert "steps" not in news
