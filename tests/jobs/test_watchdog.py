"""The watchdog of a run: alerts are told once and acted on once, with no page open, over restarts, in any trouble."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import end_all_runs, wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import EvaluationConfig, RunConfig
from gemma_ft.events import Fact, FactWriter, read_facts
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.watchdog import PIECE_BYTES, Watchdog
from gemma_ft.monitor.rules import Rule, Sample
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings
from monitor.streams import GB, noisy, steps, training
from small_disk import mounted

EXPLODED = [training(), *steps([*noisy(40, noise=0.02, fall=2.0), *[9.0] * 20])]
FULL: Sample = {"memory_used": 63 * GB, "memory_total": 64 * GB}


def run_with(home: Path, facts: list[Fact], **reactions: str) -> RunDir:
    """A run's folder that holds these facts."""
    run = create_run(home, RunConfig().changed({f"alerts.{rule}": action for rule, action in reactions.items()}))
    append(run, facts)
    return run


def append(run: RunDir, facts: list[Fact]) -> None:
    writer = FactWriter(run.events)
    for fact in facts:
        writer.append(fact["event"], **{name: value for name, value in fact.items() if name not in ("t", "event")})
    writer.close()


def told(run: RunDir) -> list[tuple[str, bool, str]]:
    return [(fact["rule"], fact["active"], fact["action"]) for fact in read_facts(run.alerts)[0]]


def test_an_alert_is_written_down_whole_and_what_was_chosen_is_asked_for(tmp_path: Path) -> None:
    run = run_with(tmp_path, [], loss_explodes="stop")
    watchdog = Watchdog(run)
    assert watchdog.look({}) == []
    assert not run.alerts.exists()
    append(run, EXPLODED)
    found = watchdog.look({})
    assert [alert.rule for alert in found if alert.rule == "loss_explodes"] == ["loss_explodes"]
    assert run.wished() == "stop"
    fact = next(fact for fact in read_facts(run.alerts)[0] if fact["rule"] == "loss_explodes")
    expected = {"event", "t", "rule", "severity", "title", "message", "advice", "step", "action", "active"}
    assert set(fact) == expected
    assert (fact["event"], fact["severity"], fact["action"], fact["active"]) == ("alert", "critical", "stop", True)
    assert fact["step"] == 45


def test_a_save_is_requested_and_the_watching_goes_on(tmp_path: Path) -> None:
    run = run_with(tmp_path, [], loss_explodes="save")
    watchdog = Watchdog(run)
    append(run, EXPLODED)
    watchdog.look({})
    assert run.requested("save_now")
    assert run.wished() is None
    append(run, steps([0.3] * 20, first=61))
    watchdog.look({})
    assert told(run)[-1] == ("loss_explodes", False, "nothing")


def test_nothing_is_said_while_a_run_is_being_stopped(tmp_path: Path) -> None:
    run = run_with(tmp_path, [])
    watchdog = Watchdog(run)
    run.wish("stop")
    append(run, EXPLODED)
    assert watchdog.look({}) == []
    assert not run.alerts.exists()


def test_another_watchdog_neither_tells_nor_acts_again(tmp_path: Path) -> None:
    run = run_with(tmp_path, [], loss_explodes="stop")
    first = Watchdog(run)
    append(run, EXPLODED)
    first.look({})
    before = told(run)
    run.clear_wishes()
    second = Watchdog(run)
    assert [second.look({}) for _ in range(3)] == [[], [], []]
    assert told(run) == before
    assert run.wished() is None


def test_another_watchdog_says_what_is_over_and_what_came_while_none_was_there(tmp_path: Path) -> None:
    run = run_with(tmp_path, [], loss_explodes="stop")
    append(run, EXPLODED)
    writer = FactWriter(run.alerts)
    writer.append("alert", rule="memory_full", active=True, action="nothing")
    writer.append("alert", rule="a_rule_of_an_older_version", active=True, action="nothing")
    writer.close()
    Watchdog(run).look({})
    assert ("memory_full", False, "nothing") in told(run)
    assert ("loss_explodes", True, "nothing") in told(run)
    assert run.wished() is None


def test_a_long_run_is_learned_a_piece_at_a_look_and_a_torn_line_holds_nothing_up(tmp_path: Path) -> None:
    run = run_with(tmp_path, [training(), *steps(noisy(20_000, noise=0.02))])
    with run.events.open("ab") as file:
        file.write(b'{"t": 1, "event": "st')
    pieces = -(-run.events.stat().st_size // PIECE_BYTES)
    assert pieces >= 3
    watchdog = Watchdog(run)
    for _ in range(pieces + 1):
        assert watchdog.look({}) == []
    append(run, steps([9.0] * 20, first=20_001))
    assert "loss_explodes" in [alert.rule for alert in watchdog.look({})]


def test_an_alert_that_finds_the_disk_full_is_written_once_there_is_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 4_000_000) as disk:
        run = run_with(disk.path, [], loss_explodes="stop")
        watchdog = Watchdog(run)
        append(run, EXPLODED)
        disk.fill()
        assert "loss_explodes" in [alert.rule for alert in watchdog.look({})]
        assert run.wished() == "stop"
        assert told(run) == []
        disk.empty()
        watchdog.look({})
        assert ("loss_explodes", True, "stop") in told(run)


