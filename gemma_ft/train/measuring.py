"""Three real steps of a run, longest rows first: what it really needs, before it is started.

Promises the trainer, the model and the rows of the run itself, so that the figures are those of this machine; and
that nothing is written but a temporary folder. A process measures once: its memory is the figure. Says nothing about
how well the model learns.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from gemma_ft.config import RunConfig
from gemma_ft.data.samples import Sample
from gemma_ft.errors import ConfigError
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.sharing import processes_for, shared_among
from gemma_ft.train.encode import Encoded, EncodedPair, Row, encode_all
from gemma_ft.train.fitting import settled
from gemma_ft.train.loading import load_for_training, load_reference
from gemma_ft.train.packing import pack
from gemma_ft.train.tokenizer import load_tokenizer
from gemma_ft.train.trainers import new_trainer

STEPS = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the steps needed.

    `peak` is in bytes, of the GPU's memory or of the process's (`where`). `step_seconds` is the median after the first
    step, which warms up; `step_tokens` what such a step puts through the model, padding included, and `run_tokens` what
    a step of the run does on average. `losses` are those of the steps.
    """

    where: str
    peak: int
    step_seconds: float
    first_step_seconds: float
    step_tokens: int
    run_tokens: float
    losses: tuple[float, ...]
    gradient_checkpointing: bool

    def plain(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return asdict(self)


class _Clock(TrainerCallback):
    """Notes when steps begin and end, the tokens they take, and lets somebody leave."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self.began, self.seconds, self.losses = 0.0, [], []  # type: tuple[float, list[float], list[float]]
        self._report = report

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        _finish_kernels()
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        _finish_kernels()
        self.seconds.append(time.perf_counter() - self.began)
        self._report(len(self.seconds))

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def measure(
    config: RunConfig, folder: Path, samples: Sequence[Sample], report: Callable[[int], None] = lambda steps: None
) -> Measurement:
    """Make three steps with the longest of the samples; `report` is told how many are done, and may raise to stop it.

    Of several GPUs one is measured, with the rows that it would have. Raises `ModelError`, `DataError`, `ConfigError`,
    and whatever an allocation that is refused raises.
    """
    gpus = this_machine(folder).gpus
    taken_before = gpus[0].memory - gpus[0].free if gpus else 0
    tokenizer = load_tokenizer(folder)
    rows, _ = encode_all(samples, tokenizer, config.training.max_length)
    config = _part(config, folder, rows)
    per_step = config.training.batch_size * config.training.accumulation
    places = _places(rows, config)
    asked = list(islice(cycle(places), STEPS * per_step))
    brief = config.changed(
        {
            "training.max_steps": STEPS,
            "training.eval_every": 0,
            "training.save_every": 0,
            "training.log_every": 1,
            "training.keep_best": False,
            "training.early_stopping": 0,
        }
    )
    torch.manual_seed(config.training.seed)
    with tempfile.TemporaryDirectory(prefix="gemma-ft-measure-") as writing:
        model = load_for_training(folder, brief)
        reference = lambda: load_reference(folder, brief)  # noqa: E731
        given = [row for place in asked for row in place]
        trainer = new_trainer(model, reference, tokenizer, brief, (given, []), Path(writing), in_order=True)
        trainer.remove_callback(PrinterCallback)
        clock = _Clock(report)
        trainer.add_callback(clock)
        trainer.train()
    return Measurement(
        where="GPU" if torch.cuda.is_available() else "RAM",
        peak=_peak(taken_before),
        step_seconds=round(statistics.median(clock.seconds[1:]), 4),
        first_step_seconds=round(clock.seconds[0], 4),
        step_tokens=_padded(asked[per_step : 2 * per_step], config.training.batch_size),
        run_tokens=round(sum(map(_length, places)) / len(places) * per_step * _sequences_of(rows), 1),
        losses=tuple(clock.losses),
        gradient_checkpointing=config.training.gradient_checkpointing == "on",
    )


def _part(config: RunConfig, folder: Path, rows: Sequence[Row]) -> RunConfig:
    """Return the config of one process, settled. Raises `ConfigError` when the weights would be spread over several."""
    whole = settled(config, folder, (rows, []), Path.cwd())
    if whole.compute.sharding == "on":
        raise ConfigError(
            "The weights of this run are spread over several GPUs, and steps are measured on one.",
            "Go by the estimate, or start the run.",
        )
    part = shared_among(processes_for(config, this_machine(folder)), whole)
    return part.changed({"compute.processes": 1})


def _peak(taken_before: int) -> int:
    """Return the most memory that was taken, in bytes: on the GPU by PyTorch and CUDA, else by this process.

    What others had taken of the GPU before is not counted.
    """
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        context = max(0, total - free - taken_before - torch.cuda.memory_reserved())
        return int(torch.cuda.max_memory_reserved() + context)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _finish_kernels() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _places(rows: Sequence[Row], config: RunConfig) -> list[list[Row]]:
    """Return what takes a place in a batch, longest first: single rows, or those that are packed into one sequence."""
    if config.training.packing:
        packed = pack([row for row in rows if isinstance(row, Encoded)], config.training.max_length)
        return sorted((list(sequence.rows) for sequence in packed), key=_length, reverse=True)
    return sorted(([row] for row in rows), key=_length, reverse=True)


def _length(place: Sequence[Row]) -> int:
    """Return the tokens of a place; of a pair those of its longer answer."""
    longest = (row.sequences if isinstance(row, EncodedPair) else (row,) for row in place)
    return sum(max(len(sequence.input_ids) for sequence in sequences) for sequences in longest)


def _sequences_of(rows: Sequence[Row]) -> int:
    return 2 if rows and isinstance(rows[0], EncodedPair) else 1


def _padded(places: Sequence[Sequence[Row]], batch_size: int) -> int:
    """Return how many tokens the places take in batches that are padded to their longest one."""
    batches = [places[at : at + batch_size] for at in range(0, len(places), batch_size)]
    return sum(len(batch) * max(map(_length, batch)) for batch in batches) * _sequences_of(places[0])
