"""What the trainer tells the world while it works: phases with a bar, warnings, and the other facts.

Promises that each call is one line in `events.jsonl` and, where a person would want it, one line in the log; of several
processes that train together only one is heard. Calling `report` is also the moment at which a request to stop is
noticed in work that is done in small pieces.
"""

from __future__ import annotations

import logging
from typing import Any

from gemma_ft.events import FactWriter
from gemma_ft.train.control import Control

log = logging.getLogger("gemma_ft")


class Progress:
    """The run's facts, with the current phase remembered."""

    def __init__(self, facts: FactWriter, control: Control, *, heard: bool = True) -> None:
        self._heard = heard
        self._facts = facts
        self._control = control
        self.current = ""

    def phase(self, phase: str, **fields: Any) -> None:
        """Enter a phase of the run."""
        self._control.check()
        self.current = phase
        self.fact("phase", phase=phase, **fields)
        if self._heard:
            log.info("%s", phase.capitalize())

    def report(self, done: int, total: int) -> None:
        """Say how far the current phase is."""
        self._control.check()
        self.fact("phase", phase=self.current, done=done, total=total)

    def warn(self, message: str, **fields: Any) -> None:
        """Say something that does not stop the run and that the person should know; `fields` are for programs."""
        self.fact("warning", message=message, **fields)
        if self._heard:
            log.warning("%s", message)

    def fact(self, event: str, *, sync: bool = False, **fields: Any) -> None:
        """Write any other fact."""
        if self._heard:
            self._facts.append(event, sync=sync, **fields)
