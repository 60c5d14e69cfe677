"""What a trainer does otherwise when the weights of its model are spread over several processes.

Promises that the model is never whole on one GPU and not wrapped (no DDP), and that checkpoints hold parts. The rest of
the training is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from gemma_ft.train import sharding

SCHEDULE = "scheduler.pt"


class Spreading(Trainer):
    """Put this before a trainer class. Its model is spread after it was made; then call `accept_spread_model`."""

    def accept_spread_model(self) -> None:
        """Have the model compute in the trainer's number format, without a copy of it in each process."""
        self.accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)
        self.model._is_accelerate_prepared = True

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """Leave it where it is: a part of it will be moved."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save nothing here: the weights are among the parts."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        sharding.save_parts(self.model, self.optimizer.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        sharding.load_weights(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            sharding.load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint))
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULE, weights_only=True))
