"""The tuning itself: the trainer is run with everything around it, and its result saved, whatever the objective is.

Promises that a resumed run goes on where its checkpoint was written, and that `model/` appears whole or not at all,
holding an adapter only or full weights, with the tokenizer.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from gemma_ft.config import RunConfig
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling
from gemma_ft.train.callbacks import (
    CheckpointCallback,
    FactsCallback,
    SamplesCallback,
    Tuned,
    WishesCallback,
    checkpoints,
    move_into_place,
)
from gemma_ft.train.control import Control
from gemma_ft.train.generation import answer
from gemma_ft.train.loading import describe_model, load_model, save_result
from gemma_ft.train.progress import Progress
from gemma_ft.train.trainers import Rows, new_trainer

log = logging.getLogger("gemma_ft")


def tune(
    run: RunDir,
    config: RunConfig,
    base_folder: Path,
    tokenizer: Any,
    rows: Rows,
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
    writing = run.path / ".writing"
    shutil.rmtree(writing, ignore_errors=True)
    reference = partial(load_model, base_folder, config.model.precision)
    trainer = new_trainer(model, reference, tokenizer, config, rows, writing)
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    progress.fact("model", id=config.model.id, trained=trained, **base)
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


def _train(trainer: Trainer, run: RunDir, config: RunConfig) -> None:
    last = checkpoints(run)[-1:]
    trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    if trainer.eval_dataset is not None and not config.training.eval_every:
        trainer.evaluate()


def _add_callbacks(
    trainer: Trainer,
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
