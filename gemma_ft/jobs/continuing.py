"""How a finished run is continued: a new run with more epochs, which begins with the last checkpoint of the old one.

Promises that the old run is not touched: its checkpoint is shared by hard links (or copied, where there are none), and
nobody changes a file of a checkpoint once it is there. Weights, optimizer, schedule and random numbers go on as they
were; the schedule is that of the longer run, so the learning rate may rise again. Starts nothing.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.monitor.summary import last_step
from gemma_ft.rundir import Origin, RunDir

NAME_ENDING = " (continued)"
LONGEST_LABEL = 80


def continuation(parent: RunDir, epochs: float) -> tuple[RunConfig, Origin, Callable[[RunDir], None]]:
    """Return the config of the longer run, where it comes from, and what furnishes its folder.

    Raises `ConfigError` when `epochs` is not above 0, when there is no checkpoint of the last step, or when the
    longer run cannot be.
    """
    if not (isinstance(epochs, (int, float)) and 0 < epochs < math.inf):
        raise ConfigError(f"{epochs} more epochs cannot be trained.", "Give a number above 0, such as 1 or 0.5.")
    config, last = parent.config(), last_step(parent.events)
    step = int(last.get("step", 0))
    checkpoint = parent.checkpoints / f"checkpoint-{step}"
    if not step or not checkpoint.is_dir():
        raise ConfigError(
            f"The run {parent.run_id} has no checkpoint of its last step, {step:,}.",
            "It was deleted, or `training.save_every` was 0. Start a new run with more epochs instead.",
        )
    done = float(last.get("epoch") or config.training.epochs)
    changes: dict[str, float]
    if config.training.max_steps:
        changes = {"training.max_steps": step + max(1, round(epochs * step / done))}
    else:
        changes = {"training.epochs": done + epochs}
    name = config.name.removesuffix(NAME_ENDING)[: LONGEST_LABEL - len(NAME_ENDING)] + NAME_ENDING
    longer = config.changed({"name": name, **changes})

    def furnish(run: RunDir) -> None:
        shutil.copytree(checkpoint, run.checkpoints / checkpoint.name, copy_function=_share)

    return longer, Origin(parent=parent.run_id, parent_step=step), furnish


def _share(source: str, target: str) -> str:
    """Give a file a second name; copy it where the disk cannot do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(Path(source), Path(target))
    return target
