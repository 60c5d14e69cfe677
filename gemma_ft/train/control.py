"""The trainer's ear: who asked it to leave, and how it leaves.

Promises that a wish, SIGTERM, or the loss of the supervisor is noticed in every phase. Before and after the training
loop the main thread is interrupted with `StopRequested`; inside the loop the request waits for the next (sub)step, so
that a checkpoint can be written. Does not save anything itself.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from gemma_ft.rundir import RunDir

Asked = Literal["stop", "cancel", "interrupted"]
WATCH_SECONDS = 0.25


class StopRequested(BaseException):
    """Not a failure: somebody asked the trainer to leave. No library's `except Exception` may swallow it."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.asked = asked


class Control:
    """Watches the run's wishes and the supervisor from a thread of its own; create it in the main thread."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        supervisor = run.state().supervisor
        self._supervisor = supervisor.pid if supervisor else os.getppid()
        self._terminated = False
        self._at_steps = False
        self._told = False
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._watch, name="wishes", daemon=True).start()

    def asked(self) -> Asked | None:
        """Return what was asked for, if anything; a lost supervisor asks to save and leave."""
        if wish := self._run.wished():
            return wish
        if os.getppid() != self._supervisor:
            return "interrupted"
        return "stop" if self._terminated else None

    @contextmanager
    def at_steps_only(self) -> Iterator[None]:
        """Within this block a request waits for `asked` to be called; outside it interrupts the main thread.

        A request that came within the block counts as heard when the block ends.
        """
        self._at_steps = True
        try:
            yield
        finally:
            self._told = self.asked() is not None
            self._at_steps = False

    def check(self) -> None:
        """Raise `StopRequested` if anybody asked, except where a request has to wait for a step."""
        if not self._at_steps and (asked := self.asked()):
            self._told = True
            raise StopRequested(asked)

    def _on_sigterm(self, _: int, frame: FrameType | None) -> None:
        self._terminated = True
        if not self._at_steps and not self._told and not _imports(frame):
            self._told = True
            raise StopRequested(self.asked() or "stop")

    def _watch(self) -> None:
        pause = threading.Event()
        while not self._told:
            if self.asked() and not self._at_steps:
                os.kill(os.getpid(), signal.SIGTERM)
            pause.wait(WATCH_SECONDS)


def _imports(frame: FrameType | None) -> bool:
    """Tell whether an import is going on: an exception there may crash a C extension, and a moment later will do."""
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
