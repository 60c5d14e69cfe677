"""Facts by column: read once and on, seams, what is derived of steps, and the pace, against plain computations."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma_ft.events import Fact, FactWriter
from gemma_ft.monitor import reading
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.machine_history import MachineHistory, totals
from gemma_ft.monitor.pace import pace_of
from gemma_ft.monitor.thin import grid, highest, means, outline, plain


class Story:
    """Writes the facts of a run whose clock the test moves."""

    def __init__(self, path: Path, *, max_steps: int = 100) -> None:
        self.path, self.max_steps, self.now, self.tokens = path, max_steps, 1e9, 0
        self.written: list[Fact] = []

    def tell(self, event: str, **fields: Any) -> None:
        fact = {"t": round(self.now, 3), "event": event, **fields}
        self.written.append(fact)
        with self.path.open("a") as file:
            file.write(json.dumps(fact) + "\n")

    def attempt(self, begin: int) -> None:
        self.tell("phase", phase="reading the data")
        self.now += 5
        self.began, self.tokens = self.now, 100 * begin
        self.tell("phase", phase="training", step=begin, max_steps=self.max_steps)

    def steps(self, first: int, last: int, seconds: float = 2.0) -> None:
        for step in range(first, last + 1):
            self.now += seconds
            self.tokens += 100
            self.tell(
                "step",
                step=step,
                max_steps=self.max_steps,
                seconds=round(self.now - self.began, 3),
                loss=1 / step,
                epoch=step / 10,
                tokens=self.tokens,
            )

    def other(self, event: str, takes: float, **fields: Any) -> None:
        self.now += takes
        self.tell(event, **fields)


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path / "events.jsonl")


def test_facts_are_the_same_read_at_once_or_in_pieces_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE", 997)
    path = tmp_path / "events.jsonl"
    writer, follower = FactWriter(path), RunFacts(path)
    writer.append("phase", phase="training", step=0, max_steps=500)
    for step in range(1, 501):
        writer.append("step", step=step, max_steps=500, loss=float("nan") if step == 7 else 1 / step)
        if step % 100 == 0:
            writer.append("eval", step=step, loss=0.5)
            follower.refresh()
    at_once = RunFacts(path).refresh()
    assert [fact["step"] for fact in follower.refresh().steps] == list(range(1, 501))
    assert str(follower.steps) == str(at_once.steps)
    assert np.isnan(at_once.steps[6]["loss"])
    assert follower.evals == at_once.evals
    assert follower.share_read is None


def test_lines_that_are_no_facts_are_passed_over_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = json.dumps({"t": 1, "event": "step", "step": 1, "loss": 2.0})
    path.write_text(
        f'{{"torn\n\n[1]\n{{"event":"step"}}\n{{"event":"step","step":"x"}}\n{{"event":"eval"}}\n{good}\n{{"ev'
    )
    facts = RunFacts(path).refresh()
    assert [fact["step"] for fact in facts.steps] == [1]
    assert facts.evals == []
    with path.open("a") as file:
        file.write('ent":"step","step":2,"t":3,"loss":"inf","token_accuracy":null}\n')
    assert facts.refresh().steps[1] == {"t": 3, "step": 2, "loss": float("inf"), "max_steps": None}


def test_a_resumed_run_counts_each_step_once_and_its_clock_leaves_the_gap_out(story: Story) -> None:
    story.attempt(0)
    story.steps(1, 60)
    story.tell("checkpoint", step=50, path="checkpoints/checkpoint-50")
    story.tell("checkpoint", step=60, path="checkpoints/checkpoint-60")
    story.tell("eval", step=60, loss=1.0)
    facts = RunFacts(story.path).refresh()
    before = facts.generation
    story.now += 90_000
    story.attempt(50)
    story.steps(51, 55)
    facts.refresh()
    assert [fact["step"] for fact in facts.steps] == list(range(1, 56))
    assert facts.generation == before + 1
    assert facts.evals == []
    assert [(mark.kind, mark.step) for mark in facts.marks] == [("checkpoint", 50), ("seam", 50)]
    assert facts.columns.column("clock").tolist() == pytest.approx([2.0 * n for n in range(1, 56)])
    assert facts.columns.column("duration").tolist() == pytest.approx([2.0] * 55)
    assert facts.columns.column("tokens_per_second").tolist() == pytest.approx([50.0] * 55)
    assert [end - begin for begin, end in facts.attempts] == pytest.approx([125, 15])


def test_time_for_other_work_is_in_no_step_but_in_the_time_left(story: Story) -> None:
    story.attempt(0)
    story.other("sample", 30, step=0, prompt="q", answer="a")
    for begin in (0, 10, 20, 30):
        story.steps(begin + 1, begin + 10)
        story.other("eval", 6, step=begin + 10, loss=0.5, seconds=6.0)
        story.other("checkpoint", 4, step=begin + 10, path="x")
    story.steps(41, 41)
    facts = RunFacts(story.path).refresh()
    assert facts.columns.column("duration").tolist() == pytest.approx([2.0] * 41)
    pace = pace_of(facts)
    assert pace.steps_per_second == pytest.approx(0.5)
    assert pace.tokens_per_second == pytest.approx(50)
    assert (pace.step_mean, pace.step_p95) == pytest.approx((2.0, 2.0))
    assert (pace.evaluations, pace.evaluation_mean) == (4, 6.0)
    assert pace.left == pytest.approx(59 * (2 + 40 / 40))


def test_the_pace_agrees_with_a_plain_computation_from_the_raw_facts(story: Story) -> None:
    rnd = random.Random(3)
    story.tell("data", train=135)
    story.attempt(0)
    for step in range(1, 1501):
        story.steps(step, step, seconds=rnd.uniform(0.5, 4))
    steps = [fact for fact in story.written if fact["event"] == "step"]
    times = [b["seconds"] - a["seconds"] for a, b in itertools.pairwise(steps)]
    facts = RunFacts(story.path).refresh()
    pace = pace_of(facts)
    last = steps[-100:]
    seconds = last[-1]["seconds"] - last[0]["seconds"]
    assert pace.steps_per_second == pytest.approx(99 / seconds)
    assert pace.tokens_per_second == pytest.approx((last[-1]["tokens"] - last[0]["tokens"]) / seconds)
    assert pace.rows_per_second == pytest.approx((last[-1]["epoch"] - last[0]["epoch"]) * 135 / seconds)
    assert pace.step_mean == pytest.approx(sum(times[-1000:]) / 1000)
    assert pace.step_p95 == pytest.approx(sorted(times[-1000:])[949], rel=0.02)


@pytest.mark.parametrize(("seconds", "left"), [(2.0, 90.0), (3600.0, 45 * 3600.0)])
def test_the_time_left_after_a_resume_is_by_the_new_pace_and_may_be_days(
    story: Story, seconds: float, left: float
) -> None:
    story.attempt(0)
    story.steps(1, 50, seconds=7)
    story.tell("checkpoint", step=50, path="x")
    story.now += 86_400
    story.attempt(50)
    facts = RunFacts(story.path).refresh()
    assert pace_of(facts).left == pytest.approx(350)
    story.steps(51, 51, seconds=seconds)
    assert pace_of(facts.refresh()).left is None, "one step is no pace"
    story.steps(52, 55, seconds=seconds)
    assert pace_of(facts.refresh()).left == pytest.approx(left)


def test_nothing_is_made_up_before_there_are_steps(story: Story) -> None:
    pace = pace_of(RunFacts(story.path).refresh())
    assert [getattr(pace, name) for name in pace.__slots__ if name != "evaluations"] == [None] * 8


@pytest.mark.parametrize("length", [1, 2, 999, 1000, 1001, 12_345, 100_000])
def test_a_thinned_curve_keeps_spikes_ends_and_order(length: int) -> None:
    values = np.array([1 / (n + 1) for n in range(length)])
    values[length * 7 // 10] = 100.0
    values[length // 3] = -50.0
    if length > 20:
        values[length // 2] = np.nan
        values[length // 2 + 1] = np.inf
    over = grid(length, 500)
    rows = outline(values, over)
    assert len(rows) <= 1001
    assert list(rows) == sorted(set(rows.tolist()))
    assert {length * 7 // 10, length - 1} <= set(rows.tolist())
    assert length == 1 or length // 3 in rows
    assert np.isfinite(values[rows]).all()
    assert (over.rows[0], over.rows[-1]) == (0, length - 1)
    found = means(values, over)
    assert len(found) == len(over.rows) <= 500 or over.is_exact
    first = values[: over.width]
    assert found[0] == pytest.approx(np.mean(first[np.isfinite(first)]))
    assert np.nanmax(highest(values, over)) == 100.0 or length == 1


def test_numbers_for_the_browser_are_short_and_finite() -> None:
    assert plain(np.array([1.23456789, float("nan"), float("inf"), 123456.0, 2e-4])) == [
        1.2346,
        None,
        None,
        123460.0,
        2e-4,
    ]


def test_samples_of_the_machine_become_one_table(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    writer, history = FactWriter(path), MachineHistory(path)
    gpu = {"name": "L4", "utilisation": 90, "memory_used": 5, "memory_total": 24, "temperature": None, "power": 70.5}
    for number in range(3):
        own = {"cpu_percent": 150.0, "memory_used": 7} if number else None
        writer.append(
            "sample", cpu_percent=10.0 * number, cores=4, memory_used=1, memory_total=8, disk_used=2, disk_total=9,
            gpus=[gpu, gpu], own=own,
        )  # fmt: skip
        history.refresh()
    columns = history.columns
    assert columns.column("cpu").tolist() == [0, 10, 20]
    assert columns.column("own_cpu").tolist()[1:] == [150, 150]
    assert np.isnan(columns.column("own_cpu")[0])
    assert columns.column("gpu1_power").tolist() == [70.5] * 3
    assert np.isnan(columns.column("gpu0_temperature")).all()
    assert totals(history.newest) == {"memory": 8, "disk": 9, "cores": 4, "gpus": [{"name": "L4", "memory": 24}] * 2}
