"""What happens at each step of the training loop: facts are written, wishes are obeyed, checkpoints move into place.

Promises that a checkpoint under `checkpoints/` is whole (it is written aside and renamed), that a request to stop is
obeyed at the next (sub)step, also in the middle of an evaluation, and that facts carry figures as the trainer
measured them.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gemma_ft.rundir import RunDir
from gemma_ft.train import ranks
from gemma_ft.train.control import Asked, Control
from gemma_ft.train.progress import Progress
from gemma_ft.train.room import Room, settle

log = logging.getLogger("gemma_ft")

KEPT_HISTORY = 10
REWARD_FIELDS = {
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
}
"""DPO's names of what it measures of pairs, and ours.

An answer's reward is how much likelier the tuned model finds it than the base model does (beta times the difference of
the logarithms); `reward_accuracy` is the share of pairs in which the better answer has the higher reward.
"""
STEP_FIELDS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
    "num_input_tokens_seen": "tokens",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
    **REWARD_FIELDS,
}
"""The trainer's names of what it measures at a step, and ours."""


class EvaluationStopped(Exception):
    """Ends an evaluation in the middle because somebody asked to stop."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What the training came to: steps made (over all attempts), and the last losses that were measured."""

    steps: int = 0
    loss: float | None = None
    held_out_loss: float | None = None


