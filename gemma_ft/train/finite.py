"""Numbers that are not finite: a step that would break the weights is not made, and broken weights are never kept.

Promises that a step whose gradient is NaN or infinite leaves weights and optimizer as they were, so that a single
overflow or one bad row heals, as with mixed precision; that the training ends with `NotFinite` when that happens
`MOST_IN_A_ROW` times in a row, or at once when a weight is not finite, which nothing heals; and that an older
checkpoint goes only after the weights of a newer one have given a gradient that can be used. Without this callback
one such gradient makes every weight NaN: clipping multiplies all of them with it. Of several processes that train
together all have the same gradient and weights, and decide the same. A loss that is merely high is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gemma_ft.errors import GemmaFtError
from gemma_ft.failures import CALMER
from gemma_ft.train import ranks
from gemma_ft.train.progress import Progress
from gemma_ft.train.sharding import held_part

MOST_IN_A_ROW = 3
"""So many steps in a row without a usable gradient are no accident."""


class NotFinite(GemmaFtError):
    """The gradient or the weights are NaN or infinite; start again with other settings."""

    kind = "not_finite"
    title = "The training fell apart"


class FiniteCallback(TrainerCallback):
    """Looks at every gradient before it is used, and at the weights before they are measured or saved.

    `gradient_norm` gives the norm of the gradient of this step, `proven` is called once the weights that were saved
    last have given a gradient that can be used, `sound` tells the newest checkpoint that is older than a step. Stands
    before the callbacks that measure, save, or obey a wish to save.
    """

    def __init__(
        self,
        progress: Progress,
        gradient_norm: Callable[[], float],
        *,
        proven: Callable[[], None],
        sound: Callable[[int], int | None],
    ) -> None:
        self._progress, self._gradient_norm = progress, gradient_norm
        self._proven, self._sound = proven, sound
        self._in_a_row = 0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Take the gradient away if it cannot be used: the optimizer passes over weights without one."""
        if math.isfinite(self._gradient_norm()):
            self._in_a_row = 0
            self._proven()
            return
        step = state.global_step + 1
        self.require_finite(model, state)
        self._in_a_row += 1
        if self._in_a_row == MOST_IN_A_ROW:
            happened = f"The gradient was NaN or infinite {MOST_IN_A_ROW} times in a row, up to step {step:,}."
            raise NotFinite(f"{happened} {self._kept(step - MOST_IN_A_ROW)}", CALMER)
        model.zero_grad(set_to_none=True)
        self._progress.warn(
            f"Step {step:,} was passed over: its gradient was NaN or infinite.", kind="passed_over", step=step
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        """Save nothing new after a step that was not made, and measure nothing that is broken."""
        control.should_save = control.should_save and not self._in_a_row
        if control.should_evaluate:
            self.require_finite(model, state)
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Look at what was written aside before it is moved into place."""
        self.require_finite(model, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Let go of older checkpoints, unless the last steps were passed over."""
        self.require_finite(model, state)
        if not self._in_a_row:
            self._proven()

    def require_finite(self, model: Any, state: TrainerState) -> None:
        """Raise `NotFinite` when a weight that is trained is not finite."""
        if not is_finite(model):
            step = state.global_step
            raise NotFinite(f"At step {step:,} weights became NaN or infinite. {self._kept(step)}", CALMER)

    def _kept(self, step: int) -> str:
        sound = self._sound(step)
        return f"The checkpoint of step {sound:,} is from before." if sound else "There is no checkpoint from before."


def is_finite(model: Any) -> bool:
    """Tell whether all weights that are trained are finite; makes no copies of them. All processes have to call it."""
    trained = [held_part(weight.detach()) for weight in model.parameters() if weight.requires_grad]
    highest = [torch.linalg.vector_norm(weight, ord=math.inf) for weight in trained if weight.numel()]  # NaN if any is
    here = bool(torch.isfinite(torch.stack([one.float().cpu() for one in highest])).all()) if highest else True
    return ranks.highest(int(not here)) == 0
