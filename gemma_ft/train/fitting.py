"""What a run does to fit into memory: before it starts, and when it ran out of it.

Promises that nothing here changes what is learned: recomputing activations gives the same gradients, and a smaller
batch with as many more accumulated ones makes the same steps. What was decided once after a failure is found in the
run's facts again when it is resumed. Decides nothing about data, model or method.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_ft.config import MOST_ACCUMULATED, RunConfig
from gemma_ft.errors import GemmaFtError
from gemma_ft.estimate.memory import decide_checkpointing, decide_sharding
from gemma_ft.estimate.workload import Workload
from gemma_ft.events import read_facts
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.rundir import KILLED_FOR_MEMORY, RunDir
from gemma_ft.train.encode import EncodedPair, Row
from gemma_ft.train.inspection import inspect
from gemma_ft.train.progress import Progress
from gemma_ft.train.trainers import Rows

FACT_FIELDS = ("batch_size", "accumulation", "gradient_checkpointing")
"""The knobs that may change, as they stand in the facts."""


@dataclass(frozen=True, slots=True)
class Less:
    """A way on with less memory: the config, what changed in it, and a sentence that says so."""

    config: RunConfig
    changes: dict[str, Any]
    said: str


def fitted(run: RunDir, config: RunConfig, base_folder: Path, rows: Rows, progress: Progress) -> RunConfig:
    """Return the config with what earlier attempts had to change, and `settled`.

    After an attempt that the kernel killed for its memory it has one change more. Raises `KilledForMemory` when there
    is nothing left to change.
    """
    facts, _ = read_facts(run.events)
    warnings = [fact for fact in facts if fact.get("event") == "warning"]
    if failures := [fact for fact in warnings if fact.get("kind") == "out_of_memory"]:
        config = config.changed({f"training.{name}": failures[-1][name] for name in FACT_FIELDS})
    config = settled(config, base_folder, rows, run.path)
    killed = {fact.get("attempt") for fact in warnings if fact.get("kind") == KILLED_FOR_MEMORY}
    if run.state().attempt - 1 not in killed:
        return config
    less = needing_less(config)
    if less is None:
        raise KilledForMemory(config)
    progress.warn(less.said, kind="out_of_memory", **less.changes)
    return less.config


class KilledForMemory(GemmaFtError):
    """The kernel killed the training for its memory, and nothing smaller is left to try."""

    kind = "memory"
    title = "The kernel ended the training because memory ran out"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(
            f"The machine had no memory left for a batch of {config.training.batch_size}, and there is nothing smaller "
            "to try.",
            "End other programs, shorten the maximum length, or take a smaller model or a machine with more memory. "
            "Resumed, the run tries once more as it is.",
        )


def settled(config: RunConfig, base_folder: Path, rows: Rows, disk: Path) -> RunConfig:
    """Return the config with checkpointing and sharding on or off instead of auto, as the estimate has it."""
    if "auto" not in (config.training.gradient_checkpointing, config.compute.sharding):
        return config
    given = inspect(base_folder), workload_of(rows), this_machine(disk)
    decided = {
        "training.gradient_checkpointing": decide_checkpointing(config, *given),
        "compute.sharding": decide_sharding(config, *given),
    }
    return config.changed({name: "on" if on else "off" for name, on in decided.items()})


def needing_less(config: RunConfig) -> Less | None:
    """Return the next thing to try after running out of memory, or `None` when nothing may or can be tried."""
    training = config.training
    if training.on_out_of_memory == "stop":
        return None
    before = training.batch_size
    fitting = (size for size in range(before // 2, 0, -1) if before % size == 0)
    smaller = next((size for size in fitting if training.accumulation * (before // size) <= MOST_ACCUMULATED), None)
    changes = {name: getattr(training, name) for name in FACT_FIELDS}
    if smaller is not None:
        accumulation = training.accumulation * (before // smaller)
        changes |= {"batch_size": smaller, "accumulation": accumulation}
        said = f"the batch is now {smaller} instead of {before}, and {accumulation} are accumulated: the same steps"
    elif training.gradient_checkpointing == "off":
        changes["gradient_checkpointing"] = "on"
        said = "activations are now computed twice instead of kept (gradient checkpointing)"
    else:
        return None
    less = config.changed({f"training.{name}": value for name, value in changes.items()})
    return Less(less, changes, f"Memory ran out; {said}. It goes on from the last checkpoint.")


def workload_of(rows: Rows) -> Workload:
    """Measure the rows to train on, as they are encoded; of a pair both sequences count."""
    sequences = [sequence for row in rows[0] for sequence in _sequences(row)]
    number = max(1, len(sequences))
    return Workload(
        train_rows=len(rows[0]),
        longest=max((len(sequence.input_ids) for sequence in sequences), default=1),
        mean_tokens=sum(len(sequence.input_ids) for sequence in sequences) / number,
        mean_supervised=sum(sequence.num_trained for sequence in sequences) / number,
        measured=True,
    )


def _sequences(row: Row) -> tuple[Any, ...]:
    return row.sequences if isinstance(row, EncodedPair) else (row,)
