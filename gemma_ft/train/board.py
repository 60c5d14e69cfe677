"""TensorBoard's event files, written as long as the disk lets us.

Promises that a full disk does not end the training: the points of that time are missing in TensorBoard (the facts have
them), and a new event file goes on once there is room.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback

from gemma_ft.full_disk import SCARCE_BYTES, free_bytes, is_full_disk

PAUSE_SECONDS = 10.0
"""How long to do without after a failure, before it is tried again."""


class Board(TensorBoardCallback):
    """Writes what the trainer logs to event files in a folder."""

    def __init__(self, folder: Path, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        super().__init__()
        self._folder, self._pause_seconds = folder, pause_seconds
        self._not_before = 0.0

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        """Open the event file and write the settings."""
        with self._bears_a_full_disk():
            super().on_train_begin(*given, **named)

    def on_log(self, *given: Any, **named: Any) -> None:
        """Write the figures, unless the disk was full a moment ago."""
        if self.tb_writer is None and (time.monotonic() < self._not_before or free_bytes(self._folder) < SCARCE_BYTES):
            return
        with self._bears_a_full_disk():
            super().on_log(*given, **named)

    def on_train_end(self, *given: Any, **named: Any) -> None:
        """Close the event file."""
        with self._bears_a_full_disk():
            super().on_train_end(*given, **named)

    def _init_summary_writer(self, args: Any) -> None:
        self.tb_writer = SummaryWriter(str(self._folder))

    @contextmanager
    def _bears_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if not is_full_disk(exc):
                raise
            self._not_before = time.monotonic() + self._pause_seconds
            broken, self.tb_writer = self.tb_writer, None
            if broken is not None:
                with suppress(OSError):
                    broken.close()
