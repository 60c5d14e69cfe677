"""TRL's trainers for both objectives, set up from a `RunConfig` so that they leave our rows as they are.

Promises that the rows reach the model exactly as `encode` made them: nothing is tokenised, cut or left out after it;
packed ones are only laid end to end. Weights that are trained are in the format that `loading` gave them.
DPO compares with the model as it was before the tuning: with an adapter that is the model with the adapter switched
off, else a second copy of it. The dropout of an adapter is what the configuration says, for DPO as well (TRL would
switch it off there). Does not run anything.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.train import ranks, sharding
from gemma_ft.train.callbacks import Chance, EvaluationStopped, chance_now
from gemma_ft.train.encode import Encoded, Row
from gemma_ft.train.head import install_head
from gemma_ft.train.loading import adapter_for, computing
from gemma_ft.train.packing import PackingCollator, pack
from gemma_ft.train.room import Room, checkpoint_bytes, settle
from gemma_ft.train.spread_trainer import Spreading

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit", "adafactor": "adafactor"}
"""Our names of optimizers and those of transformers."""
Rows = tuple[Sequence[Row], Sequence[Row]]
"""What is trained on, and what is held out."""


class Stoppable(Trainer):
    """A trainer whose evaluation can be stopped, that makes no step too many, waits for room to save, knows the norm of
    its gradient, and writes no card of its own."""

    gradient_norm = 0.0
    _epoch_began: Chance | None = None
    room: Room | None = None
    """The disk to save on; a trainer that is only measured has none."""

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Remember the norm, which callbacks are not told."""
        norm = super()._get_grad_norm(*args, **kwargs)
        self.gradient_norm = float(norm)
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Forget a loss that is not finite once it is told; `Trainer` would carry it into all later ones."""
        if not math.isfinite(logs.get("loss", 0.0)):
            self._tr_loss.zero_()
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as the library does, as often as it takes; the state of random numbers is not touched by it."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        save = super()._save_checkpoint

        def save_whole() -> None:
            save(model, trial)
            if ranks.count() == 1:
                settle(folder)

        def undo() -> None:
            shutil.rmtree(folder, ignore_errors=True)

        if self.room is None:
            save(model, trial)
        else:
            self.room.write(save_whole, needed=checkpoint_bytes(self), undo=undo, together=True)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; an evaluation that was stopped has no metrics.

        Chance is left as it was, so that a run learns the same whether it was measured at a step or not.
        """
        with torch.random.fork_rng():
            try:
                return dict(super().evaluate(*args, **kwargs))
            except EvaluationStopped:
                return {}

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train for one epoch, unless all steps were made before: the library would make one more of them."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        checkpoint = kwargs["resume_from_checkpoint"] if kwargs["epoch"] == kwargs["epochs_trained"] else None
        if checkpoint is None or not kwargs["steps_trained_in_current_epoch"]:
            if checkpoint is not None:
                self._load_rng_state(checkpoint)
            self._epoch_began = chance_now()
        super()._run_epoch(*args, **kwargs)

    def before_step(self) -> Chance:
        """Return the chance that the step which begins has to be given if it is made again.

        Before the first step of an epoch the library draws the order of the rows, and will draw it again.
        """
        began, self._epoch_began = self._epoch_began, None
        return began or chance_now()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave the model card to `hub.cards`, once, at the end."""


class Tuner(Stoppable, SFTTrainer):
    """Learns the answers in the data."""


class PreferenceTuner(Stoppable, DPOTrainer):
    """Learns which of two answers is the better one."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Leave the rows as they are: they hold ids already."""
        return dataset


class SpreadTuner(Spreading, Tuner):
    """A `Tuner` of a model whose weights are spread over the processes."""


class SpreadPreferenceTuner(Spreading, PreferenceTuner):
    """A `PreferenceTuner` of a model whose weights are spread over the processes."""


def new_trainer(
    model: Any,
    reference: Callable[[], Any],
    tokenizer: Any,
    config: RunConfig,
    rows: Rows,
    writing: Path,
    *,
    in_order: bool = False,
) -> Stoppable:
    """Return the trainer of a freshly loaded model; it puts the adapter on. `reference` loads the model once more.

    The rows are mixed anew in every epoch, unless they are wanted `in_order`.

    Raises `ConfigError` for an optimizer that this machine has not.
    """
    if config.training.optimizer == "adamw_8bit" and not torch.cuda.is_available():
        raise ConfigError("AdamW in 8 bits needs an NVIDIA GPU.", "Set training.optimizer to adamw.")
    train_rows = _packed(rows[0], config) if config.training.packing else rows[0]
    train, validation = (Dataset.from_list([row.columns() for row in part]) for part in (train_rows, rows[1]))
    parts = {
        "train_dataset": train,
        "eval_dataset": validation if len(validation) else None,
        "processing_class": tokenizer,
        "peft_config": adapter_for(model, config.method),
    }
    shared = _arguments(config, writing, has_validation=len(validation) > 0)
    shared["train_sampling_strategy"] = "sequential" if in_order else "random"
    spreads = ranks.count() > 1 and config.compute.sharding == "on"
    trainer: Stoppable
    ref_model = None
    if config.method.objective == "sft":
        arguments = SFTConfig(**shared, dataset_kwargs={"skip_prepare_dataset": True})
        collator = PackingCollator(tokenizer.pad_token_id) if config.training.packing else None
        trainer = (SpreadTuner if spreads else Tuner)(model=model, args=arguments, data_collator=collator, **parts)
    else:
        method = config.method
        preferences = DPOConfig(**shared, beta=method.beta, loss_type=[method.loss], disable_dropout=False)
        ref_model = reference() if config.method.adapter == "none" else None
        if ref_model is not None and spreads:
            ref_model._is_accelerate_prepared = True  # or else it is put onto each GPU as a whole
        kind = SpreadPreferenceTuner if spreads else PreferenceTuner
        trainer = kind(model=model, ref_model=ref_model, args=preferences, **parts)
    if config.method.adapter != "none":
        _in_float32(trainer.model)
    if spreads:
        half = computing(config.model.precision) == torch.bfloat16
        kept = {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad}
        sharding.spread(trainer.model, mixed=half and torch.float32 in kept)
    install_head(trainer.model)
    if ref_model is not None:
        if spreads:
            sharding.spread_reference(ref_model)
        install_head(ref_model)
    if isinstance(trainer, Spreading):
        trainer.accept_spread_model()
    return trainer


def _packed(rows: Sequence[Row], config: RunConfig) -> Sequence[Any]:
    return pack([row for row in rows if isinstance(row, Encoded)], config.training.max_length)


def _in_float32(model: Any) -> None:
    """Keep an adapter in float32, also that of a model in 4 bits, which TRL puts into bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _arguments(config: RunConfig, writing: Path, *, has_validation: bool) -> dict[str, Any]:
    """Translate our knobs into those that TRL's trainers share."""
    training = config.training
    half = computing(config.model.precision) == torch.bfloat16
    evaluates = has_validation and training.eval_every > 0
    return {
        "output_dir": str(writing),
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule if training.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": training.warmup_fraction,
        "optim": OPTIMIZERS[training.optimizer],
        "neftune_noise_alpha": training.neftune_alpha or None,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "gradient_checkpointing": training.gradient_checkpointing == "on",
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
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "include_num_input_tokens_seen": "non_padding",
        "max_length": None,
        "disable_tqdm": True,
        "report_to": [],
    }
