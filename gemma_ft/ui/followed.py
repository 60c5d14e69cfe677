"""One run as the page follows it: its facts, its machine, its log and its alerts, read on for all browsers together.

Promises that each file is read by offset and each byte once, in calls of limited length, and that what many browsers
ask for at the same time (the whole curves) is made once. Does not know what a browser knows already.
"""

from __future__ import annotations

import threading
from typing import Any

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.events import Fact
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.log_lines import LogLines
from gemma_ft.monitor.machine_history import MachineHistory
from gemma_ft.monitor.reading import LineReader
from gemma_ft.monitor.summary import describe_run
from gemma_ft.rundir import RunDir
from gemma_ft.ui.series import BUCKETS, steps_between

FACTS_SECONDS = 0.25
"""How long one call reads facts, or a log; the next call goes on."""


class FollowedRun:
    """What has been read of one run. Its parts have locks of their own."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.facts = RunFacts(run.events)
        self.machine = MachineHistory(run.system)
        self.log = LogLines(run.log)
        self.about = describe_run(run)
        self.alerts: list[Fact] = []
        self._alerts = LineReader(run.alerts)
        self._lock = threading.Lock()
        self.config = _config(run)
        self._whole: tuple[int, int, dict[str, Any]] | None = None

    def read_on(self) -> float | None:
        """Read what is new of facts, log and alerts; return the share that is read, or `None` when that is all."""
        # The trainer writes a phase before it logs it: of what is in the log up to here the facts are there.
        end = self.log.size()
        self.facts.refresh(FACTS_SECONDS)
        share = self.facts.share_read
        if share is None:
            self.log.read_to(end, self.facts.phases, FACTS_SECONDS)
            share = (end - self.log.behind) / end if self.log.behind else None
        with self._lock:
            self.alerts += self._alerts.read()
        return share

    def whole_curves(self) -> tuple[int, dict[str, Any]]:
        """Return the curves of about all steps, and how many rows that are; the rest comes with the next question.

        Call it with the facts locked.
        """
        columns, generation = self.facts.columns, self.facts.generation
        if self._whole and self._whole[0] == generation and columns.rows - self._whole[1] <= BUCKETS <= columns.rows:
            return self._whole[1], self._whole[2]
        rows = columns.rows
        self._whole = (generation, rows, steps_between(columns, 0, rows))
        return rows, self._whole[2]

    def bytes(self) -> int:
        """Return about how much memory its long parts take."""
        return self.facts.columns.bytes() + self.machine.columns.bytes()


def _config(run: RunDir) -> RunConfig | None:
    try:
        return run.config()
    except ConfigError:
        return None
