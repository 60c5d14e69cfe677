"""The kernel's counters of kills for lack of memory: read as each kind of machine has them, and for a real kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from control_group import limited, memory_group_or_skip
from gemma_ft.monitor.kernel import MemoryKills

MOUNT = "30 20 0:26 {root} {point} rw,nosuid - {kind} {kind} {options}\n"


def machine(folder: Path, *, groups: str, mounts: str, vmstat: int | None = 7) -> Path:
    """Write the kernel's files of a process with the number 1, as they are found under /proc."""
    proc = folder / "proc"
    for name in ("1", "self"):
        (proc / name).mkdir(parents=True, exist_ok=True)
    (proc / "1" / "cgroup").write_text(groups)
    (proc / "self" / "mountinfo").write_text(mounts)
    if vmstat is not None:
        (proc / "vmstat").write_text(f"nr_free_pages 1\noom_kill {vmstat}\ndrop_pagecache 0\n")
    return proc


def counter(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ("memory.events" if "oom_group" in text else "memory.oom_control")
    file.write_text(text)
    return file


V2 = "low 0\nhigh 0\nmax 12\noom 1\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.mark.parametrize(
    ("groups", "root", "below"),
    [
        ("0::/user.slice/app.scope\n", "/", "user.slice/app.scope"),
        ("0::/\n", "/", ""),
        ("0::/docker/abc\n", "/docker/abc", ""),
        ("0::/docker/abc/inner\n", "/docker/abc", "inner"),
    ],
)
def test_the_counter_of_a_group_of_version_2_is_found(tmp_path: Path, groups: str, root: str, below: str) -> None:
    point = tmp_path / "groups"
    file = counter(point / below, V2.format(3))
    mounts = MOUNT.format(root=root, point=point, kind="cgroup2", options="rw,nsdelegate")
    proc = machine(tmp_path, groups=groups, mounts=mounts)
    kills = MemoryKills.look(1, proc)
    assert not kills.rose()
    (proc / "vmstat").write_text("oom_kill 99\n")
    assert not kills.rose(), "what was killed elsewhere on the machine does not count"
    file.write_text(V2.format(4))
    assert kills.rose()


def test_of_version_1_the_memory_group_counts(tmp_path: Path) -> None:
    memory, cpu = tmp_path / "memory", tmp_path / "cpu"
    file = counter(memory / "box", V1.format(0))
    mounts = MOUNT.format(root="/", point=cpu, kind="cgroup", options="rw,cpu")
    mounts += MOUNT.format(root="/", point=memory, kind="cgroup", options="rw,memory")
    proc = machine(tmp_path, groups="4:memory:/box\n1:cpu:/elsewhere\n0::/\n", mounts=mounts)
    kills = MemoryKills.look(1, proc)
    file.write_text(V1.format(1))
    assert kills.rose()


def test_without_a_group_the_machine_counts_and_without_both_nothing_does(tmp_path: Path) -> None:
    proc = machine(tmp_path, groups="0::/\n", mounts="")
    kills = MemoryKills.look(1, proc)
    assert not kills.rose()
    (proc / "vmstat").write_text("oom_kill 8\n")
    assert kills.rose()
    assert not MemoryKills.look(1, tmp_path / "nothing").rose()


def test_a_group_that_is_gone_leaves_the_machines_counter(tmp_path: Path) -> None:
    file = counter(tmp_path / "groups" / "scope", V2.format(0))
    mounts = MOUNT.format(root="/", point=tmp_path / "groups", kind="cgroup2", options="rw")
    proc = machine(tmp_path, groups="0::/scope\n", mounts=mounts)
    kills = MemoryKills.look(1, proc)
    file.unlink()
    (proc / "vmstat").write_text("oom_kill 8\n")
    assert kills.rose()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_real_kill_is_seen_and_a_kill_by_hand_is_not() -> None:
    program = "import os, sys; sys.stdin.readline(); {}"
    with memory_group_or_skip(limit=60_000_000) as group:
        for work, expected in (("os.kill(os.getpid(), 9)", False), ("bytearray(1 << 28)", True)):
            child = subprocess.Popen(
                [sys.executable, "-c", program.format(work)], stdin=subprocess.PIPE, preexec_fn=limited(group)
            )
            kills = MemoryKills.look(child.pid)
            child.communicate(b"go\n", timeout=60)
            assert (child.returncode, kills.rose()) == (-9, expected)
