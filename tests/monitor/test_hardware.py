"""Reading this machine: the true figures of where the tests run, and control groups written as a container has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import ROOT
from gemma_ft.hardware import Machine
from gemma_ft.monitor.hardware import container_cores, container_memory, this_machine

GIB = 2**30
NO_LIMIT = 2**63 - 1
CHILD = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from gemma_ft.monitor.hardware import this_machine
print(json.dumps(asdict(this_machine(Path(sys.argv[1])))))
"""


def in_child(disk: Path, **environment: str) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(disk)],
        env={**env, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_figures_are_those_of_this_machine(tmp_path: Path) -> None:
    found, system = this_machine(tmp_path), psutil.virtual_memory()
    assert isinstance(found, Machine)
    assert found.name
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.memory_free <= found.memory <= system.total
    assert found.disk_free == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.05)


def test_a_second_look_is_quick(tmp_path: Path) -> None:
    this_machine(tmp_path)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        this_machine(tmp_path)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.05


def test_a_folder_that_does_not_exist_yet_is_on_the_disk_where_it_would_be(tmp_path: Path) -> None:
    there, not_yet = this_machine(tmp_path), this_machine(tmp_path / "home" / "runs")
    assert not_yet.disk_free == pytest.approx(there.disk_free, rel=0.05)


@pytest.mark.parametrize(
    "visible", ["", "-1", "99", "GPU-no-such-one", "MIG-no-such-one", "nonsense", "-1,0", "--1", "²"]
)
def test_gpus_that_are_hidden_do_not_count(visible: str, tmp_path: Path) -> None:
    found = in_child(tmp_path, CUDA_VISIBLE_DEVICES=visible)
    assert found["gpus"] == []
    assert "NVIDIA" not in found["name"]


def test_the_cores_are_those_that_this_process_may_use(tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot bind a process to cores")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert in_child(tmp_path)["cores"] == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.gpu
def test_the_gpus_are_those_that_cuda_shows(tmp_path: Path) -> None:
    import torch

    first = in_child(tmp_path)["gpus"][0]
    assert first["name"] == torch.cuda.get_device_name(0)
    assert tuple(first["capability"]) == torch.cuda.get_device_capability(0)
    assert first["memory"] == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.05)
    assert 0 < first["free"] <= first["memory"]


@pytest.mark.gpu
def test_a_gpu_is_found_by_its_number_and_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    import pynvml

    pynvml.nvmlInit()
    uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(0))
    every = in_child(tmp_path)["gpus"]
    for visible in ("0", uuid, uuid[:12], "0,99"):
        found = in_child(tmp_path, CUDA_VISIBLE_DEVICES=visible)["gpus"]
        assert [gpu["name"] for gpu in found] == [every[0]["name"]]


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def groups(tmp_path: Path, line: str) -> tuple[Path, Path]:
    own = tmp_path / "own"
    own.write_text(line + "\n")
    return tmp_path / "cgroup", own


def test_the_memory_of_a_container_is_what_may_be_used(tmp_path: Path) -> None:
    """Version 2: the container is the outermost group that it sees; what caches files can be dropped."""
    root, own = groups(tmp_path, "0::/")
    stat = f"anon {GIB}\ninactive_file {GIB}"
    write(root, memory__max=str(16 * GIB), memory__current=str(3 * GIB), memory__stat=stat)
    assert container_memory(root, own) == (16 * GIB, 2 * GIB)


def test_the_tightest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    root, own = groups(tmp_path, "0::/pod/task")
    write(root / "pod" / "task", memory__max="max", memory__current=str(GIB))
    write(root / "pod", memory__max=str(8 * GIB), memory__current=str(2 * GIB))
    write(root, memory__max=str(64 * GIB), memory__current=str(9 * GIB))
    assert container_memory(root, own) == (8 * GIB, 2 * GIB)


def test_version_1_has_other_names_and_paths_of_the_world_outside(tmp_path: Path) -> None:
    root, own = groups(tmp_path, "9:name=systemd:/x\n4:memory:/docker/4f2a\n3:cpu,cpuacct:/docker/4f2a\n0::/")
    figures = {"memory__limit_in_bytes": str(4 * GIB), "memory__usage_in_bytes": str(GIB)}
    write(root / "memory", **figures, memory__stat="inactive_file 1\ntotal_inactive_file 24")
    write(root / "cpu,cpuacct", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    assert container_memory(root, own) == (4 * GIB, GIB - 24)
    assert container_cores(root, own) == 2


@pytest.mark.parametrize("text", ["max", str(2**63 - 4096), "", "nonsense"])
def test_no_limit_is_no_limit(text: str, tmp_path: Path) -> None:
    root, own = groups(tmp_path, "0::/")
    write(root, memory__max=text, memory__current="5", cpu__max="max 100000")
    assert container_memory(root, own)[0] >= 2**62
    assert container_cores(root, own) is None


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert container_memory(tmp_path, tmp_path / "none") == (NO_LIMIT, 0)
    assert container_cores(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("350000 100000", 4)])
def test_the_processor_time_of_a_container_is_rounded_up_to_cores(quota: str, cores: int, tmp_path: Path) -> None:
    root, own = groups(tmp_path, "0::/")
    write(root, cpu__max=quota)
    assert container_cores(root, own) == cores
