"""What to change when a run does not fit, and what each change costs.

Promises changes whose effect is in the estimate, the ones that keep the experiment the same first: smaller batches with
more of them added up learn the same, activations computed twice do too. Changes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from gemma_ft.config import MOST_ACCUMULATED, RunConfig
from gemma_ft.estimate.memory import Fits, Memory, decide_checkpointing, decide_sharding, estimate_memory
from gemma_ft.estimate.workload import Workload
from gemma_ft.hardware import Machine
from gemma_ft.shape import ModelShape
from gemma_ft.sharing import can_be_sharded, processes_for

Changes = dict[str, Any]
"""New values of knobs by their names, such as `training.batch_size`."""
STEP, SHORTEST = 64, 64
"""Tokens; shorter lengths are multiples of one and not below the other."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One way to need less: what it is called, the knobs that change, what it `cost`s, and the memory that remains."""

    label: str
    changes: Changes
    cost: str
    memory: Memory

    @property
    def fits(self) -> Fits:
        """Whether the run fits with it."""
        return self.memory.fits


@dataclass(frozen=True, slots=True)
class _Situation:
    """A run as it is now, and the machine it should fit on."""

    config: RunConfig
    shape: ModelShape
    workload: Workload
    machine: Machine

    def memory(self, changes: Changes) -> Memory:
        changed = self.config.changed(changes)
        return estimate_memory(changed, self.shape, self.workload.cut_to(changed.training.max_length), self.machine)


@dataclass(frozen=True, slots=True)
class _Idea:
    """A kind of remedy. `strengths` are its changes, the mildest first; empty when it cannot help here."""

    label: Callable[[Changes], str]
    cost: str
    strengths: Callable[[_Situation], list[Changes]]


def remedies(config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine) -> list[Remedy]:
    """Return the changes that bring the memory down, each alone; nothing when the run fits.

    When no single one is enough, the smallest combination that fits comes last; of two with as many changes the one
    that keeps more of the experiment. Each is as mild as it can be.
    """
    now = _Situation(config, shape, workload, machine)
    before = now.memory({})
    if before.fits == "fits":
        return []
    ideas = [(idea, strengths) for idea in IDEAS if (strengths := idea.strengths(now))]
    single = [_remedy(now, [(idea, _mildest(now, {}, strengths))]) for idea, strengths in ideas]
    useful = [remedy for remedy in single if remedy.memory.high < before.high]
    if any(remedy.fits == "fits" for remedy in useful):
        return useful
    return [*useful, *_combination(now, ideas)]


def _combination(now: _Situation, ideas: list[tuple[_Idea, list[Changes]]]) -> Iterator[Remedy]:
    """Yield the smallest combination that fits, if there is one, with each part as mild as the others allow."""
    for size in range(2, len(ideas) + 1):
        for chosen in combinations(ideas, size):
            strongest = [strengths[-1] for _, strengths in chosen]
            if _collide(strongest) or now.memory(_together(strongest)).fits != "fits":
                continue
            parts = list(strongest)
            for place, (_, strengths) in enumerate(chosen):
                others = _together(parts[:place] + parts[place + 1 :])
                parts[place] = _mildest(now, others, strengths)
            yield _remedy(now, [(idea, part) for (idea, _), part in zip(chosen, parts, strict=True)])
            return


def _mildest(now: _Situation, others: Changes, strengths: list[Changes]) -> Changes:
    """Return the first of the changes with which it fits, together with `others`; the strongest when none does."""
    fitting = (changes for changes in strengths if now.memory(others | changes).fits == "fits")
    return next(fitting, strengths[-1])


def _remedy(now: _Situation, parts: list[tuple[_Idea, Changes]]) -> Remedy:
    changes = _together([part for _, part in parts])
    label = ", and ".join(idea.label(part) for idea, part in parts)
    cost = " ".join(idea.cost for idea, _ in parts)
    return Remedy(label[0].upper() + label[1:], changes, cost, now.memory(changes))


