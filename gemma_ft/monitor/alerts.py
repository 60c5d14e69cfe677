"""Alerts: what the rules find wrong with a run, told once when it begins and once when it is over.

Promises that a rule which goes on and off is heard less and less often (each time it waits twice as long before it
speaks again), and that the same facts lead to the same alerts, live or read again. Reads no files and does nothing;
`jobs.watchdog` does. `python -m gemma_ft.monitor.alerts` prints `docs/alerts.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from gemma_ft.config import RunConfig
from gemma_ft.events import Fact
from gemma_ft.monitor.course_rules import HubUnreachable, Slower, Stalled
from gemma_ft.monitor.curve_rules import GradientSpike, LossSpike, NotFinite, Overfitting, ZeroLoss
from gemma_ft.monitor.learning_rules import LossExplodes, LossFlat
from gemma_ft.monitor.machine_rules import DiskFull, GpuIdle, GpuMemoryFull, GpuThrottled, MemoryFull
from gemma_ft.monitor.rules import Rule, Sample, Setup, Severity, number, step_of
from gemma_ft.reactions import AlertsConfig

RULES: tuple[type[Rule], ...] = (
    NotFinite,
    ZeroLoss,
    LossExplodes,
    LossFlat,
    LossSpike,
    GradientSpike,
    Overfitting,
    Stalled,
    Slower,
    MemoryFull,
    GpuMemoryFull,
    DiskFull,
    GpuThrottled,
    GpuIdle,
    HubUnreachable,
)
REPEAT_SECONDS = 60.0
"""After its first alert a rule is silent for this time, then for twice as long, and so on."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something began to be wrong (`active`), or is over; `message` says what happened, with the numbers."""

    rule: str
    severity: Severity
    title: str
    message: str
    advice: str
    step: int
    active: bool


@dataclass(slots=True)
class _Voice:
    """How a rule has spoken so far in this attempt."""

    active: bool = False
    times: int = 0
    not_before: float = 0.0


class Alerts:
    """All rules on one run."""

    def __init__(self, config: RunConfig) -> None:
        setup = Setup.of(config)
        self._rules = [rule(setup) for rule in RULES]
        self._voices = {rule.name: _Voice() for rule in self._rules}
        self._step = 0

    def take(self, fact: Fact) -> list[Alert]:
        """Feed the next fact, and return what changes with it."""
        if fact.get("event") == "step":
            self._step = step_of(fact)
        if fact.get("event") == "phase" and "step" in fact:
            self._step = step_of(fact)
            for rule in self._rules:
                rule.begin(self._step)
                self._voices[rule.name].times, self._voices[rule.name].not_before = 0, 0.0
        for rule in self._rules:
            rule.take(fact)
        return self._changes(number(fact.get("t")) or 0.0)

    def look(self, sample: Sample, now: float) -> list[Alert]:
        """Feed a look at the machine (empty if there is none), about once a second, and return what changes with it."""
        for rule in self._rules:
            rule.look(sample, now)
        return self._changes(now)

    def active(self) -> list[Alert]:
        """Return what is wrong now and was told."""
        return [self._alert(rule, active=True) for rule in self._rules if self._voices[rule.name].active]

    def over(self, name: str) -> Alert | None:
        """Return that a rule's alert is over; `None` if there is no such rule (any more)."""
        return next((self._alert(rule, active=False) for rule in self._rules if rule.name == name), None)

    def _changes(self, now: float) -> list[Alert]:
        changed = []
        for rule in self._rules:
            voice = self._voices[rule.name]
            if rule.found and not voice.active and now >= voice.not_before:
                voice.active, voice.times = True, voice.times + 1
                voice.not_before = now + REPEAT_SECONDS * 2 ** (voice.times - 1)
                changed.append(self._alert(rule, active=True))
            elif voice.active and not rule.found:
                voice.active = False
                changed.append(self._alert(rule, active=False))
        return changed

    def _alert(self, rule: Rule, *, active: bool) -> Alert:
        message = rule.found if active else "This is over."
        return Alert(rule.name, rule.severity, rule.title, message, rule.advice, self._step, active)


def still_active(told: Iterable[Fact]) -> list[Fact]:
    """Return of the facts in `alerts.jsonl` those that are not over, oldest first."""
    newest = {str(fact.get("rule")): fact for fact in told if fact.get("event") == "alert"}
    return sorted((fact for fact in newest.values() if fact.get("active")), key=lambda fact: float(fact.get("t", 0.0)))


HEAD = """# Alerts

The supervisor of a run watches its facts and the machine, whether or not a page is open. What it finds is shown on the
page, kept in `alerts.jsonl` in the run's folder, and sent as a notice. What is done besides is a setting for each rule:
`alerts.<rule>: nothing | save | stop`, on the Method step under *What alerts do*. To stop saves a checkpoint first, so
the run can be resumed; if nothing has become better then, the rule may stop it again.

No rule compares a loss or a norm with a fixed number: a run is judged by its own. A rule speaks once, and once more
when it is over; if it comes again, it waits twice as long each time (1, 2, 4, ... minutes) before it speaks.

This page is made by `python -m gemma_ft.monitor.alerts`.

| rule | level | when | why so | what to do | default |
|---|---|---|---|---|---|
"""


def reference() -> str:
    """Return the page that lists all rules."""
    lines = []
    for rule in RULES:
        declared = AlertsConfig.model_fields[rule.name]
        cells = (f"`{rule.name}`: {rule.title}", rule.severity, declared.description, rule.why, rule.advice)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} | `{declared.default}` |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(reference())
