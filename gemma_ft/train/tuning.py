"""The tuning itself: the trainer is run with everything around it, and its result saved, whatever the objective is.

Promises that a resumed run goes on where its checkpoint was written, that `model/` appears whole or not at all, holding
an adapter only or full weights, with the tokenizer, and that a training which runs out of memory goes on from its last
checkpoint with less of it, if that is allowed (`fitting.py` says how). Of several processes that train together only
the main one writes, and asks its own copy of the model the questions; there running out of memory ends the run, because
one of them cannot change the batch by itself.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from gemma_ft.config import RunConfig
from gemma_ft.events import read_facts
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling
from gemma_ft.train import ranks
from gemma_ft.train.callbacks import (
    BestCallback,
    CheckpointCallback,
    FactsCallback,
    SamplesCallback,
    Tuned,
    WishesCallback,
    checkpoints,
    move_into_place,
)
from gemma_ft.train.control import Control
from gemma_ft.train.failures import is_out_of_memory
from gemma_ft.train.fitting import fitted, needing_less, settled
from gemma_ft.train.generation import answer
from gemma_ft.train.loading import describe_model, load_for_training, load_reference, save_result
from gemma_ft.train.progress import Progress
from gemma_ft.train.trainers import Rows, new_trainer


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
    if ranks.count() > 1:
        ranks.join()
        part = _same_everywhere(settled(ranks.shared(config), base_folder, rows, run.path))
        return _tune(run, part, base_folder, tokenizer, rows, control=control, progress=progress, card=card)
    now = fitted(run, config, base_folder, rows)
    while True:
        try:
            return _tune(run, now, base_folder, tokenizer, rows, control=control, progress=progress, card=card)
        except (RuntimeError, MemoryError) as exc:
            less = needing_less(now) if is_out_of_memory(exc) else None
            if less is None:
                raise
        # Only here, where the failure is forgotten, does nothing hold on to the model any more.
        gc.collect()
        torch.cuda.empty_cache()
        progress.warn(less.said, kind="out_of_memory", **less.changes)
        now = less.config


def _same_everywhere(config: RunConfig) -> RunConfig:
    """Recompute activations in every process if one of them has to."""
    needed = ranks.highest(int(config.training.gradient_checkpointing == "on"))
    change = {"gradient_checkpointing": "on" if needed else "off"}
    return config.model_copy(update={"training": config.training.model_copy(update=change)})


def _tune(
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
    """Do what `tune` does, once, with a config that says what `fitted` decided."""
    progress.phase("loading the model")
    torch.manual_seed(config.training.seed)
    model = load_for_training(base_folder, config)
    base = describe_model(model)
    writing = run.path / ".writing"
    if ranks.is_main():
        shutil.rmtree(writing, ignore_errors=True)
    trainer = new_trainer(model, lambda: load_reference(base_folder, config), tokenizer, config, rows, writing)
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    checkpointing = config.training.gradient_checkpointing == "on"
    progress.fact("model", id=config.model.id, trained=trained, gradient_checkpointing=checkpointing, **base)
    trainer.remove_callback(PrinterCallback)
    facts = FactsCallback(progress)
    trainer.add_callback(facts)
    _add_callbacks(trainer, run, config, tokenizer, writing, control, progress)
    with control.at_steps_only():
        _train(trainer, run, config)
        trained_whole = trainer.state.global_step >= trainer.state.max_steps
        asked = control.agreed()
        finished = asked is None or (trained_whole and asked != "cancel")
        if finished and ranks.is_main():
            progress.phase("saving the model")
            if config.training.keep_best:
                facts.tuned = _take_best(trainer, run, facts.tuned, progress)
            save_result(trainer.model, tokenizer, writing / "model", config.model)
            (writing / "model" / "README.md").write_text(card(facts.tuned), encoding="utf-8")
            move_into_place(writing / "model", run.model)
    if ranks.is_main():
        shutil.rmtree(writing, ignore_errors=True)
    return finished


def _train(trainer: Trainer, run: RunDir, config: RunConfig) -> None:
    last = checkpoints(run)[-1:]
    if last and trainer.eval_dataset is not None and config.training.eval_every:
        trainer.args.eval_on_start = _owes_evaluation(run, last[0], config.training.eval_every)
    trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    if trainer.eval_dataset is not None and not config.training.eval_every:
        trainer.evaluate()


def _owes_evaluation(run: RunDir, checkpoint: Path, every: int) -> bool:
    """Tell whether the evaluation after the last step of a checkpoint was left out, because the run was stopped there.

    Without it the curve had a gap, and a step could not be the best one.
    """
    step = int(checkpoint.name.rpartition("-")[2])
    made = any(fact.get("event") == "eval" and fact.get("step") == step for fact in read_facts(run.events)[0])
    return step % every == 0 and not made


def _take_best(trainer: Trainer, run: RunDir, tuned: Tuned, progress: Progress) -> Tuned:
    """Put the weights that did best on the held-out rows back into the model; return what the result came to."""
    step = trainer.state.best_global_step
    if not step or step == trainer.state.global_step:
        return tuned
    saved = run.checkpoints / f"checkpoint-{step}"
    if not saved.is_dir():
        progress.warn(f"The checkpoint of the best step, {step:,}, is gone: the result is the last model instead.")
        return tuned
    trainer._load_from_checkpoint(str(saved))  # the trainer's own way, for adapters and full weights alike
    progress.warn(
        f"The result is the model of step {step:,}, which did best on the held-out rows.", kind="best", step=step
    )
    return replace(tuned, steps=step, loss=None, held_out_loss=trainer.state.best_metric)


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

    if ranks.is_main():
        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(run.tensorboard))))
    training = config.training
    best = BestCallback(
        keep=training.keep_best, patience=training.early_stopping, every=training.eval_every, progress=progress
    )
    trainer.add_callback(best)
    trainer.add_callback(
        CheckpointCallback(run, writing, training.keep_checkpoints, progress, keep_best=training.keep_best)
    )
    if ranks.is_main():
        trainer.add_callback(SamplesCallback(ask, control))
    trainer.add_callback(WishesCallback(control))