def _together(parts: list[Changes]) -> Changes:
    return {name: value for part in parts for name, value in part.items()}


def _collide(parts: list[Changes]) -> bool:
    return len(_together(parts)) < sum(map(len, parts))


def _smaller_batches(now: _Situation) -> list[Changes]:
    training = now.config.training
    together = training.batch_size * training.accumulation
    return [
        {"training.batch_size": size, "training.accumulation": together // size}
        for size in range(training.batch_size - 1, 0, -1)
        if together % size == 0 and together // size <= MOST_ACCUMULATED
    ]


def _checkpointing(now: _Situation) -> list[Changes]:
    done = decide_checkpointing(now.config, now.shape, now.workload, now.machine)
    return [] if done else [{"training.gradient_checkpointing": "on"}]


def _small_optimizer(now: _Situation) -> list[Changes]:
    usable = now.machine.gpus and now.config.training.optimizer == "adamw" and _copied(now)
    return [{"training.optimizer": "adamw_8bit"}] if usable else []


def _factored_optimizer(now: _Situation) -> list[Changes]:
    usable = now.config.training.optimizer != "adafactor" and now.config.method.adapter == "none" and _copied(now)
    return [{"training.optimizer": "adafactor"}] if usable else []


def _four_bits(now: _Situation) -> list[Changes]:
    usable = now.machine.gpus and now.config.method.adapter == "lora" and _copied(now)
    return [{"method.adapter": "qlora"}] if usable else []


def _adapter(now: _Situation) -> list[Changes]:
    if now.config.method.adapter != "none":
        return []
    rate = min(1.0, now.config.training.learning_rate * 10)
    lora: Changes = {"method.adapter": "lora", "training.learning_rate": rate}
    return [lora, lora | {"method.adapter": "qlora"}] if now.machine.gpus and _copied(now) else [lora]


def _copied(now: _Situation) -> bool:
    """Tell whether each GPU may have a copy of the weights, which the 4-bit ones and the small optimizers need."""
    return now.config.compute.sharding != "on"


def _sharding(now: _Situation) -> list[Changes]:
    if decide_sharding(now.config, now.shape, now.workload, now.machine) or not can_be_sharded(now.config):
        return []
    return [{"compute.sharding": "on"}] if processes_for(now.config, now.machine) > 1 else []


def _shorter(now: _Situation) -> list[Changes]:
    packed = now.config.training.packing
    longest = now.config.training.max_length if packed else min(now.config.training.max_length, now.workload.longest)
    lengths, length = [], longest
    while (length := length * 3 // 4 // STEP * STEP) >= SHORTEST:
        lengths.append(length)
    return [{"training.max_length": length} for length in lengths]


IDEAS = (
    _Idea(
        lambda part: f"batches of {part['training.batch_size']}, {part['training.accumulation']} of them added up",
        "It learns the same, a little slower.",
        _smaller_batches,
    ),
    _Idea(lambda _: "compute activations twice", "It learns the same, about a third slower.", _checkpointing),
    _Idea(lambda _: "spread the weights over the GPUs", "It learns the same, slower.", _sharding),
    _Idea(lambda _: "QLoRA: the base in 4 bits", "Slower, and the result is a little less exact.", _four_bits),
    _Idea(lambda _: "AdamW in 8 bits", "The steps are a little less exact.", _small_optimizer),
    _Idea(lambda _: "Adafactor instead of AdamW", "It learns somewhat differently.", _factored_optimizer),
    _Idea(
        lambda part: f"{'QLoRA' if part['method.adapter'] == 'qlora' else 'LoRA'} instead of full tuning",
        "It trains a small adapter and not every weight; good for most tasks.",
        _adapter,
    ),
    _Idea(
        lambda part: f"cut rows to {part['training.max_length']:,} tokens",
        "What is longer loses its end.",
        _shorter,
    ),
)
"""In the order in which they are offered: what keeps the experiment the same comes first."""
