"""The machine over a whole run, by what the supervisor sampled: read once, then only as far as the file has grown.

Promises one table for a machine with any number of GPUs, in which a figure that a card does not report is NaN. Units
are percent, bytes, degrees Celsius, watts and unix seconds. Names of columns: `cpu`, `memory`, `disk`, `own_cpu`
(percent of one core), `own_memory`, and for each GPU `gpu0_use`, `gpu0_memory`, `gpu0_temperature`, `gpu0_power`.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from gemma_ft.events import Fact
from gemma_ft.monitor.columns import Columns, by_column
from gemma_ft.monitor.reading import LineReader, parse

FIGURES = {"cpu_percent": "cpu", "memory_used": "memory", "disk_used": "disk"}
GPU_FIGURES = {"utilisation": "use", "memory_used": "memory", "temperature": "temperature", "power": "power"}
MOST_GPUS = 16
TAIL_BYTES = 16_384


class MachineHistory:
    """The samples of one run. Hold `lock` while reading more than one thing."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.columns = Columns()
        self.newest: Fact = {}
        self._path = path
        self._reader = LineReader(path)

    def refresh(self, seconds: float | None = None) -> MachineHistory:
        """Read what was appended since the last call; with `seconds`, stop about then."""
        until = None if seconds is None else time.monotonic() + seconds
        with self.lock:
            while True:
                if samples := [sample for sample in self._reader.read() if isinstance(sample.get("t"), (int, float))]:
                    self.columns.extend(by_column([flat(sample) for sample in samples]), len(samples))
                    self.newest = samples[-1]
                if not self._reader.behind or (until is not None and time.monotonic() >= until):
                    break
        return self

    @property
    def share_read(self) -> float | None:
        """How much of the file has been read, between 0 and 1; `None` when that is all of it."""
        with self.lock:
            return self._reader.offset / self._reader.size if self._reader.behind else None

    def last_sample(self) -> Fact:
        """Return the newest sample without reading the file as a whole; empty before there is one."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                lines = file.read().split(b"\n")
        except OSError:
            return {}
        whole = lines[size > TAIL_BYTES : -1]
        return next((sample for line in reversed(whole) for sample in parse(line)), {})


def flat(sample: Fact) -> dict[str, Any]:
    """Return one sample as a row of the table."""
    row = {ours: sample.get(theirs) for theirs, ours in FIGURES.items()}
    row["t"] = sample["t"]
    own = sample.get("own")
    if isinstance(own, dict):
        row["own_cpu"], row["own_memory"] = own.get("cpu_percent"), own.get("memory_used")
    gpus = sample.get("gpus")
    for number, gpu in enumerate(gpus[:MOST_GPUS] if isinstance(gpus, list) else ()):
        if isinstance(gpu, dict):
            row |= {f"gpu{number}_{ours}": gpu.get(theirs) for theirs, ours in GPU_FIGURES.items()}
    return row


def totals(sample: Fact) -> dict[str, Any]:
    """Return what a machine has, as its newest sample says: memory, disk, and the name and memory of each GPU."""
    gpus = sample.get("gpus")
    return {
        "memory": sample.get("memory_total"),
        "disk": sample.get("disk_total"),
        "cores": sample.get("cores"),
        "gpus": [
            {"name": gpu.get("name"), "memory": gpu.get("memory_total")}
            for gpu in (gpus[:MOST_GPUS] if isinstance(gpus, list) else ())
            if isinstance(gpu, dict)
        ],
    }
