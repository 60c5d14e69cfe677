"""What a run writes to the disk for certain: the low end, by which a start can be refused.

Promises never more than the run will really need while it goes well: checkpoints that may not come to be (an early end,
a stop, the best one kept besides) are left out, and so are the small files beside the weights. What it will probably
need is told by `plan.py`.
"""

from __future__ import annotations

from gemma_ft.config import RunConfig
from gemma_ft.estimate.memory import formats, optimizer_bytes
from gemma_ft.estimate.plan import optimizer_steps, result_bytes
from gemma_ft.estimate.workload import Workload, sequences
from gemma_ft.hardware import Machine
from gemma_ft.shape import ModelShape

SMALL_FILES = 1_000_000
"""Facts, samples, log and state, for the shortest of runs."""


def certain_bytes(
    config: RunConfig, shape: ModelShape, machine: Machine, workload: Workload | None, *, done: int = 0, have: int = 0
) -> int:
    """Return the room that the run certainly takes at its peak, beside `have` checkpoints that it has already.

    Checkpoints that are kept, and either one more that is written aside or the result. `workload` is `None` when nobody
    knows the rows; `done` are the steps of the last checkpoint.
    """
    weights = result_bytes(config, shape, machine)
    checkpoint = weights + optimizer_bytes(config, shape, formats(config, machine).trained)
    new, keep = _checkpoints(config, workload, done), config.training.keep_checkpoints
    before_the_last = max(have, min(have + new - 1, keep))
    while_saving = (before_the_last + 1 - have) * checkpoint if new else 0
    left = min(have + new, keep) if new else have
    at_the_end = (left - have) * checkpoint + weights
    return max(while_saving, at_the_end, 0) + SMALL_FILES


def _checkpoints(config: RunConfig, workload: Workload | None, done: int) -> int:
    """Return how many checkpoints are certainly still to come: one at each `save_every` steps, and one at the end."""
    training = config.training
    steps = _steps(config, workload)
    if training.early_stopping:
        steps = min(steps, training.early_stopping * training.eval_every)
    if not training.save_every or steps <= done:
        return 0
    ends_early = training.early_stopping > 0
    last = steps // training.save_every if ends_early else -(-steps // training.save_every)
    return last - done // training.save_every


def _steps(config: RunConfig, workload: Workload | None) -> int:
    """Return the steps; how many packed sequences there are is only known of data that was measured."""
    if config.training.max_steps:
        return config.training.max_steps
    if workload is None or (config.training.packing and not workload.measured):
        return 1
    return optimizer_steps(config, sequences(config, workload))
