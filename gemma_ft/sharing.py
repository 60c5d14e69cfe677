"""How the work of a run is shared among GPUs: how many train together, and which part of a step each does.

Promises one arithmetic for the launcher, the estimate and the trainer, and that a step has as many rows as with one
GPU. Starts nothing and looks at no machine.
"""

from __future__ import annotations

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.hardware import Machine


def processes_for(config: RunConfig, machine: Machine) -> int:
    """Return how many processes train: those that were asked for, or as many GPUs as divide the batch.

    On a machine without GPUs a number that was asked for is taken at its word. A batch can be divided when its rows or
    the number of batches that are added up can.
    """
    asked, gpus = config.compute.processes, len(machine.gpus)
    if asked:
        return asked if not gpus or asked <= gpus else 1
    training = config.training
    fitting = (n for n in range(gpus, 1, -1) if training.batch_size % n == 0 or training.accumulation % n == 0)
    return next(fitting, 1)


def shared_among(processes: int, config: RunConfig) -> RunConfig:
    """Return the configuration of one of so many processes; a step of all together has the rows that it had of one.

    Raises `ConfigError` when neither the rows of a batch nor the batches of a step can be divided.
    """
    training = config.training
    if training.batch_size % processes == 0:
        change = {"batch_size": training.batch_size // processes}
    elif training.accumulation % processes == 0:
        change = {"accumulation": training.accumulation // processes}
    else:
        raise ConfigError(
            f"training.batch_size: {training.batch_size} rows cannot be divided among {processes} GPUs.",
            f"Make it a multiple of {processes}.",
        )
    return config.model_copy(update={"training": training.model_copy(update=change)})


def can_be_sharded(config: RunConfig) -> bool:
    """Tell whether weights can be spread over GPUs: not 4-bit ones, and with the optimizer that can work on parts."""
    return config.method.adapter != "qlora" and config.training.optimizer == "adamw"
