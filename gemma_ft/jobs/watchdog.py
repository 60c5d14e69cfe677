"""Watches one run for its supervisor: reads its facts, asks the alert rules, tells and does what was chosen.

Promises that it works with no page open, that each alert stands once in `alerts.jsonl` with what was done about it,
that what happened before this supervisor began is learned again (a piece at each look, however long the run is) without
being told or acted on twice, and that a mistake in a rule ends the watching and not the training.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable
from contextlib import suppress

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.events import FactWriter, read_facts
from gemma_ft.monitor.alerts import Alert, Alerts, still_active
from gemma_ft.monitor.rules import Sample
from gemma_ft.reactions import Action, AlertsConfig
from gemma_ft.rundir import RunDir

PIECE_BYTES = 1_000_000
"""About 3,000 steps, which take the rules a tenth of a second to learn."""


class Watchdog:
    """The alerts of one run, from the beginning of one supervisor to its end."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._read_from = 0
        self._before = run.events.stat().st_size if run.events.exists() else 0
        self._reactions = AlertsConfig()
        self._alerts: Alerts | None = None
        self._writer: FactWriter | None = None
        # A configuration that cannot be read is told by the trainer; there will be nothing to watch.
        with suppress(ConfigError):
            self._watch(run.config())

    def look(self, sample: Sample) -> list[Alert]:
        """Read on, and look at the machine (`sample` may be empty); call it about once a second.

        Returns the alerts that are new; they are written down already, and what was to be done was asked for.
        """
        if self._writer is not None:
            with suppress(OSError):
                self._writer.write_held()
        if self._alerts is None or self._run.wished():  # It is being stopped already.
            return []
        try:
            return self._look(self._alerts, sample)
        except Exception:  # noqa: BLE001 - the supervisor would take the training along.
            traceback.print_exc()
            self._alerts = None
            return []

    def _watch(self, config: RunConfig) -> None:
        self._reactions = config.alerts
        self._alerts = Alerts(config)

    def _look(self, alerts: Alerts, sample: Sample) -> list[Alert]:
        if self._read_from < self._before:
            self._learn(alerts)
            return []
        facts, self._read_from = read_facts(self._run.events, self._read_from, most=PIECE_BYTES)
        changes = [change for fact in facts for change in alerts.take(fact)]
        changes += alerts.look(sample, time.time())
        self._tell((change, self._react(change)) for change in changes)
        return [change for change in changes if change.active]

    def _learn(self, alerts: Alerts) -> None:
        """Learn from the next piece of what was there before; after the last one set right what is told."""
        most = min(PIECE_BYTES, self._before - self._read_from)
        begin = self._read_from
        facts, self._read_from = read_facts(self._run.events, begin, most=most)
        for fact in facts:
            alerts.take(fact)
        if self._read_from == begin:  # A line that was torn by a crash: nothing more comes of it.
            self._read_from = self._before
        if self._read_from < self._before:
            return
        known = {str(fact.get("rule")): fact for fact in still_active(read_facts(self._run.alerts)[0])}
        now = {alert.rule: alert for alert in alerts.active()}
        over = [alert for rule in known.keys() - now.keys() if (alert := alerts.over(rule))]
        self._tell((alert, "nothing") for alert in [*over, *(now[rule] for rule in now.keys() - known.keys())])

    def _react(self, change: Alert) -> Action:
        """Ask for what is to be done, and return what that is."""
        action: Action = getattr(self._reactions, change.rule) if change.active else "nothing"
        if action == "save":
            self._run.request("save_now")
        elif action == "stop":
            self._run.wish("stop")
        return action

    def _tell(self, changes: Iterable[tuple[Alert, Action]]) -> None:
        """Write changes down as facts `alert`; those that find the disk full follow once there is room."""
        for alert, action in changes:
            with suppress(OSError):
                if self._writer is None:
                    self._writer = FactWriter(self._run.alerts)
                self._writer.append(
                    "alert",
                    rule=alert.rule,
                    severity=alert.severity,
                    title=alert.title,
                    message=alert.message,
                    advice=alert.advice,
                    step=alert.step,
                    action=action,
                    active=alert.active,
                )
