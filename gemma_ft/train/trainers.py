"""TRL's trainers for both objectives, set up from a `RunConfig` so that they leave our rows as they are.

Promises that the rows reach the model exactly as `encode` made them: nothing is tokenised, cut or left out after it.
DPO compares with the model as it was before the tuning: with an adapter that is the model with the adapter switched
off, else a second copy of it. The dropout of an adapter is what the configuration says, for DPO as well (TRL would
switch it off there). Does not run anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from gemma_ft.config import RunConfig
from gemma_ft.train.callbacks import EvaluationStopped
from gemma_ft.train.encode import Row
from gemma_ft.train.loading import adapter_for, precision

Rows = tuple[Sequence[Row], Sequence[Row]]
"""What is trained on, and what is held out."""


class Stoppable(Trainer):
    """A trainer whose evaluation can be stopped, and that writes no card of its own."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; an evaluation that was stopped has no metrics."""
        try:
            return dict(super().evaluate(*args, **kwargs))
        except EvaluationStopped:
            return {}

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave the model card to `hub.cards`, once, at the end."""


class Tuner(Stoppable, SFTTrainer):
    """Learns the answers in the data."""


class PreferenceTuner(Stoppable, DPOTrainer):
    """Learns which of two answers is the better one."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Leave the rows as they are: they hold ids already."""
        return dataset


def new_trainer(
    model: Any, reference: Callable[[], Any], tokenizer: Any, config: RunConfig, rows: Rows, writing: Path
) -> Trainer:
    """Return the trainer of a freshly loaded model; it puts the adapter on. `reference` loads the model once more."""
    train, validation = (Dataset.from_list([row.columns() for row in part]) for part in rows)
    parts = {
        "train_dataset": train,
        "eval_dataset": validation if len(validation) else None,
        "processing_class": tokenizer,
        "peft_config": adapter_for(model, config.method),
    }
    shared = _arguments(config, writing, has_validation=len(validation) > 0)
    if config.method.objective == "sft":
        arguments = SFTConfig(**shared, dataset_kwargs={"skip_prepare_dataset": True})
        return Tuner(model=model, args=arguments, **parts)
    preferences = DPOConfig(**shared, beta=config.method.beta, disable_dropout=False)
    ref_model = reference() if config.method.adapter == "none" else None
    return PreferenceTuner(model=model, ref_model=ref_model, args=preferences, **parts)


def _arguments(config: RunConfig, writing: Path, *, has_validation: bool) -> dict[str, Any]:
    """Translate our knobs into those that TRL's trainers share."""
    training = config.training
    half = precision(config.model.precision) == torch.bfloat16
    evaluates = has_validation and training.eval_every > 0
    return {
        "output_dir": str(writing),
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule if training.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": training.warmup_fraction,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "gradient_checkpointing": training.gradient_checkpointing,
        "logging_steps": training.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": training.eval_every if evaluates else None,
        "save_strategy": "steps" if training.save_every else "no",
        "save_steps": training.save_every or 500,
        "seed": training.seed,
        "data_seed": training.seed,
        "bf16": half,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "include_num_input_tokens_seen": "non_padding",
        "max_length": None,
        "disable_tqdm": True,
        "report_to": [],
    }
