"""The alert rules on real runs: silent on those that learn, loud on those that cannot.

Each kind of run is trained here once; its facts and samples are fed to the rules as they were written, and changed as
little as a test needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_for_end
from gemma_ft import recipes
from gemma_ft.config import DataConfig, EvaluationConfig
from gemma_ft.data.prepare import prepare
from gemma_ft.events import Fact, read_facts
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.alerts import Alert, Alerts
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings
from monitor.streams import feed, fired, scaled

pytestmark = pytest.mark.train

Record = Callable[..., RunDir]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, demo_models: Path) -> Record:
    """A function that trains a variant of Try it to its end, each variant once, and returns its folder."""
    settings = Settings(home=tmp_path_factory.mktemp("recorded"))
    settings.models.symlink_to(demo_models)
    manager = JobManager(settings)
    known: dict[str, RunDir] = {}

    def train(**changes: Any) -> RunDir:
        key = json.dumps(changes, sort_keys=True)
        if key not in known:
            base = recipes.try_it().model_copy(update={"evaluation": EvaluationConfig()})
            given = {"training.max_steps": 60, "training.eval_every": 12, "training.save_every": 0} | changes
            run = manager.start(base.changed(given))
            state = wait_for_end(manager, run, timeout=400)
            assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"
            known[key] = run
        return known[key]

    return train


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Questions for capitals: the better answer names one, the worse one is what the demo model says."""
    rows = []
    for sample in prepare(DataConfig(validation_fraction=0.0)).train[:64]:
        asked, answered = (turn["content"] for turn in sample)  # type: ignore[union-attr]
        rows.append({"prompt": asked, "chosen": answered, "rejected": "The capital letter is a ripe pear."})
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def dpo(pairs: str) -> dict[str, Any]:
    data = {"data.source": "file", "data.path": pairs, "data.validation_fraction": 0.25}
    return data | {"method.objective": "dpo", "training.learning_rate": 1e-3, "training.batch_size": 8}


HEALTHY = {
    "sparse": {"training.log_every": 10, "training.max_steps": 150, "training.eval_every": 25},
    "full": {"method.adapter": "none", "training.learning_rate": 5e-4},
    "packed": {"training.packing": True, "training.batch_size": 4},
    "one row at a time": {"training.batch_size": 1, "training.learning_rate": 5e-4, "training.max_steps": 150},
}


LONGER = sorted(HEALTHY.keys() - {"sparse"})


def written(run: RunDir) -> list[Fact]:
    """Return a run's facts and its looks at the machine."""
    facts, samples = read_facts(run.events)[0], read_facts(run.system)[0]
    assert len([fact for fact in facts if fact["event"] == "step"]) >= 16
    assert samples
    return [*facts, *samples]


def alerts_of(run: RunDir) -> list[Alert]:
    return feed(written(run), run.config())


def told(run: RunDir) -> list[str]:
    """Return which alerts the run's own supervisor told."""
    return [fact["rule"] for fact in read_facts(run.alerts)[0] if fact["active"]]


@pytest.mark.parametrize(
    "kind", ["sparse", "preferences", "Try it", *(pytest.param(kind, marks=pytest.mark.slow) for kind in LONGER)]
)
def test_a_run_that_learns_raises_no_alarm(kind: str, record: Record, pairs: str, tuned_settings: Settings) -> None:
    if kind == "Try it":
        run = JobManager(tuned_settings).runs()[0]
    else:
        run = record(**(dpo(pairs) if kind == "preferences" else HEALTHY[kind]))
    facts, config = written(run), run.config()
    assert told(run) == []
    assert alerts_of(run) == []
    for times in (1e-3, 1e3):
        assert feed(scaled(facts, times, "grad_norm"), config) == []
        assert feed(scaled(facts, times, "loss"), config) == []