def test_alerts_that_cannot_be_written_keep_nobody_from_acting(tmp_path: Path) -> None:
    run = run_with(tmp_path, [], loss_explodes="stop")
    run.alerts.mkdir()  # What is written there fails.
    watchdog = Watchdog(run)
    append(run, EXPLODED)
    assert watchdog.look({})
    assert run.wished() == "stop"


def test_a_mistake_in_a_rule_ends_the_watching_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Mistaken(Rule):
        name = "stalled"

        def take(self, fact: Fact) -> None:
            raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("gemma_ft.monitor.alerts.RULES", (Mistaken,))
    run = run_with(tmp_path, [])
    watchdog = Watchdog(run)
    append(run, EXPLODED)
    assert watchdog.look({}) == []
    assert watchdog.look({}) == []
    assert capsys.readouterr().err.count("ZeroDivisionError: a mistake") == 1


def test_a_run_whose_configuration_is_damaged_is_left_alone(tmp_path: Path) -> None:
    run = run_with(tmp_path, EXPLODED)
    run.config_file.write_text("{")
    assert Watchdog(run).look(FULL) == []


def misbehaving(**changes: Any) -> RunConfig:
    """A full tuning at a learning rate with which nothing can be learned."""
    base = recipes.try_it().model_copy(update={"evaluation": EvaluationConfig()})
    given = {"method.adapter": "none", "training.learning_rate": 1.0, "training.warmup_fraction": 0.0}
    return base.changed(given | {"training.save_every": 0, "training.eval_every": 0} | changes)


LONG = {"training.learning_rate": 1e-5, "training.max_steps": 100_000}


@pytest.mark.train
def test_a_run_that_explodes_is_stopped_and_saved_with_no_page_open_and_can_be_resumed(demo_settings: Settings) -> None:
    manager = JobManager(demo_settings)
    run = manager.start(misbehaving(**{"alerts.loss_explodes": "stop", "training.max_steps": 5000}))
    state = wait_for_end(manager, run)
    assert state.status == "stopped", f"{state.error}\n{run.log.read_text()}"
    assert ("loss_explodes", True, "stop") in told(run)
    saved = [int(path.name.rpartition("-")[2]) for path in run.checkpoints.iterdir()]
    assert len(saved) == 1
    assert saved[0] < 1000
    manager.resume(run.run_id)
    after = lambda: [f for f in read_facts(run.events)[0] if f["event"] == "step" and f["step"] > saved[0]]  # noqa: E731
    wait_until(after, timeout=120, what="a step after the resume")
    if manager.state(run).status == "training":
        manager.stop(run.run_id, save=False)
    assert wait_for_end(manager, run).status == "stopped"


@pytest.mark.train
def test_a_training_that_hangs_is_told_within_two_minutes_and_going_on_ends_the_alert(demo_settings: Settings) -> None:
    manager = JobManager(demo_settings)
    run = manager.start(misbehaving(**LONG))
    stepped = lambda: len([f for f in read_facts(run.events)[0] if f["event"] == "step"]) > 5  # noqa: E731
    wait_until(stepped, timeout=120, what="some steps")
    trainer = manager.state(run).trainer
    assert trainer is not None
    os.kill(trainer.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: ("stalled", True, "nothing") in told(run), timeout=240, what="the alert")
    finally:
        os.kill(trainer.pid, signal.SIGCONT)
    wait_until(lambda: told(run)[-1] == ("stalled", False, "nothing"), timeout=60, what="the end of the alert")
    manager.stop(run.run_id, save=False)
    wait_for_end(manager, run)


@pytest.fixture
def small_disk(demo_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A home on a disk of its own, of 200 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    settings = replace(demo_settings, home=place)
    settings.models.symlink_to(demo_settings.models)
    try:
        yield settings
    finally:
        end_all_runs(settings)
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.train
def test_a_disk_with_little_room_is_told_and_stops_the_run_if_that_was_chosen(small_disk: Settings) -> None:
    manager = JobManager(small_disk)
    run = manager.start(misbehaving(**LONG, **{"alerts.disk_full": "stop"}))
    assert wait_for_end(manager, run).status == "stopped"
    assert told(run) == [("disk_full", True, "stop")]
    assert "of 0.2 GB" in read_facts(run.alerts)[0][0]["message"]
