"""The tuning itself: TRL's trainer, set up from a `RunConfig`, run, and its result saved.

Promises that the rows reach the model exactly as `encode` made them, that a resumed run goes on where its checkpoint
was written, and that `model/` appears whole or not at all, holding an adapter only or full weights, with the
tokenizer.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from gemma_ft.config import RunConfig
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling
from gemma_ft.train.callbacks import (
    CheckpointCallback,
    EvaluationStopped,
    FactsCallback,
    SamplesCallback,
    Tuned,
    WishesCallback,
    checkpoints,
    move_into_place,
)
from gemma_ft.train.control import Control
from gemma_ft.train.encode import Encoded
from gemma_ft.train.generation import answer
from gemma_ft.train.loading import add_adapter, describe_model, load_model, precision, save_result
from gemma_ft.train.progress import Progress

log = logging.getLogger("gemma_ft")


class Tuner(SFTTrainer):
    """TRL's trainer, except that an evaluation can be stopped and that it writes no card of its own."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; an evaluation that was stopped has no metrics."""
        try:
            return dict(super().evaluate(*args, **kwargs))
        except EvaluationStopped:
            return {}

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave the model card to `hub.cards`, once, at the end."""


def tune(
    run: RunDir,
    config: RunConfig,
    base_folder: Path,
    tokenizer: Any,
    rows: tuple[Sequence[Encoded], Sequence[Encoded]],
    *,
    control: Control,
    progress: Progress,
    card: Callable[[Tuned], str],
) -> bool:
    """Train and save the result with its card; return whether it came to that, or somebody asked to stop."""
    progress.phase("loading the model")
    torch.manual_seed(config.training.seed)
    model = load_model(base_folder, config.model.precision)
    base = describe_model(model)
    if config.method.adapter == "lora":
        model = add_adapter(model, config.method)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    progress.fact("model", id=config.model.id, trained=trained, **base)
    writing = run.path / ".writing"
    shutil.rmtree(writing, ignore_errors=True)
    trainer = _trainer(model, tokenizer, config, rows, run, writing)
    trainer.remove_callback(PrinterCallback)
    facts = FactsCallback(progress)
    trainer.add_callback(facts)
    _add_callbacks(trainer, run, config, tokenizer, writing, control, progress)
    with control.at_steps_only():
        _train(trainer, run, config)
        trained_whole = trainer.state.global_step >= trainer.state.max_steps
        asked = control.asked()
        finished = asked is None or (trained_whole and asked != "cancel")
        if finished:
            progress.phase("saving the model")
            save_result(trainer.model, tokenizer, writing / "model", config.model)
            (writing / "model" / "README.md").write_text(card(facts.tuned), encoding="utf-8")
            move_into_place(writing / "model", run.model)
    shutil.rmtree(writing, ignore_errors=True)
    return finished


def _train(trainer: Tuner, run: RunDir, config: RunConfig) -> None:
    last = checkpoints(run)[-1:]
    trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    if trainer.eval_dataset is not None and not config.training.eval_every:
        trainer.evaluate()


def _trainer(
    model: Any,
    tokenizer: Any,
    config: RunConfig,
    rows: tuple[Sequence[Encoded], Sequence[Encoded]],
    run: RunDir,
    writing: Path,
) -> Tuner:
    train, validation = (_dataset(part) for part in rows)
    return Tuner(
        model=model,
        args=_arguments(config, writing, has_validation=len(validation) > 0),
        train_dataset=train,
        eval_dataset=validation if len(validation) else None,
        processing_class=tokenizer,
    )


def _dataset(rows: Sequence[Encoded]) -> Dataset:
    return Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]})


def _arguments(config: RunConfig, writing: Path, *, has_validation: bool) -> SFTConfig:
    """Translate our knobs into TRL's."""
    training = config.training
    half = precision(config.model.precision) == torch.bfloat16
    evaluates = has_validation and training.eval_every > 0
    return SFTConfig(
        output_dir=str(writing),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule if training.schedule != "constant" else "constant_with_warmup",
        warmup_steps=training.warmup_fraction,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        gradient_checkpointing=training.gradient_checkpointing,
        logging_steps=training.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=training.eval_every if evaluates else None,
        save_strategy="steps" if training.save_every else "no",
        save_steps=training.save_every or 500,
        seed=training.seed,
        data_seed=training.seed,
        bf16=half,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        include_num_input_tokens_seen="non_padding",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
        report_to=[],
    )


def _add_callbacks(
    trainer: Tuner,
    run: RunDir,
    config: RunConfig,
    tokenizer: Any,
    writing: Path,
    control: Control,
    progress: Progress,
) -> None:
    def ask(step: int) -> None:
        for prompt in config.evaluation.prompts:
            if control.asked():
                return
            sampling = Sampling(max_new_tokens=config.evaluation.max_new_tokens)
            asked = [{"role": "user", "content": prompt}]
            text, _ = answer(trainer.model, tokenizer, asked, sampling, should_stop=lambda: control.asked() is not None)
            if control.asked() is None:
                progress.fact("sample", step=step, prompt=prompt, answer=text)

    trainer.add_callback(TensorBoardCallback(SummaryWriter(str(run.tensorboard))))
    trainer.add_callback(CheckpointCallback(run, writing, config.training.keep_checkpoints, progress))
    trainer.add_callback(SamplesCallback(ask))
    trainer.add_callback(WishesCallback(control))