def test_a_run_that_learns_raises_no_alarm_when_it_is_resumed(tuned_settings: Settings) -> None:
    run = JobManager(tuned_settings).runs()[0]
    facts, config = written(run), run.config()
    alerts = Alerts(config)
    assert feed(facts, alerts=alerts) == []
    shift = facts[-1]["t"] + 60 - facts[0]["t"]
    again = [fact | {"t": fact["t"] + shift} for fact in facts if fact["event"] == "phase" or fact.get("step", 51) > 50]
    begin = next(fact for fact in again if fact.get("phase") == "training")
    begin["step"] = 50
    assert feed(again, alerts=alerts) == []


def test_a_learning_rate_far_too_high_is_told_by_the_runs_own_supervisor(record: Record) -> None:
    run = record(**{"method.adapter": "none", "training.learning_rate": 1.0, "training.warmup_fraction": 0.0})
    assert "loss_explodes" in told(run)
    told_at = next(fact for fact in read_facts(run.alerts)[0] if fact["rule"] == "loss_explodes")
    assert told_at["severity"] == "critical"
    assert told_at["step"] <= 20
    assert told_at["action"] == "nothing"
    assert "learning rate" in told_at["advice"]
    assert [change.rule for change in alerts_of(run) if change.active] == ["loss_explodes"]


@pytest.mark.slow
def test_a_hundred_times_the_learning_rate_is_told(record: Record) -> None:
    run = record(**{"training.learning_rate": 0.5, "training.max_steps": 100})
    assert fired(alerts_of(run))[:1] == ["loss_explodes"]


def test_a_learning_rate_of_next_to_nothing_is_told(record: Record) -> None:
    run = record(**{"training.learning_rate": 1e-9, "training.eval_every": 15})
    assert fired(alerts_of(run)) == ["loss_flat"]
    assert "1e-09" in alerts_of(run)[0].message


def test_learning_by_heart_is_told_and_can_save_a_checkpoint_on_the_way(record: Record) -> None:
    few = {"data.max_rows": 40, "data.validation_fraction": 0.5, "training.batch_size": 4}
    long = {"training.max_steps": 150, "training.eval_every": 15, "training.schedule": "constant"}
    run = record(**few, **long, **{"alerts.overfitting": "save"})
    assert "overfitting" in fired(alerts_of(run))
    alert = next(fact for fact in read_facts(run.alerts)[0] if fact["rule"] == "overfitting")
    saved = [fact for fact in read_facts(run.events)[0] if fact["event"] == "checkpoint"]
    assert alert["action"] == "save"
    assert any(alert["step"] < fact["step"] < 150 and fact["t"] >= alert["t"] for fact in saved)


@pytest.mark.parametrize(("value", "rule"), [("nan", "not_finite"), ("inf", "not_finite"), (0.0, "zero_loss")])
def test_a_recorded_run_whose_numbers_are_lost_on_the_way_is_told(record: Record, value: Any, rule: str) -> None:
    run = record(**HEALTHY["full"])
    lost = [fact | ({"loss": value} if fact["event"] == "step" and fact["step"] > 40 else {}) for fact in written(run)]
    assert fired(feed(lost, run.config())) == [rule]


def test_a_recorded_run_on_a_gpu_that_does_nothing_is_told(record: Record) -> None:
    run = record(**HEALTHY["full"])
    slow = [fact | {"t": fact["t"] * 1.0} for fact in written(run)]
    training = next(fact["t"] for fact in slow if fact.get("phase") == "training")
    idle = {"utilisation": 0, "memory_used": 1, "memory_total": 10, "temperature": 30, "throttled": False}
    looks = [{"t": training + second, "event": "sample", "gpus": [idle]} for second in range(200)]
    steps = [fact for fact in slow if fact["event"] == "step"]
    alive = [steps[-1] | {"t": steps[-1]["t"] + second} for second in range(0, 200, 20)]
    facts = [fact for fact in slow if fact["t"] <= steps[-1]["t"] and fact["event"] != "sample"]
    assert "gpu_idle" in fired(feed([*facts, *alive, *looks], run.config()))
