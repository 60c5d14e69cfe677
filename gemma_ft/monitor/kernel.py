"""Did the kernel kill something here because memory ran out? Told from its own counters, or not at all.

Promises to say yes only if a counter rose between two looks: that of the control group which a process is in (of both
versions, in a container or not), else that of the whole machine. The kernel counts before it kills, so a second look
after the end of a process is never too early. Says no where there is no counter (no Linux, or one that does not count).
Which process it was, and kills by services such as earlyoom, the counters do not tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
OOM_KILL = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
FILES = {"cgroup2": "memory.events", "cgroup": "memory.oom_control"}
"""The file with the counter, by the type of the file system."""


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """The counters as they were at a first look, the nearest to the process first."""

    before: tuple[tuple[Path, int], ...]

    @classmethod
    def look(cls, pid: int, proc: Path = PROC) -> MemoryKills:
        """Look at the counters of a live process; `proc` is where the kernel's files are."""
        files = (*_group_files(pid, proc), proc / "vmstat")
        return cls(tuple((file, count) for file in files if (count := _count(file)) is not None))

    def rose(self) -> bool:
        """Look again: tell whether the nearest counter that is still there has risen."""
        for file, count in self.before:
            if (now := _count(file)) is not None:
                return now > count
        return False


def _group_files(pid: int, proc: Path) -> list[Path]:
    """Return the files with the counters of the process's control groups, as they can be read from here."""
    try:
        groups = (proc / str(pid) / "cgroup").read_text().splitlines()
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    paths = {}
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    found = []
    for mount in mounts:
        root, point, kind, options = _mount(mount)
        if kind in paths and (kind == "cgroup2" or "memory" in options.split(",")):
            below = paths[kind].removeprefix(root) if root != "/" else paths[kind]
            found.append(Path(point) / below.lstrip("/") / FILES[kind])
    return found


def _mount(line: str) -> tuple[str, str, str, str]:
    """Return what a line of mountinfo says: the mounted folder, where, the type, and the file system's options."""
    own, _, others = line.partition(" - ")
    fields, tail = own.split(), others.split()
    return fields[3], fields[4], tail[0], tail[-1]


def _count(file: Path) -> int | None:
    try:
        found = OOM_KILL.search(file.read_text())
    except OSError:
        return None
    return int(found[1]) if found else None
