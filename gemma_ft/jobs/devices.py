"""Who trains on which device: a lock file for each GPU, or one for the processor of a machine without GPUs.

Promises that a device is free exactly when nobody who took it lives any more, whatever became of them: the lock is the
kernel's (`flock`), and a trainer inherits it from its supervisor. Nothing has to be cleaned up. Does not know what a
device can do.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gemma_ft.config import RunConfig
from gemma_ft.hardware import Machine
from gemma_ft.sharing import processes_for

PROCESSOR = "cpu"


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices that this process holds, and the open files that do so; a child that inherits these holds them too."""

    names: tuple[str, ...]
    files: tuple[int, ...]

    @property
    def gpus(self) -> tuple[int, ...]:
        """The numbers of the GPUs among all that this installation sees; empty for the processor."""
        return tuple(int(name.removeprefix("gpu-")) for name in self.names if name != PROCESSOR)

    def release(self) -> None:
        """Let go; a child that inherited them goes on holding them."""
        for file in self.files:
            with suppress(OSError):
                os.close(file)


def names_of(machine: Machine) -> tuple[str, ...]:
    """Return the devices of a machine: its GPUs, or else its processor."""
    return tuple(f"gpu-{number}" for number in range(len(machine.gpus))) or (PROCESSOR,)


def needed(config: RunConfig, machine: Machine) -> int:
    """Return how many devices a run trains on."""
    return min(processes_for(config, machine), len(names_of(machine)))


def take(folder: Path, names: Sequence[str], number: int) -> Devices | None:
    """Take so many of the devices, the first that are free; `None` when there are too few. Never waits."""
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, int] = {}
    for name in names:
        if len(held) == number:
            break
        file = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held[name] = file
        except BlockingIOError:
            os.close(file)
    devices = Devices(tuple(held), tuple(held.values()))
    if len(held) == number:
        return devices
    devices.release()
    return None
