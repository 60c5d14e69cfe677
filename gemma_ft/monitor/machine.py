"""One sample of the machine: processor, memory, disk, every NVIDIA GPU, and the share of one process tree.

Promises to work without a GPU or its driver (the list of GPUs is then empty). Units are percent, bytes, degrees
Celsius and watts. Does not store anything and decides nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pynvml

from gemma_ft.monitor.hardware import container_memory

Sample = dict[str, Any]
HEAT = pynvml.nvmlClocksEventReasonSwThermalSlowdown | pynvml.nvmlClocksEventReasonHwThermalSlowdown
"""The driver's reasons for lower clocks that mean heat. Others (a power limit, idleness) are normal."""


class MachineSampler:
    """Takes samples; keeps what must live between two of them (the GPU driver's handles, the processes' clocks)."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._own: dict[int, psutil.Process] = {}
        self._gpus = _gpu_handles()
        self._cores = psutil.cpu_count() or 1
        psutil.cpu_percent()

    def sample(self, root_pid: int | None = None) -> Sample:
        """Return one sample; with `root_pid` also what that process and its descendants use."""
        used, total = _memory()
        disk = psutil.disk_usage(str(self._disk))
        return {
            "cpu_percent": psutil.cpu_percent(),
            "cores": self._cores,
            "memory_used": used,
            "memory_total": total,
            "disk_used": disk.total - disk.free,
            "disk_total": disk.total,
            "gpus": [_gpu_sample(handle) for handle in self._gpus],
            "own": self._own_share(root_pid) if root_pid else None,
        }

    def _own_share(self, root_pid: int) -> dict[str, float]:
        """Sum processor (percent of one core) and resident memory over a process tree."""
        try:
            root = self._own.get(root_pid) or psutil.Process(root_pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return {"cpu_percent": 0.0, "memory_used": 0}
        self._own = {process.pid: self._own.get(process.pid, process) for process in tree}
        cpu, resident = 0.0, 0
        for process in self._own.values():
            try:
                cpu += process.cpu_percent()
                resident += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return {"cpu_percent": round(cpu, 1), "memory_used": resident}


def _memory() -> tuple[int, int]:
    """Return the bytes that are in use and cannot be given back, and all there are: of the machine, or of the container
    where that may use less."""
    memory = psutil.virtual_memory()
    limit, used = container_memory()
    return (used, limit) if limit < memory.total else (memory.total - memory.available, memory.total)


def _clock_reasons(handle: Any) -> int:
    """Ask why the clocks are lower than they could be; drivers before 535 know the question by its older name only."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _gpu_handles() -> list[Any]:
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _gpu_sample(handle: Any) -> dict[str, float | bool | str | None]:
    """Read one GPU; a figure that this card does not report is `None`."""

    def read(query: Any, *arguments: Any) -> Any:
        try:
            return query(handle, *arguments)
        except pynvml.NVMLError:
            return None

    use = read(pynvml.nvmlDeviceGetUtilizationRates)
    memory = read(pynvml.nvmlDeviceGetMemoryInfo)
    power = read(pynvml.nvmlDeviceGetPowerUsage)
    reasons = read(_clock_reasons)
    return {
        "name": read(pynvml.nvmlDeviceGetName),
        "utilisation": use.gpu if use else None,
        "memory_used": memory.used if memory else None,
        "memory_total": memory.total if memory else None,
        "temperature": read(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
        "power": power / 1000 if power is not None else None,
        "throttled": bool(reasons & HEAT) if reasons is not None else None,
    }
