"""How a trainer is started: alone, or as several processes that train together through `accelerate launch`.

Promises that trainers see the GPUs that were allotted to the run and no others, and that no settings of a person's own
`accelerate config` are used. With `compute.processes: 0` as many GPUs work as there are and as divide the batch. A
configuration that asks for more than there is starts one trainer, which says what is wrong. Imports no torch.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gemma_ft.errors import ConfigError
from gemma_ft.hardware import Machine
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.rundir import RunDir
from gemma_ft.sharing import processes_for

TRAINER = "gemma_ft.train"
LAUNCHER = "accelerate.commands.launch"
OWN_DEFAULTS = Path(__file__).with_name("accelerate.yaml")


@dataclass(frozen=True, slots=True)
class Launch:
    """A module to run, its arguments, and what its environment has besides."""

    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


def plan_launch(run: RunDir, gpus: Sequence[int] = ()) -> Launch:
    """Return how the trainer of this run is started on this machine, on the GPUs with these numbers."""
    machine = this_machine(run.path)
    visible = _visible(gpus) if gpus else {}
    machine = replace(machine, gpus=tuple(machine.gpus[number] for number in gpus))
    try:
        processes = processes_for(run.config(), machine)
    except ConfigError:  # The trainer reads it too, and says what is wrong with it.
        processes = 1
    if processes > 1:
        return Launch(LAUNCHER, (*_flags(processes, machine), TRAINER, str(run.path)), visible)
    return Launch(TRAINER, (str(run.path),), visible)


def _flags(processes: int, machine: Machine) -> tuple[str, ...]:
    """Say everything that matters. `--multi_gpu` stands for one machine with several processes, with a GPU or not."""
    given = {
        "config_file": OWN_DEFAULTS,
        "num_processes": processes,
        "num_machines": 1,
        "machine_rank": 0,
        "main_process_ip": "127.0.0.1",
        "main_process_port": _free_port(),
        "gpu_ids": "all",
        "mixed_precision": "no",
        "dynamo_backend": "no",
        "num_cpu_threads_per_process": max(1, machine.cores // processes),
    }
    flags = tuple(part for name, value in given.items() for part in (f"--{name}", str(value)))
    return ("--multi_gpu", *flags, "--module")


def _visible(gpus: Sequence[int]) -> dict[str, str]:
    """Say which GPUs a child may see: some of those that this process sees, by the names it was given."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[number] if names else str(number) for number in gpus)}


def _free_port() -> int:
    """Return a port that is free now. Another program may take it before the launcher does, which then fails."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
