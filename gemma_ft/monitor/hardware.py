"""This machine in plain figures: what a training that is started now could use.

Promises to work without a GPU or its driver, and to keep to what this process may use: GPUs that `CUDA_VISIBLE_DEVICES`
hides do not count, and in a container the memory and the processor time are those of the container. Takes some
milliseconds. Does not know how fast anything is, and starts nothing on a GPU.

Numbers in `CUDA_VISIBLE_DEVICES` are taken in the driver's order. CUDA orders a mixture of GPUs by speed unless
`CUDA_DEVICE_ORDER` is `PCI_BUS_ID`; with equal GPUs there is no difference.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pynvml

from gemma_ft.hardware import Gpu, Machine

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")


def this_machine(disk: Path) -> Machine:
    """Return this machine; `disk` is a path on the disk that counts, which need not exist yet."""
    memory = psutil.virtual_memory()
    limit, used = container_memory()
    gpus = tuple(_gpus(os.environ))
    return Machine(
        name=_name(gpus),
        gpus=gpus,
        cores=_cores(),
        memory=min(memory.total, limit),
        memory_free=min(memory.available, max(0, limit - used)),
        disk_free=psutil.disk_usage(str(_existing(disk))).free,
    )


def container_memory(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> tuple[int, int]:
    """Return the bytes that this container may use, and those it uses and cannot give back.

    The tightest limit on the way from the own control group to the outermost counts. Without one the limit is that of a
    64-bit number, which is how version 1 of control groups writes "none", and nothing is used. Linux only.
    """
    tightest, used = 2**63 - 1, 0
    for folder in _groups(root, own, "memory"):
        limit, now = _number(folder, "memory.max"), _number(folder, "memory.current")
        if limit is None:
            limit, now = _number(folder, "memory.limit_in_bytes"), _number(folder, "memory.usage_in_bytes")
        if limit is not None and limit < tightest:
            tightest, used = limit, max(0, (now or 0) - _file_cache(folder))
    return tightest, used


def container_cores(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """Return how many cores' time this container may use, rounded up; `None` without a limit. Linux only."""
    quotas = []
    for folder in _groups(root, own, "cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            quota, period = str(_number(folder, "cpu.cfs_quota_us")), str(_number(folder, "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit():
            quotas.append(math.ceil(int(quota) / int(period)))
    return min(quotas, default=None)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, the own ones first; some may not exist.

    Inside a container the names are often those of the world outside, so the outermost folder is always among them.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, name = line.split(":", 2)
        if number == "0":
            top = root
        elif controller in controllers.split(","):
            top = root / controllers
        else:
            continue
        folder = top / name.strip("/")
        yield folder
        while folder != top:
            folder = folder.parent
            yield folder


def _file_cache(folder: Path) -> int:
    """Return how much of a group's memory holds files that can be dropped at any time."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    figures = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(figures.get("total_inactive_file", figures.get("inactive_file", 0)))


def _number(folder: Path, name: str) -> int | None:
    try:
        return int((folder / name).read_text())
    except (OSError, ValueError):
        return None


def _cores() -> int:
    """Return how many cores this process may use."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such question.
        allowed = os.cpu_count() or 1
    return min(allowed, container_cores() or allowed)


def _existing(path: Path) -> Path:
    """Return the path, or its nearest folder that exists."""
    whole = path.absolute()
    return next((place for place in (whole, *whole.parents) if place.exists()), Path(whole.anchor))


def _name(gpus: tuple[Gpu, ...]) -> str:
    if not gpus:
        return _processor()
    return gpus[0].name if len(gpus) == 1 else f"{len(gpus)} x {gpus[0].name}"


@cache
def _processor() -> str:
    try:
        lines = CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@cache
def _has_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _gpus(environ: Mapping[str, str]) -> Iterator[Gpu]:
    """Yield the GPUs that CUDA would show; one that the driver cannot describe is left out."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or not _has_driver():
        return
    for handle in _handles(visible):
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            capability = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        except pynvml.NVMLError:
            continue
        yield Gpu(name=name, memory=memory.total, free=memory.free, capability=(capability[0], capability[1]))


def _handles(visible: str | None) -> Iterator[Any]:
    """Yield the driver's handles for a value of `CUDA_VISIBLE_DEVICES`; as in CUDA, a wrong entry ends the list."""
    if visible is None:
        try:
            yield from (pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError:
            return
        return
    for entry in (part.strip() for part in visible.split(",")):
        try:
            yield _by_number(int(entry)) if re.fullmatch(r"-?[0-9]+", entry) else _by_uuid(entry)
        except (pynvml.NVMLError, LookupError):
            return


def _by_number(place: int) -> Any:
    if place < 0:
        raise LookupError(place)
    return pynvml.nvmlDeviceGetHandleByIndex(place)


def _by_uuid(beginning: str) -> Any:
    """Return the GPU whose id begins so (CUDA allows that), or a part of one (MIG) by its whole id."""
    if beginning.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(beginning)
    every = (pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount()))
    found = [handle for handle in every if pynvml.nvmlDeviceGetUUID(handle).startswith(beginning)]
    if len(found) != 1:
        raise LookupError(beginning)
    return found[0]
