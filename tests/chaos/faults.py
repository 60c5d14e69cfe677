"""What can happen to processes and files, done for real: signals, lost and torn ends of files, a full disk.

Promises to touch only processes and files that it is handed. The one thing that is imitated is a clock that was set
back: the times that are on record are moved instead, because a machine has only one clock.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gemma_ft.rundir import RunDir

SYNCED = ("checkpoint", "result", "published")
"""Facts that are on the disk before the trainer goes on; what comes after the last of them can be lost."""
APPENDED = ("events.jsonl", "system.jsonl", "output.log")
CLOCK_SECONDS = 3600.0
BALLAST = "ballast"


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that is there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_at_once(pids: list[int]) -> None:
    """Kill processes as a machine that goes down does: none of them sees the others die."""
    send(pids, signal.SIGSTOP)
    send(pids, signal.SIGKILL)


def tear(run: RunDir, names: Iterable[str], chance: random.Random) -> None:
    """Leave half a line at the end of files that are appended to and whose writer is dead."""
    for name in names:
        path = run.path / name
        if path.exists():
            line = json.dumps({"t": 1.0, "event": "step", "step": 99, "loss": 1.0}).encode()
            with path.open("ab") as file:
                file.write(line[: chance.randrange(1, len(line))])


def lose_tail(run: RunDir, chance: random.Random) -> None:
    """Take away a random part of what had not reached the disk for certain, or leave zeros in its place."""
    for name in APPENDED:
        path = run.path / name
        if not path.exists():
            continue
        content = path.read_bytes()
        begin = _synced(content) if name == "events.jsonl" else max(0, len(content) - 4096)
        cut = chance.randint(begin, len(content))
        zeros = b"\0" * chance.choice([0, 0, len(content) - cut])
        path.write_bytes(content[:cut] + zeros)


def _synced(content: bytes) -> int:
    """Return where the part of the facts ends that is on the disk for certain."""
    end = position = 0
    for line in content.splitlines(keepends=True):
        position += len(line)
        with suppress(ValueError):
            if json.loads(line).get("event") in SYNCED:
                end = position
    return end


def set_clock_back(run: RunDir) -> None:
    """Make everything on record an hour later than it was, as it looks when the clock was set back by an hour."""
    state = json.loads(run.state_file.read_bytes())
    for name in ("created_at", "started_at", "heartbeat", "ended_at"):
        if state.get(name) is not None:
            state[name] += CLOCK_SECONDS
    run.state_file.write_text(json.dumps(state))
    for path in (run.events, run.system):
        if path.exists():
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            path.write_text("".join(json.dumps({**line, "t": line["t"] + CLOCK_SECONDS}) + "\n" for line in lines))


def give_numbers_away(run: RunDir, to: int) -> None:
    """Let the numbers of the run's dead processes belong to another process, which was born later."""
    state = json.loads(run.state_file.read_bytes())
    for name in ("supervisor", "trainer"):
        if state.get(name):
            state[name]["pid"] = to
    run.state_file.write_text(json.dumps(state))


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Give a folder a disk of its own in memory, if this machine lets us; tells whether it did."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "chaos", str(folder)], check=False, capture_output=True
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(folder: Path) -> None:
    """Fill the disk of a folder to the last byte."""
    with (folder / BALLAST).open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\1" * size)


def make_room(folder: Path) -> None:
    """Take away what filled the disk."""
    (folder / BALLAST).unlink()
