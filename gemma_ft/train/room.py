"""Waiting for room on the disk, instead of failing, where the trainer saves.

Promises that what is written while the disk fills up is written again as a whole once there is room, that nothing else
of the training changes meanwhile, and that the person is told. Whoever cancels is obeyed at once; a stop waits for
room as long as the stop ladder lets it, and a run whose supervisor is gone leaves. Of several processes that train
together all wait if one has to; there a disk that fills up in the middle of a checkpoint ends the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_ft.config import RunConfig
from gemma_ft.estimate.disk import certain_bytes
from gemma_ft.events import FactWriter
from gemma_ft.full_disk import free_bytes, is_full_disk
from gemma_ft.monitor.disk import require_free, saved, size_in_words
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.rundir import RunDir
from gemma_ft.train import ranks
from gemma_ft.train.control import Control, StopRequested
from gemma_ft.train.progress import Progress

POLL_SECONDS = 1.0
TELL_SECONDS = 15.0
"""How often the phase is told anew, with the figures of the moment."""
LONGEST_PAUSE_SECONDS = 30.0
"""How long to wait at most before it is tried again, when there seems to be room (quotas do not show)."""


class Room:
    """The disk of one run, for the trainer's large files."""

    def __init__(self, run: RunDir, control: Control, progress: Progress) -> None:
        self._folder, self._control, self._progress = run.path, control, progress
        self._warned = False

    def write(
        self,
        write: Callable[[], Any],
        *,
        needed: int = 0,
        undo: Callable[[], None] = lambda: None,
        together: bool = False,
    ) -> None:
        """Call `write` when `needed` bytes are free, and again, after `undo`, for as long as the disk is full.

        `together` says that all processes come here at the same point. Raises `StopRequested` for who cannot wait, and
        what `write` raises otherwise.
        """
        phase, not_before, pause = self._progress.current, 0.0, POLL_SECONDS
        while True:
            self._wait(needed, not_before, together=together)
            try:
                write()
            except Exception as exc:
                full = is_full_disk(exc, self._folder)
                undo()
                if not full or (together and ranks.count() > 1):
                    raise
            else:
                break
            not_before, pause = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_SECONDS)
        if self._progress.current != phase:
            self._progress.phase(phase)

    def _wait(self, needed: int, not_before: float, *, together: bool) -> None:
        """Wait for room, and for the time of the next attempt, telling so. Raises `StopRequested`."""
        next_word = 0.0
        while self._agreed(time.monotonic() < not_before or free_bytes(self._folder) < needed, together=together):
            if time.monotonic() >= next_word:
                next_word = time.monotonic() + TELL_SECONDS
                self._tell(needed)
            if asked := leaving(self._control, together=together):
                raise asked
            time.sleep(POLL_SECONDS)

    def _tell(self, needed: int) -> None:
        free = free_bytes(self._folder)
        figures = f"needs {size_in_words(needed)}, {size_in_words(free)} free"
        if free >= needed:  # The small files beside the weights, or a quota, made the difference.
            figures = f"{size_in_words(free)} free are not enough"
        if (phase := f"waiting for disk space ({figures})") != self._progress.current:
            self._progress.phase(phase)
        else:
            self._progress.fact("phase", phase=phase)  # A sign of life.
        if not self._warned:
            self._warned = True
            said = "It goes on by itself once there is room; delete checkpoints of old runs, for example."
            self._progress.warn(f"The disk is full: {figures}. {said}", kind="disk_full", needed=needed)

    @staticmethod
    def _agreed(waits: bool, *, together: bool) -> bool:
        return ranks.highest(int(waits)) > 0 if together else waits


def leaving(control: Control, *, together: bool = False) -> StopRequested | None:
    """Return why waiting has to end: a cancel, a stop whose time is up, or a supervisor that is gone."""
    asked = control.agreed() if together else control.asked()
    up = ranks.highest(int(control.terminated)) > 0 if together else control.terminated
    if asked in ("cancel", "interrupted"):
        return StopRequested(asked)
    return StopRequested("stop") if up else None


def wait_until_written(facts: FactWriter, control: Control | None) -> None:
    """Wait until the last facts have found room on the disk, or somebody cannot wait."""
    try:
        while not facts.write_held() and control is not None and leaving(control) is None:
            time.sleep(POLL_SECONDS)
    except StopRequested:
        return


def require_room(run: RunDir, config: RunConfig, base_folder: Path, rows: Any) -> None:
    """Raise `DiskError` when the disk certainly cannot hold what the run will save."""
    from gemma_ft.train.fitting import workload_of
    from gemma_ft.train.inspection import inspect

    done, have = saved(run)
    shape, machine = inspect(base_folder), this_machine(run.path)
    needed = certain_bytes(config, shape, machine, workload_of(rows), done=done, have=have)
    require_free(run.path.parent, needed, apart_from=run.run_id)


def weights_bytes(model: Any) -> int:
    """Return what the weights take that are saved: those of the adapter, or all."""
    adapter = hasattr(model, "peft_config")
    saved_ones = [each for each in model.parameters() if each.requires_grad or not adapter]
    return sum(each.numel() * each.element_size() for each in saved_ones)


def checkpoint_bytes(trainer: Any) -> int:
    """Return what the weights and the optimizer's state of a checkpoint take, without the small files beside them."""
    states = trainer.optimizer.state.values() if trainer.optimizer is not None else ()
    kept = [each for state in states for each in state.values() if hasattr(each, "element_size")]
    return weights_bytes(trainer.model) + sum(int(each.numel() * each.element_size()) for each in kept)


def settle(folder: Path) -> None:
    """Make sure that what was written into a folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
