"""Each alert rule speaks up with the numbers when something is wrong and takes it back when it is over.

It says nothing of a healthy run, however noisy, long or sparse that is, or large its figures are.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.config import RunConfig, TrainingConfig
from gemma_ft.events import Fact
from gemma_ft.monitor.alerts import RULES, Alerts, reference, still_active
from gemma_ft.monitor.silence import patience
from gemma_ft.reactions import AlertsConfig
from monitor.streams import GB, evals, feed, fired, looks, noisy, over, scaled, steps, training

ROOT = Path(__file__).resolve().parents[2]
HUGE_NORMS = {"grad_norm": lambda step: 11_140.0 * (1 + 0.3 * math.sin(step))}


def test_the_documented_rules_are_the_rules() -> None:
    assert (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8") == reference()


def test_each_rule_has_a_knob_and_says_what_why_and_what_to_do() -> None:
    assert {rule.name for rule in RULES} == set(AlertsConfig.model_fields)
    for rule in RULES:
        assert all(len(text) > 10 for text in (rule.title, rule.why, rule.advice))
        assert rule.severity in ("warning", "critical")


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("fall", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("every", [1, 10])
def test_a_healthy_run_is_silent(noise: float, fall: float, every: int) -> None:
    for seed in range(5):
        losses = noisy(300, noise=noise, fall=fall, seed=seed)
        held_out = evals(noisy(6 * every, noise=0.005, fall=min(fall, 1.0), seed=seed))
        facts = [training(), *steps(losses, every=every, **HUGE_NORMS), *held_out, *looks(300 * every)]
        assert fired(feed(facts)) == []


@pytest.mark.parametrize("times", [1e-3, 1.0, 1e3, 1e6])
def test_only_a_runs_own_figures_count(times: float) -> None:
    healthy = [training(), *steps(noisy(200), **HUGE_NORMS), *evals(noisy(4, noise=0.005))]
    assert fired(feed(scaled(healthy, times, "loss", "grad_norm"))) == []
    ill = [training(), *steps([*noisy(100, noise=0.05), *[40.0] * 20], **HUGE_NORMS)]
    assert fired(feed(scaled(ill, times, "loss", "grad_norm"))) == ["loss_spike", "loss_explodes"]


def test_a_short_run_is_silent() -> None:
    for count in (1, 2, 5, 9):
        assert (
            fired(feed([training(max_steps=count), *steps([3.0, 9.0, 1.0, 8.0, 0.1, 9.0, 0.1, 1.0, 4.0][:count])]))
            == []
        )


def test_a_machine_without_gpu_or_figures_is_silent() -> None:
    facts = [training(), *steps(noisy(300)), *looks(300, gpus=[])]
    none = dict.fromkeys(("utilisation", "memory_used", "memory_total", "temperature", "throttled"))
    facts += [look | {"t": look["t"] + 0.2, "gpus": [none]} for look in looks(300)]
    assert fired(feed([*facts, *({"t": float(t), "event": "sample"} for t in range(300))])) == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", float("nan")])
@pytest.mark.parametrize("field", ["loss", "grad_norm"])
def test_a_number_that_is_not_finite_is_told_at_once_and_over_when_it_has_healed(field: str, value: Any) -> None:
    wrong = steps([1.0], first=5, t=4.0) if field == "grad_norm" else steps([value], first=5, t=4.0)
    wrong[0][field] = value
    facts = [training(), *steps([1.0] * 4), *wrong, *steps([1.0] * 9, first=6, t=5.0)]
    changes = feed(facts, alerts=(alerts := Alerts(RunConfig())))
    assert [(change.rule, change.step, change.severity) for change in changes] == [("not_finite", 5, "critical")]
    assert str(value) in changes[0].message
    assert "step 5" in changes[0].message
    assert over(feed(steps([1.0], first=15, t=14.0), alerts=alerts)) == ["not_finite"]


def test_a_held_out_loss_that_is_not_finite_is_told() -> None:
    assert "held-out" in feed([training(), *evals(["nan"])])[0].message


def test_a_loss_of_exactly_zero_is_told_after_three_steps_also_when_each_report_covers_ten() -> None:
    changes = feed([training(), *steps([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])])
    assert [(change.rule, change.step) for change in changes] == [("zero_loss", 5)]
    assert "steps 3 to 5" in changes[0].message
    assert fired(feed([training(), *steps([1.0, 0.0], every=10)])) == ["zero_loss"]


def test_one_batch_of_nothing_is_no_alarm_and_pairs_that_are_all_won_are_none() -> None:
    assert fired(feed([training(), *steps([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])])) == []
    assert fired(feed([training(), *steps([0.5, *[0.0] * 20], reward_margin=12.0)])) == []


def test_a_loss_that_loses_what_was_learned_is_told_once_and_over_when_it_is_back() -> None:
    facts = [training(), *steps([*noisy(80, noise=0.05, fall=2.0), *[2.5] * 60, *[0.3] * 20])]
    changes = [change for change in feed(facts) if change.rule == "loss_explodes"]
    assert [change.active for change in changes] == [True, False]
    assert 80 < changes[0].step <= 90
    assert "the loss is 1.4" in changes[0].message
    assert "around step 80" in changes[0].message


def test_a_loss_above_that_of_the_untouched_model_is_told_also_if_it_exploded_in_the_second_step() -> None:
    for losses in ([3.8, 3.6, 1.9, *[6.5] * 9], [3.8, 91.0, 26.0, 51.0, *[30.0] * 8]):
        assert fired(feed([training(), *steps(losses)])) == ["loss_explodes"]


def test_a_loss_that_rises_a_little_for_long_is_not_called_an_explosion() -> None:
    losses = [*noisy(100, noise=0.05), *(0.75 * 1.002**place for place in range(100))]
    assert "loss_explodes" not in fired(feed([training(), *steps(losses)]))


def test_a_loss_that_does_not_move_is_told_from_the_held_out_rows() -> None:
    facts = [training(), *steps(noisy(200, noise=0.1, fall=0.0)), *evals([2.0, 2.0001, 2.0, 1.9999])]
    changes = feed(facts)
    assert fired(changes) == ["loss_flat"]
    assert "0.0002" in changes[0].message


def test_a_loss_that_does_not_move_is_told_without_held_out_rows_once_the_noise_allows_it() -> None:
    assert fired(feed([training(), *steps(noisy(120, noise=0.005, fall=0.0))])) == ["loss_flat"]
    assert fired(feed([training(), *steps(noisy(120, noise=0.3, fall=0.0))])) == []


def test_the_warm_up_is_no_standstill() -> None:
    rates = {"learning_rate": lambda step: 2e-4 * min(1.0, step / 300)}
    facts = [training(), *steps(noisy(140, noise=0.005, fall=0.0), **rates), *evals([2.0, 2.0])]
    assert fired(feed(facts)) == []


def test_a_plateau_after_the_loss_has_fallen_is_no_standstill() -> None:
    losses = [*noisy(60, noise=0.02, fall=1.0), *noisy(400, noise=0.02, fall=0.0, level=0.7)]
    facts = [training(), *steps(losses), *evals([0.9, *[0.7] * 8])]
    assert fired(feed(facts)) == []


@pytest.mark.parametrize(("field", "rule", "times"), [("loss", "loss_spike", 5), ("grad_norm", "gradient_spike", 40)])
def test_a_jump_is_told_with_its_ratio_and_over_after_ten_quiet_reports(field: str, rule: str, times: int) -> None:
    chance = random.Random(0)
    facts = [
        training(),
        *steps(noisy(80, noise=0.1, fall=0.1), grad_norm=lambda _: 3000 * math.exp(chance.gauss(0, 0.3))),
    ]
    middle = facts[50][field]
    facts[51] |= {field: middle * times}
    changes = feed(facts)
    assert [(change.rule, change.active) for change in changes] == [(rule, True), (rule, False)]
    assert [change.step for change in changes] == [51, 61]
    assert "times the median" in changes[0].message
    assert fired(feed([*facts[:51], facts[51] | {field: middle * 1.5}, *facts[52:]])) == []


def test_a_jump_of_a_loss_that_is_next_to_nothing_is_no_alarm() -> None:
    losses = [*noisy(60, noise=0.05, fall=6.0), *[0.005] * 40, 0.02, *[0.005] * 5]
    assert fired(feed([training(), *steps(losses)])) == []


def test_a_held_out_loss_that_rises_three_times_in_a_row_is_told_with_its_lowest_point() -> None:
    facts = [training(), *steps(noisy(400, fall=3.0)), *evals([1.0, 0.8, 0.7, 0.75, 0.8, 0.85, 0.9])]
    changes = feed(facts)
    assert fired(changes) == ["overfitting"]
    assert changes[0].step == 300
    assert "step 150 (0.7)" in changes[0].message
    assert "keep_best" in changes[0].advice


@pytest.mark.parametrize(
    "held_out",
    [[1.0, 0.8, 0.7, 0.71, 0.72, 0.715], [1.0, 0.8, 0.9, 0.75, 0.9, 0.74, 0.85], [3.0, 0.02, 0.022, 0.023, 0.024]],
    ids=["hovers", "bounces", "nothing worth"],
)
def test_a_held_out_loss_that_hovers_bounces_or_is_tiny_is_no_alarm(held_out: list[float]) -> None:
    assert fired(feed([training(), *steps(noisy(400, fall=3.0)), *evals(held_out)])) == []


def test_a_training_that_says_nothing_is_told_after_a_minute_and_speaking_again_ends_it() -> None:
    quiet = looks(75, t=100.0)
    changes = feed([training(), *steps(noisy(100)), *quiet])
    assert fired(changes) == ["stalled"]
    assert "step 100" in changes[0].message
    assert fired(feed([training(), *steps(noisy(100)), *quiet[:58]])) == []
    spoke = feed([training(), *steps(noisy(100)), *quiet, *steps([1.0], first=101, t=180.0)])
    assert over(spoke) == ["stalled"]


def test_silence_is_normal_between_reports_in_an_evaluation_that_is_due_and_while_the_machine_sleeps() -> None:
    sparse = RunConfig(training=TrainingConfig(log_every=100))
    assert fired(feed([training(), *steps(noisy(5), every=100), *looks(250, t=500.0)], sparse)) == []
    large = {"t": 0.0, "event": "data", "train": 800, "validation": 1600}  # 200 steps' time at 8 rows a step
    assert fired(feed([large, training(), *steps(noisy(50)), *looks(300, t=50.0)])) == []
    assert fired(feed([training(), *steps(noisy(50)), *looks(10, t=50.0), *looks(40, t=90_000.0)])) == []
    saving = {"t": 51.0, "event": "phase", "phase": "saving the model"}
    assert fired(feed([training(), *steps(noisy(50)), saving, *looks(4000, t=52.0)])) == []


def test_the_patience_with_silence_grows_with_what_is_normal() -> None:
    assert (patience(None), patience(0.1), patience(10.0)) == (300, 60, 200)
    assert patience(1.0, report_every=50) == 150
    assert patience(1.0, pause=500) == 1000
    assert patience(1.0, pause=1e9) == 3600


def test_half_the_speed_for_a_minute_is_told_and_the_usual_speed_ends_it() -> None:
    def course(paces: list[tuple[int, float]]) -> list[Fact]:
        facts, seconds, step = [training()], 0.0, 0
        for count, pace in paces:
            for _ in range(count):
                step, seconds = step + 1, seconds + pace
                facts += steps([1.0], first=step) if not step % 50 else steps([1.0 + (step % 7) / 10], first=step)
                facts[-1] |= {"t": seconds, "seconds": seconds}
        return facts

    slower = [change for change in feed(course([(400, 1.0), (200, 2.5), (200, 1.0)])) if change.rule == "slower"]
    assert [change.active for change in slower] == [True, False]
    assert "400 tokens a second" in slower[0].message
    assert "1,000" in slower[0].message
    for healthy in ([(400, 1.0), (200, 1.7)], [(400, 1.0), (10, 4.0), (200, 1.0)], [(50, 1.0), (50, 3.0)]):
        assert "slower" not in fired(feed(course(healthy)))


def test_a_failure_at_the_hub_is_told_with_its_reason_and_a_new_attempt_ends_it() -> None:
    failed: Fact = {"t": 9.0, "event": "warning", "kind": "hub", "message": "Uploading to me/it was refused: 503."}
    changes = feed([training(), failed], alerts=(alerts := Alerts(RunConfig())))
    assert [(change.rule, change.message) for change in changes] == [("hub_unreachable", failed["message"])]
    again: Fact = {"t": 10.0, "event": "phase", "phase": "reading the data"}
    assert over(feed([again], alerts=alerts)) == ["hub_unreachable"]
    assert fired(feed([{"t": 1.0, "event": "warning", "message": "3 rows were left out."}])) == []


FULL = 0.97 * 64 * GB


@pytest.mark.parametrize(
    ("rule", "seconds", "wrong", "words"),
    [
        ("memory_full", 10, {"memory_used": FULL}, "97%"),
        ("gpu_memory_full", 60, {"gpu_used": 79 * GB}, "GPU 0"),
        ("disk_full", 3, {"disk_used": 499.5 * GB}, "0.50 of 500.0 GB"),
        ("gpu_throttled", 30, {"throttled": True, "temperature": 91}, "91 °C"),
        ("gpu_idle", 180, {"utilisation": 0}, "3 minutes"),
    ],
)
def test_a_machine_in_trouble_is_told_after_a_while_and_over_after_as_long(
    rule: str, seconds: int, wrong: dict[str, Any], words: str
) -> None:
    facts = [training(), *steps(noisy(600, noise=0.01), pace=1.0)]
    peak = feed([*facts, *looks(seconds, **wrong), *looks(600 - seconds, t=float(seconds))])
    assert fired(peak) == []
    changes = feed([*facts, *looks(seconds + 1, **wrong), *looks(250, t=seconds + 1.0)])
    assert [(change.rule, change.active) for change in changes] == [(rule, True), (rule, False)]
    assert words in changes[0].message


def test_room_for_two_checkpoints_is_wanted_however_large_the_disk_is() -> None:
    model = {"t": 0.0, "event": "model", "trained": 1_000_000_000}  # 12 GB a checkpoint
    short, enough = looks(10, disk_used=480 * GB), looks(10, disk_used=470 * GB)
    assert (fired(feed([model, *short])), fired(feed([model, *enough])), fired(feed(short))) == (["disk_full"], [], [])


def test_a_gpu_is_not_called_idle_before_the_training_or_while_another_one_works() -> None:
    assert fired(feed(looks(400, utilisation=0))) == []
    busy = [{"utilisation": 0}, {"utilisation": 50}]
    assert "gpu_idle" not in fired(feed([training(), *steps(noisy(400)), *looks(400, gpus=busy)]))


def test_a_rule_that_comes_and_goes_is_heard_less_and_less_often() -> None:
    facts = [training(), *steps(noisy(7200, noise=0.01, fall=0.1))]
    flapping = [
        look for t in range(0, 7200, 40) for look in (*looks(20, t=t, memory_used=FULL), *looks(20, t=t + 20.0))
    ]
    changes = [change for change in feed([*facts, *flapping]) if change.rule == "memory_full"]
    assert len(flapping) == 7200
    assert 5 <= len(fired(changes)) <= 8
    assert len(fired(changes)) == len(over(changes))


def test_a_resumed_run_begins_anew_and_forgets_what_came_after_its_checkpoint() -> None:
    exploded = [training(), *steps([*noisy(80, noise=0.05, fall=2.0), *[2.5] * 20])]
    resumed = [training(step=50, t=200.0), *steps(noisy(100, level=0.6, noise=0.05, fall=1.0), first=51, t=200.0)]
    changes = feed([*exploded, *resumed])
    assert fired(changes).count("loss_explodes") == 1
    assert over(changes)[-1] == "loss_explodes"


def test_a_rule_that_stopped_a_run_speaks_again_if_nothing_has_become_better() -> None:
    exploded = [training(), *steps([*noisy(80, noise=0.05, fall=2.0), *[2.5] * 20])]
    resumed = [training(step=100, t=200.0), *steps([2.5] * 20, first=101, t=200.0)]
    assert fired(feed([*exploded, *resumed])).count("loss_explodes") == 2


def test_the_same_facts_lead_to_the_same_alerts() -> None:
    facts = [training(), *steps([*noisy(80), *[9.0] * 20]), *looks(200, memory_used=FULL)]
    assert feed(facts) == feed(facts) != []


def test_strange_facts_harm_no_rule() -> None:
    odd: list[Any] = [None, "x", True, -1, [], {}, 0]
    for value in odd:
        for event in ("step", "eval", "phase", "data", "model", "warning", "result", "published", "else"):
            names = (
                "step",
                "loss",
                "grad_norm",
                "phase",
                "train",
                "validation",
                "trained",
                "error",
                "tokens",
                "seconds",
            )
            feed([training(), *({"t": float(t), "event": event, **dict.fromkeys(names, value)} for t in range(30))])
        feed(looks(20, memory_used=FULL, own=value))
        feed(looks(5, gpus=value) + looks(5, memory_used=value, memory_total=value, disk_used=value, own=value))


def test_what_is_still_wrong_is_read_from_what_was_told() -> None:
    told: list[Fact] = [
        {"t": 1.0, "event": "alert", "rule": "stalled", "active": True},
        {"t": 2.0, "event": "alert", "rule": "slower", "active": True},
        {"t": 3.0, "event": "alert", "rule": "stalled", "active": False},
    ]
    assert [fact["rule"] for fact in still_active(told)] == ["slower"]