class FactsCallback(TrainerCallback):
    """Writes steps and evaluations as facts, and remembers the last of them in `tuned`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began = time.monotonic()
        self.tuned = Tuned()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._began = time.monotonic()
        self._progress.phase("training", step=state.global_step, max_steps=state.max_steps)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        # The facts are the history; the trainer's own would be written again with every checkpoint.
        del state.log_history[:-KEPT_HISTORY]
        if not logs or "loss" not in logs:
            return
        fields: dict[str, Any] = {ours: logs[theirs] for theirs, ours in STEP_FIELDS.items() if theirs in logs}
        seconds = round(time.monotonic() - self._began, 3)
        self._progress.fact("step", step=state.global_step, max_steps=state.max_steps, seconds=seconds, **fields)
        self.tuned = replace(self.tuned, steps=state.global_step, loss=logs["loss"])
        log.info("Step %d of %d: loss %.4f", state.global_step, state.max_steps, fields["loss"])

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        if "eval_loss" not in metrics:
            return
        fields: dict[str, Any] = {
            "loss": metrics["eval_loss"],
            "token_accuracy": metrics.get("eval_mean_token_accuracy"),
            "seconds": metrics.get("eval_runtime"),
            **{ours: metrics[f"eval_{name}"] for name, ours in REWARD_FIELDS.items() if f"eval_{name}" in metrics},
        }
        self.tuned = replace(self.tuned, steps=state.global_step, held_out_loss=metrics["eval_loss"])
        self._progress.fact("eval", step=state.global_step, **fields)
        log.info("Step %d: loss on the held-out rows %.4f", state.global_step, metrics["eval_loss"])


class WishesCallback(TrainerCallback):
    """Obeys requests to stop, with a checkpoint except for a cancel, and requests to save on the way."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._chance: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._chance = _chance_now()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Whoever resumes at the beginning of an epoch draws the order of its rows again, which uses chance.
        if not float(state.epoch or 0.0).is_integer():
            self._chance = _chance_now()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if asked := self._wanted(state):
            self._leave(control, asked)
        elif self._control.saves_now():
            control.should_save = True
        return control

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Leave between accumulated batches; the whole step is made again later, so its chance is given back."""
        if asked := self._control.agreed():
            if self._chance is not None:
                torch.set_rng_state(self._chance[0])
                if self._chance[1]:
                    torch.cuda.set_rng_state_all(self._chance[1])
            self._leave(control, asked)
        return control

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if asked := self._wanted(state):
            self._leave(control, asked)
            raise EvaluationStopped
        return control

    def _wanted(self, state: TrainerState) -> Asked | None:
        """Return what was asked for; whoever lost its supervisor after the last step still measures what it saves."""
        asked = self._control.agreed()
        return None if asked == "interrupted" and state.global_step >= state.max_steps else asked

    def _leave(self, control: TrainerControl, asked: Asked) -> None:
        control.should_training_stop = True
        control.should_evaluate = False
        control.should_save = asked != "cancel"


def _chance_now() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the state of PyTorch's random numbers, on the processor and on the GPUs."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


class BestCallback(TrainerCallback):
    """Remembers where the held-out loss was lowest, saves it if it is to be kept, and ends what no longer gets better.

    The memory is the trainer's state (`best_metric`, `best_global_step`), which is part of every checkpoint, so a
    resumed run remembers too. Works with evaluations every `every` steps.
    """

    def __init__(self, *, keep: bool, patience: int, every: int, progress: Progress) -> None:
        self._keep, self._patience, self._every, self._progress = keep, patience, every, progress

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> TrainerControl:
        loss = metrics.get("eval_loss", math.nan)
        if math.isfinite(loss) and (state.best_metric is None or loss < state.best_metric):
            state.best_metric, state.best_global_step = loss, state.global_step
            control.should_save = control.should_save or self._keep
        elif self._patience and state.global_step - (state.best_global_step or 0) >= self._patience * self._every:
            control.should_training_stop = True
            self._progress.warn(
                f"Stopped early at step {state.global_step}: nothing was better than step {state.best_global_step}.",
                kind="stopped_early",
                step=state.global_step,
            )
        return control


class CheckpointCallback(TrainerCallback):
    """Moves each finished checkpoint into place and keeps only the newest ones, and the best if that is wanted.

    The older ones go when `tidy` is called, once the newest has proven to be sound.
    """

    def __init__(
        self, run: RunDir, writing: Path, keep: int, progress: Progress, room: Room, *, keep_best: bool = False
    ) -> None:
        self._run, self._writing, self._keep, self._progress, self._room = run, writing, keep, progress, room
        self._keep_best = keep_best
        self._too_many = False
        self._best = ""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        ranks.wait()  # Each process writes the state of its random numbers into it.
        if ranks.is_main():
            self._move(f"checkpoint-{state.global_step}", state)

    def tidy(self) -> None:
        """Delete the checkpoints that are not kept, if there are new ones since the last time."""
        if self._too_many:
            self._too_many = False
            for old in checkpoints(self._run)[: -self._keep]:
                if old.name != self._best:
                    # Aside first: what a kill leaves of it is no checkpoint.
                    self._writing.mkdir(exist_ok=True)
                    shutil.rmtree(old.rename(self._writing / f"old-{old.name}"))

    def _move(self, name: str, state: TrainerState) -> None:
        (self._writing / name / "training_args.bin").unlink(missing_ok=True)
        self._room.write(lambda: move_into_place(self._writing / name, self._run.checkpoints / name))
        self._progress.fact("checkpoint", sync=True, step=state.global_step, path=f"checkpoints/{name}")
        self._best = f"checkpoint-{state.best_global_step}" if self._keep_best else ""
        self._too_many = True


class SamplesCallback(TrainerCallback):
    """Asks the configured questions before the first step, at each evaluation, at the end, and on request."""

    def __init__(self, ask: Callable[[int], None], control: Control, *, together: bool) -> None:
        self._ask, self._control, self._together = ask, control, together
        self._asked_at = -1

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._control.samples_now(together=self._together):
            self._once(state.global_step)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._once(state.global_step)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._once(state.global_step)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._once(state.global_step)

    def _once(self, step: int) -> None:
        if step != self._asked_at:
            self._asked_at = step
            self._ask(step)


def checkpoints(run: RunDir) -> list[Path]:
    """Return the run's whole checkpoints, oldest first."""
    found = [path for path in run.checkpoints.glob("checkpoint-*") if path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def move_into_place(written: Path, place: Path) -> None:
    """Put a folder that was written aside where it belongs, after its content has reached the disk."""
    settle(written)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    written.rename(place)
