"""How a run waits for its turn: its supervisor stands in line until it is the first and a device is free.

Promises the order of the line: nobody is overtaken who really waits, and a run whose supervisor is gone or hangs keeps
nobody waiting. The devices are taken under the lock of the line, so two runs never take the same. Does not train.
"""

from __future__ import annotations

import time

from filelock import Timeout

from gemma_ft.errors import ConfigError
from gemma_ft.jobs.devices import Devices, names_of, needed, take
from gemma_ft.jobs.queue import Queue
from gemma_ft.jobs.truth import is_attended
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings

LOOK_SECONDS = 0.5


class Turn:
    """The place of one run in the line."""

    def __init__(self, run: RunDir, settings: Settings) -> None:
        self._run = run
        self._queue = Queue(settings.queue)
        self._folder = settings.devices
        machine = this_machine(run.path)
        self._names = names_of(machine)
        try:
            self._number = needed(run.config(), machine)
        except ConfigError:  # The trainer reads it too, and says what is wrong with it.
            self._number = 1
        self._next_look = 0.0

    def come(self) -> Devices | None:
        """Return the devices if it is this run's turn; looks twice a second, however often it is asked."""
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            with self._queue.lock().acquire(blocking=False):
                return None if self._is_behind() else take(self._folder, self._names, self._number)
        except Timeout:
            return None

    def leave(self) -> None:
        """Leave the line: the turn has come, or is not wanted any more."""
        self._queue.leave(self._run.run_id)

    def _is_behind(self) -> bool:
        """Tell whether another run waits in front of this one."""
        order = self._queue.order()
        place = order.index(self._run.run_id) if self._run.run_id in order else len(order)
        return any(self._waits(RunDir(self._run.path.parent / run_id)) for run_id in order[:place])

    def _waits(self, run: RunDir) -> bool:
        if not run.state_file.is_file():
            return False
        state = run.state()
        return state.status == "queued" and is_attended(run, state.supervisor)
