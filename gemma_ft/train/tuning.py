"""The tuning itself: the trainer is run with everything around it, and its result saved, whatever the objective is.

Promises that a resumed run goes on where its checkpoint was written, that `model/` appears whole or not at all, holding
an adapter only or full weights, with the tokenizer, and that a training which runs out of memory goes on from its last
checkpoint with less of it, if that is allowed (`fitting.py` says how). Of several processes that train together only
the main one writes, and asks its own copy of the model the questions; a model that is spread over them they ask
together, and its checkpoints hold parts. There running out of memory ends the run, because one of them cannot change
the batch by itself.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.events import read_facts
from gemma_ft.failures import is_out_of_memory
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling
from gemma_ft.sharing import shared_among
from gemma_ft.train import ranks, sharding
from gemma_ft.train.board import Board
from gemma_ft.train.callbacks import (
    BestCallback,
    CheckpointCallback,
    FactsCallback,
    SamplesCallback,
    Tuned,
    WishesCallback,
    checkpoints,
    move_into_place,
    step_of,
)
from gemma_ft.train.control import Control
from gemma_ft.train.finite import FiniteCallback
from gemma_ft.train.fitting import fitted, needing_less, settled
from gemma_ft.train.generation import answer
from gemma_ft.train.loading import describe_model, load_for_training, load_reference, save_result
from gemma_ft.train.progress import Progress
from gemma_ft.train.room import Room, require_room, settle, weights_bytes
from gemma_ft.train.trainers import Rows, Stoppable, new_trainer


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
    require_room(run, config, base_folder, rows)
    if ranks.count() > 1:
        ranks.join()
        part = _part_of_this(run, config, base_folder, rows, progress)
        return _tune(run, part, base_folder, tokenizer, rows, control=control, progress=progress, card=card)
    _require_whole(checkpoints(run)[-1:])
    now = fitted(run, config, base_folder, rows, progress)
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


def _part_of_this(run: RunDir, config: RunConfig, base_folder: Path, rows: Rows, progress: Progress) -> RunConfig:
    """Return the config of one of several processes: its rows, and what is done in all if one of them has to.

    Weights stay as they were when a run is resumed: spread, or not.
    """
    if last := checkpoints(run)[-1:]:
        config = config.changed({"compute.sharding": "on" if sharding.has_parts(last[0]) else "off"})
        wrote = len(list(last[0].glob("rng_state*")))
        if wrote != ranks.count():
            progress.warn(
                f"The checkpoint was written by {wrote} processes, and {ranks.count()} go on from it: each step has "
                "the same rows, but dropout is not what it would have been."
            )
    config = settled(config, base_folder, rows, run.path)
    switches = {
        "training.gradient_checkpointing": config.training.gradient_checkpointing,
        "compute.sharding": config.compute.sharding,
    }
    agreed = {name: "on" if ranks.highest(int(value == "on")) else "off" for name, value in switches.items()}
    return shared_among(ranks.count(), config.changed(agreed))


def _require_whole(last: Sequence[Path]) -> None:
    """Raise `ConfigError` if a run whose weights were spread is resumed by one process."""
    if last and sharding.has_parts(last[0]):
        raise ConfigError(
            "The checkpoint was written by several processes, with the weights spread over them, and one cannot go on.",
            "Resume it where there are two GPUs or more; their number may be another one.",
        )


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
    trainer = new_trainer(model, lambda: load_reference(base_folder, config), tokenizer, config, rows, writing)
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    checkpointing = config.training.gradient_checkpointing == "on"
    progress.fact("model", id=config.model.id, trained=trained, gradient_checkpointing=checkpointing, **base)
    if sharding.is_spread(trainer.model):
        progress.fact("sharding", held=ranks.of_each(sharding.held(trainer.model)))
    trainer.remove_callback(PrinterCallback)
    room = Room(run, control, progress)
    trainer.room = room
    facts = FactsCallback(progress)
    trainer.add_callback(facts)
    _add_callbacks(trainer, run, config, tokenizer, writing, control, progress, room)
    with control.at_steps_only(), _emptied(writing):
        _train(trainer, run, config)
        trained_whole = trainer.state.global_step >= trainer.state.max_steps
        asked = control.agreed()
        finished = asked is None or (trained_whole and asked != "cancel")
        spreads = sharding.is_spread(trainer.model)
        if finished and (ranks.is_main() or spreads):
            progress.phase("saving the model")
            if config.training.keep_best:
                facts.tuned = _take_best(trainer, run, facts.tuned, progress)
            whole = sharding.gathered(trainer.model) if spreads else None
        if finished and ranks.is_main():
            _save(trainer, tokenizer, config, card(facts.tuned), writing / "model", run.model, room, whole)
    return finished


def _save(
    trainer: Stoppable,
    tokenizer: Any,
    config: RunConfig,
    card: str,
    writing: Path,
    place: Path,
    room: Room,
    whole: dict[str, Any] | None,
) -> None:
    """Write the result with its card aside, waiting for room if need be, and move it into place.

    `whole` are the weights that were gathered, if they were spread.
    """

    def write() -> None:
        save_result(trainer.model, tokenizer, writing, config.model, whole)
        (writing / "README.md").write_text(card, encoding="utf-8")
        settle(writing)

    room.write(write, needed=weights_bytes(trainer.model), undo=lambda: shutil.rmtree(writing, ignore_errors=True))
    room.write(lambda: move_into_place(writing, place))


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """Remove what a kill has left in a folder, and afterwards what is left of a failure: it may fill the disk."""
    if ranks.is_main():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        if ranks.is_main():
            shutil.rmtree(folder, ignore_errors=True)


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
    if sharding.is_spread(trainer.model):
        ranks.wait()  # The main process may still move the last checkpoint into place.
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
    trainer: Stoppable,
    run: RunDir,
    config: RunConfig,
    tokenizer: Any,
    writing: Path,
    control: Control,
    progress: Progress,
    room: Room,
) -> None:
    """Add what is done at each step, in the order in which it has to be done."""
    spreads = sharding.is_spread(trainer.model)

    def stopped() -> bool:
        return (control.agreed() if spreads else control.asked()) is not None

    def ask(step: int) -> None:
        for prompt in config.evaluation.prompts:
            if stopped():
                return
            sampling = Sampling(max_new_tokens=config.evaluation.max_new_tokens)
            asked = [{"role": "user", "content": prompt}]
            text, _ = answer(trainer.model, tokenizer, asked, sampling, should_stop=stopped, together=spreads)
            if not stopped():
                progress.fact("sample", step=step, prompt=prompt, answer=text)

    if ranks.is_main():
        trainer.add_callback(Board(run.tensorboard))
    training = config.training
    best = BestCallback(
        keep=training.keep_best, patience=training.early_stopping, every=training.eval_every, progress=progress
    )
    saving = CheckpointCallback(run, writing, training.keep_checkpoints, progress, room, keep_best=training.keep_best)
    finite = FiniteCallback(
        progress,
        lambda: trainer.gradient_norm,
        proven=saving.tidy,
        sound=lambda step: max((found for path in checkpoints(run) if (found := step_of(path)) < step), default=None),
    )
    for callback in (finite, best, saving):
        trainer.add_callback(callback)
    if ranks.is_main() or spreads:
        trainer.add_callback(SamplesCallback(ask, control, together=spreads))
    trainer.add_callback(WishesCallback(control, trainer.before_step))
