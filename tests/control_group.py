"""A control group with little memory, for processes that a real kernel is to kill; skips where none may be made.

It is made below the group that the tests are in, so that its limit comes on top of theirs, and removed afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def memory_group_or_skip(limit: int) -> Iterator[Path]:
    """Make a group of version 1 with so many bytes of memory; what is left in it at the end is killed."""
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = Path(f"/sys/fs/cgroup/memory{groups.get('memory', '/')}")
    group = own / f"gemma-ft-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("a control group of version 1 cannot be made here")
    try:
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        while (group / "cgroup.procs").read_text().split():
            os.sched_yield()
        group.rmdir()


def limited(group: Path) -> Callable[[], None]:
    """Return what puts a process into the group between its birth and its program."""
    file = str(group / "cgroup.procs")

    def enter() -> None:
        with open(file, "w") as procs:  # noqa: PTH123 - between fork and exec as little as possible
            procs.write(str(os.getpid()))

    return enter
