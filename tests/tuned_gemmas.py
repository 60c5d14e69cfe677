"""Tuning a very small Gemma with the trainer's own code, and what it came to, weight by weight.

What is here runs in a child process, as in `tiny_gemmas`; it hands back plain values, which a test judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemma_families import FAMILIES, save_family
from gemma_ft.config import RunConfig
from gemma_ft.data.samples import Sample
from gemma_ft.rundir import RunDir, create_run
from tiny_gemmas import tokenizer_for, tune_run


@dataclass
class Outcome:
    """What a tuning did, in the names that the base has for its weights; an adapter's matrices come after those.

    `sequences` are the ids and labels that were trained. `parameters` and `linears` are the weights and linear layers
    of the base; `not_as_saved` are weights that were not those of the base's folder when the training began, `changed`
    those (and constants) that it left with other values. `reloaded` and `merged` say by how much the logits of the
    saved result differ from those of the trained model in memory, `learned` by how much those differ from the base's.
    What was trained in 4 bits is merged into the base with all its bits, and is compared with the adapter on that one.
    """

    run: RunDir
    sequences: list[tuple[list[int], list[int]]] = field(default_factory=list)
    parameters: set[str] = field(default_factory=set)
    linears: set[str] = field(default_factory=set)
    not_as_saved: set[str] = field(default_factory=set)
    in_4_bits: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    loss_of_the_base: float = 0.0
    loss_of_the_merged: float = 0.0
    reloaded: float = 0.0
    merged: float = 0.0
    learned: float = 0.0


class Witness:
    """Keeps the model that is trained, its weights at the first call, and what it is called with."""

    def __init__(self) -> None:
        self.model: Any = None
        self.before: dict[str, Any] = {}
        self.calls: list[list[tuple[list[int], list[int]]]] = []

    def __call__(self, run: RunDir, model: Any, named: dict[str, Any]) -> None:
        import torch

        if not torch.is_grad_enabled():
            return
        if self.model is None:
            self.model, self.before = model, weights(model)
        assert model is self.model
        real = named["input_ids"] >= 0 if (mask := named.get("attention_mask")) is None else mask.bool()
        batch = zip(named["input_ids"], named["labels"], real, strict=True)
        self.calls.append([(ids[real].tolist(), labels[real].tolist()) for ids, labels, real in batch])


def make_models(folder: Path, names: Iterable[str]) -> None:
    """Write a model of each of these families into the folder, under its name."""
    for name in names:
        save_family(folder / name, FAMILIES[name], tokenizer_for(FAMILIES[name].template))


def tune_and_compare(
    runs: Path, config: RunConfig, base: Path, samples: Sequence[Sample], held_out: Sequence[Sample] = ()
) -> Outcome:
    """Train on samples and compare the model with what it was and with what was saved."""
    import torch

    from gemma_ft.engine.export import export
    from gemma_ft.train.loading import load_model, load_result

    witness = Witness()
    run = create_run(runs, config)
    assert tune_run(run, base, (samples, held_out), witness)
    found = Outcome(run, [row for call in witness.calls for row in call])
    fresh = load_model(base, "float32").eval()
    found.parameters = set(dict(fresh.named_parameters()))
    found.linears = {name for name, module in fresh.named_modules() if isinstance(module, torch.nn.Linear)}
    _compare(found, witness, weights(fresh))
    found.loss_of_the_base = _loss(fresh, witness.calls[0])
    probe = torch.tensor([max(found.sequences, key=lambda row: len(row[0]))[0]])
    trained = _logits(witness.model, probe)
    found.learned = _distance(trained, _logits(fresh, probe))
    found.reloaded = _distance(trained, _logits(load_result(base, run.model, config)[0], probe))
    export(run, run.path / "merged", merge=True)
    merged = load_model(run.path / "merged", "float32")
    found.loss_of_the_merged = _loss(merged, witness.calls[0])
    if config.method.adapter == "qlora":
        trained = _logits(load_result(base, run.model, config, whole=True)[0], probe)
    found.merged = _distance(trained, _logits(merged, probe))
    return found


def weights(model: Any) -> dict[str, Any]:
    """Return copies of a model's parameters and buffers."""
    both = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {plain(name): value.detach().clone() for name, value in both.items()}


def plain(name: str) -> str:
    """Return the name that the base has for a weight, if it is one of the base's."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _compare(found: Outcome, witness: Witness, saved: dict[str, Any]) -> None:
    import torch

    after = weights(witness.model)
    assert after.keys() == witness.before.keys()
    for name, value in witness.before.items():
        if not torch.equal(value, after[name]):
            found.changed.add(name)
        if value.dtype == torch.uint8:
            found.in_4_bits.add(name)
        elif name in saved and not torch.equal(value, saved[name]):
            found.not_as_saved.add(name)
    assert saved.keys() <= after.keys()


def _logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()


def _distance(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


def _loss(model: Any, rows: Iterable[tuple[list[int], list[int]]]) -> float:
    """Return the mean over all trained tokens of minus the logarithm of their probability, row by row."""
    import torch

    found = []
    for ids, labels in rows:
        log_probs = _logits(model, torch.tensor([ids]))[0, :-1].log_softmax(-1)
        found += [-float(log_probs[at, label]) for at, label in enumerate(labels[1:]) if label >= 0]
    return sum(found) / len(found)


def tune_until(run: RunDir, base: Path, samples: Sequence[Sample], held_out: Sequence[Sample], batches: int) -> bool:
    """Train the run's model, or go on from its checkpoint; ask to stop after so many batches, 0 for never.

    Return whether it finished.
    """
    import torch

    made = []

    def ask(run: RunDir, model: Any, named: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            made.append(model)
        if batches and len(made) == batches:
            run.wish("stop")

    return tune_run(run, base, (samples, held_out), ask)


def loss_of_the_result(run: RunDir, base: Path, samples: Sequence[Sample]) -> float:
    """Return the loss of a finished run's model on samples, over all their trained tokens."""
    from gemma_ft.train.encode import Encoded, encode
    from gemma_ft.train.loading import load_result

    config = run.config()
    model, tokenizer = load_result(base, run.model, config)
    rows = [encode(sample, tokenizer, config.training.max_length) for sample in samples]
    return _loss(model, [(row.input_ids, row.labels) for row in rows if isinstance(row, Encoded)])
