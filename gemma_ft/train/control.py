"""The trainer's ear: who asked it to leave, and how it leaves.

Promises that a wish, SIGTERM, or the loss of the supervisor is noticed in every phase. Before and after the training
loop the main thread is interrupted with `StopRequested`; inside the loop the request waits for the next (sub)step, so
that a checkpoint can be written. Of several processes that train together each listens, and `agreed` is what all of
them act on; when their launcher is gone they end at once. Does not save anything itself.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, get_args

from gemma_ft.failures import FAILED
from gemma_ft.monitor.identity import is_alive
from gemma_ft.rundir import RunDir
from gemma_ft.train import ranks

Asked = Literal["interrupted", "stop", "cancel"]
"""What may be asked for; what comes later is stronger."""
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
        self._supervisor = run.state().supervisor
        self._parent = os.getppid()
        self._terminated = False
        self._at_steps = False
        self._told = False
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._watch, name="wishes", daemon=True).start()

    def asked(self) -> Asked | None:
        """Return what was asked for, if anything.

        A machine that goes down and a lost supervisor ask to save and leave, and to be resumed.
        """
        if wish := self._run.wished():
            return "interrupted" if wish == "shutdown" else wish
        if not is_alive(self._supervisor) if self._supervisor else os.getppid() != self._parent:
            return "interrupted"
        # The launcher ends the others when one process failed: that is no wish.
        return "interrupted" if self._terminated and ranks.count() == 1 else None

    @property
    def terminated(self) -> bool:
        """Whether SIGTERM has come: the time that a stop may take is up."""
        return self._terminated

    def agreed(self) -> Asked | None:
        """Return the strongest of what the processes that train together were asked for; all have to call it."""
        words = get_args(Asked)
        asked = self.asked()
        found: Asked | None = (None, *words)[ranks.highest(words.index(asked) + 1 if asked else 0)]
        return found

    def saves_now(self) -> bool:
        """Tell whether a checkpoint is asked for on the way, and note that it is made; all processes have to call it.

        The main one reads the wish, so all do the same.
        """
        asked = ranks.is_main() and self._run.requested("save_now")
        if asked:
            self._run.grant("save_now")
        return ranks.highest(int(asked)) > 0

    def samples_now(self, *, together: bool) -> bool:
        """Tell whether answers are asked for on the way, and note that they are given.

        Only the main process calls this, unless all answer `together`.
        """
        asked = ranks.is_main() and self._run.requested("sample_now")
        if asked:
            self._run.grant("sample_now")
        return ranks.highest(int(asked)) > 0 if together else asked

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
            if asked := self.asked():
                raise StopRequested(asked)
            raise ranks.PeerLost

    def _watch(self) -> None:
        pause = threading.Event()
        while not self._told or ranks.count() > 1:
            if ranks.count() > 1 and os.getppid() != self._parent:
                os._exit(FAILED)
            if not self._told and self.asked() and not self._at_steps:
                os.kill(os.getpid(), signal.SIGTERM)
            pause.wait(WATCH_SECONDS)


def _imports(frame: FrameType | None) -> bool:
    """Tell whether an import is going on: an exception there may crash a C extension, and a moment later will do."""
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
