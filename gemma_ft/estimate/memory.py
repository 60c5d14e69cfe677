"""How much memory a run will need at its worst moment, part by part, and whether that is there.

Promises bytes. Weights, adapter, gradients and the optimizer's state follow from the configuration and are exact for
AdamW (within a hundredth for the 8-bit optimizer, Adafactor and 4-bit weights, whose small tables depend on each
tensor). The rest is a range: what happens inside a step was counted in PyTorch (docs/estimator.md), what a process and
the allocator take besides was measured. Loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.estimate import activations
from gemma_ft.estimate.activations import Batch, Kind
from gemma_ft.estimate.workload import Workload, longest_sequence, sequences, sequences_per_row
from gemma_ft.hardware import Machine
from gemma_ft.shape import ModelShape
from gemma_ft.sharing import can_be_sharded, processes_for, shared_among

MIB, GIB = 2**20, 2**30
CHUNK_BYTES, FEWEST = 64 * MIB, 64
"""As in `train/head.py`: the size of one buffer of logits, and the positions that a chunk has at least."""
BLOCK, SECOND_BLOCK = 64, 256
"""NF4 has a scale for each 64 weights, in 8 bits; these scales have a float32 scale for each 256 of them
(https://arxiv.org/abs/2305.14314)."""
TABLES = 4 * (16 + 256 + 1)
"""Bytes of the tables that bitsandbytes keeps for each 4-bit tensor."""
PROCESS = (450 * MIB, 900 * MIB)
"""What a process that has imported PyTorch, transformers and TRL takes before it loads a model."""
ON_GPU = (600 * MIB, 1200 * MIB)
"""CUDA's context and its libraries' workspaces."""
SLACK_RAM, SLACK_GPU = (0.0, 0.10), (0.02, 0.10)
"""Shares that the allocator wastes: blocks that are free but do not fit."""
UNEVEN = 1.5
"""How many times more learned tokens than usual a batch may have."""

Fits = Literal["fits", "tight", "no"]


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the memory: bytes from `low` to `high`, and `why` in plain words."""

    name: str
    low: int
    high: int
    why: str


@dataclass(frozen=True, slots=True)
class Memory:
    """The parts, and what is `available` on the GPU or in the computer's memory; all in bytes."""

    terms: tuple[Term, ...]
    available: int
    where: Literal["GPU", "RAM"]

    @property
    def low(self) -> int:
        """The least it can need."""
        return sum(term.low for term in self.terms)

    @property
    def high(self) -> int:
        """The most it should need."""
        return sum(term.high for term in self.terms)

    @property
    def likely(self) -> int:
        """The middle of the range."""
        return (self.low + self.high) // 2

    @property
    def fits(self) -> Fits:
        """`fits` when even the most is there, `tight` when what is likely is, else `no`."""
        if self.high <= self.available:
            return "fits"
        return "tight" if self.likely <= self.available else "no"


@dataclass(frozen=True, slots=True)
class Formats:
    """Bytes of a number: of base weights, of trained weights, and while computing."""

    weights: int
    trained: int
    kind: Kind

    @property
    def compute(self) -> int:
        """Bytes of a number while computing."""
        return 4 if self.kind == "float32" else 2


def formats(config: RunConfig, machine: Machine) -> Formats:
    """Return the number formats that `train/loading.py` will choose on this machine."""
    wanted = config.model.precision
    half = wanted == "bfloat16" or (wanted == "auto" and machine.has_bfloat16)
    if config.method.adapter != "none":
        return Formats(2 if half else 4, 4, "bfloat16" if half else "float32")
    if wanted == "bfloat16":
        return Formats(2, 2, "bfloat16")
    return Formats(4, 4, "mixed" if half else "float32")


def decide_checkpointing(config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine) -> bool:
    """Return whether activations are computed twice: as the config says, or for `auto` when it may not fit without."""
    wanted = config.training.gradient_checkpointing
    if wanted != "auto":
        return wanted == "on"
    sharded = decide_sharding(config, shape, workload, machine)
    return _estimate(config, shape, workload, machine, checkpointing=False, sharded=sharded).fits != "fits"


def decide_sharding(config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine) -> bool:
    """Return whether weights are spread over the GPUs: as the config says, or for `auto` when copies may not fit.

    Computing activations twice, unless that is forbidden, comes before it.
    """
    wanted, several = config.compute.sharding, processes_for(config, machine) > 1
    if wanted != "auto" or not several:
        return wanted == "on" and several
    if not machine.gpus or not can_be_sharded(config):
        return False
    again = config.training.gradient_checkpointing != "off"
    return _estimate(config, shape, workload, machine, checkpointing=again, sharded=False).fits != "fits"


def estimate_memory(config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine) -> Memory:
    """Return what the run needs while it trains, on each GPU or, without one, in the computer's memory.

    Several processes without a GPU have to share that memory.
    """
    sharded = decide_sharding(config, shape, workload, machine)
    checkpointing = decide_checkpointing(config, shape, workload, machine)
    return _estimate(config, shape, workload, machine, checkpointing=checkpointing, sharded=sharded)


def part_of_one(config: RunConfig, machine: Machine) -> RunConfig:
    """Return the config with the rows of one process; as it is when it cannot be divided, which the run refuses."""
    try:
        return shared_among(processes_for(config, machine), config)
    except ConfigError:
        return config


def trained_weights(config: RunConfig, shape: ModelShape) -> int:
    """Return how many weights are trained."""
    method = config.method
    if method.adapter == "none":
        return shape.language
    return shape.adapter_weights(method.rank, method.targets, dora=method.dora)


def optimizer_bytes(config: RunConfig, shape: ModelShape, per_number: int = 4) -> int:
    """Return the bytes of the optimizer's state; AdamW keeps two numbers for each weight in the weight's format."""
    trained = trained_weights(config, shape)
    if config.training.optimizer == "adamw":
        return 2 * per_number * trained
    if config.training.optimizer == "adamw_8bit":
        return 2 * trained + 2 * 4 * (trained // 256)
    return 4 * _rows_and_columns(config, shape)


def weight_bytes(config: RunConfig, shape: ModelShape, per_number: int) -> int:
    """Return the bytes of the base model, in 4 bits where QLoRA has them."""
    if config.method.adapter != "qlora":
        return shape.parameters * per_number
    blocks = shape.quantisable // BLOCK
    packed = shape.quantisable // 2 + blocks + 4 * -(-blocks // SECOND_BLOCK)
    tables = TABLES * (shape.attention.layers + shape.mlp.layers)
    return packed + tables + (shape.parameters - shape.quantisable) * per_number


def _rows_and_columns(config: RunConfig, shape: ModelShape) -> int:
    """Return how many numbers Adafactor keeps: a row and a column of each matrix."""
    groups = (shape.attention, shape.mlp)
    if config.method.adapter != "none":
        group = activations.targeted(config, shape)
        return group.inputs + group.outputs + 2 * config.method.rank * group.layers
    matrices = sum(group.inputs + group.outputs for group in groups)
    norms = shape.layers * (4 * shape.hidden + 2 * shape.head_dim) + shape.hidden
    per_layer = activations.widths(shape).per_layer
    tables = shape.vocabulary + shape.hidden + (shape.vocabulary + per_layer if per_layer else 0)
    return matrices + norms + tables


def _estimate(
    config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine, *, checkpointing: bool, sharded: bool
) -> Memory:
    number, processes = formats(config, machine), processes_for(config, machine)
    parts = processes if sharded else 1
    full, gpu = config.method.adapter == "none", bool(machine.gpus)
    trained = trained_weights(config, shape)
    weights, gradients = weight_bytes(config, shape, number.weights), trained * number.trained
    of_all = f", a {parts}th of it here" if sharded else ""
    exact = [
        _exact("weights", -(-weights // parts), _why_weights(config, shape, number) + of_all),
        _exact("adapter", 0 if full else -(-trained * 4 // parts), f"{trained:,} weights in float32{of_all}"),
        _exact(
            "gradients", -(-gradients // parts), f"one for each of the {trained:,} weights that are trained{of_all}"
        ),
        _exact(
            "optimizer",
            -(-optimizer_bytes(config, shape, number.trained) // parts),
            f"the state of {config.training.optimizer}{of_all}",
        ),
    ]
    if full and config.method.objective == "dpo":
        reference = shape.parameters * number.compute
        exact.append(_exact("reference model", -(-reference // parts), f"the model as it was, to compare with{of_all}"))
    if sharded:
        exact.append(_gathered(config, shape, number))
    elif processes > 1:
        exact.append(_exact("exchange", gradients, "the gradients once more, as they go to the other processes"))
    part = part_of_one(config, machine)
    step = _step(part, shape, workload, number, gpu=gpu, checkpointing=checkpointing, parts=parts)
    known = [term for term in exact if term.high]
    low, high = (sum(getattr(term, end) for term in [*known, *step]) for end in ("low", "high"))
    fixed, slack = (ON_GPU, SLACK_GPU) if gpu else (PROCESS, SLACK_RAM)
    why = "CUDA and what its allocator wastes" if gpu else "Python, PyTorch and what the allocator wastes"
    runtime = Term("runtime", fixed[0] + int(slack[0] * low), fixed[1] + int(slack[1] * high), why)
    available = machine.gpus[0].free if gpu else machine.memory_free // processes
    return Memory((*known, *step, runtime), available, "GPU" if gpu else "RAM")


def _gathered(config: RunConfig, shape: ModelShape, number: Formats) -> Term:
    """Return what is whole for a time though the weights are spread: the table of words, and a layer or two.

    Of a layer that is trained the gradient is whole too, twice while it is divided. Embeddings per layer are gathered
    at once, and stand in for a layer where they are larger.
    """
    tables = shape.embedding + shape.per_layer_embedding
    layer = -(-(shape.language - tables) // shape.layers) * number.compute
    full = config.method.adapter == "none"
    most = 2 * layer + (layer + 4 * layer // number.compute if full else 0)
    one, whole = max(layer, shape.per_layer_embedding * number.weights), shape.embedding * number.weights
    return Term("gathered", whole + one, whole + max(most, (1 + full) * one), "the words' table, and a layer or two")


def _exact(name: str, size: int, why: str) -> Term:
    return Term(name, size, size, why)


def _why_weights(config: RunConfig, shape: ModelShape, number: Formats) -> str:
    if config.method.adapter == "qlora":
        return f"{shape.quantisable:,} of {shape.parameters:,} weights in 4 bits, the others in {8 * number.weights}"
    return f"{shape.parameters:,} weights in {8 * number.weights} bits"


def _step(
    config: RunConfig,
    shape: ModelShape,
    workload: Workload,
    number: Formats,
    *,
    gpu: bool,
    checkpointing: bool,
    parts: int,
) -> list[Term]:
    """Return `activations` and `loss`: together the most that a step needs beyond what is always there.

    The worst moment is one of four: the forward pass is through and the head works; the last layer goes backward; the
    first does, when all gradients are there; the optimizer works. Gradients that are not there yet make room. It holds
    one of `parts` of the weights.
    """
    length = longest_sequence(config, workload)
    batch_size = config.training.batch_size * sequences_per_row(config)
    batch = Batch(batch_size, length, uneven=batch_size > 1 or config.training.packing, gpu=gpu)
    kept = activations.saved(config, shape, number.kind, batch)
    passing = activations.passing(config, shape, number.kind, batch, again=checkpointing)
    passing += _unpacked(config, shape, number)
    if checkpointing:
        passing += kept // shape.layers
        kept = activations.between_layers(shape, number.kind, batch)
    kept += activations.outside(shape, number.kind, batch) + _cached(config, shape, number, parts)
    rows_in_one = workload.train_rows / sequences(config, workload)
    supervised = min(batch.tokens, int(batch_size * rows_in_one * workload.mean_supervised) or 1)
    most = min(batch.tokens, int(UNEVEN * supervised)) if workload.measured else batch.tokens
    gradients = -(-trained_weights(config, shape) * number.trained // parts)
    early = gradients if config.training.accumulation > 1 else 0
    table = shape.vocabulary * shape.hidden * number.trained if config.method.adapter == "none" else 0
    late = gradients + table * (1 + (config.training.accumulation > 1))
    found = []
    for positions, spread in ((supervised, 1.0), (most, 1.15 if gpu else 1.05)):
        head = _head(config, shape, number, positions)
        worst = max(
            early + kept * spread + head,
            early + kept * spread + table + passing,
            late + passing,
            gradients + _updating(config, shape),  # Adafactor only, which does not work on parts
        )
        beyond = max(0, int(worst) - gradients)
        loss = min(beyond, head)
        found.append((beyond - loss, loss))
    (low, low_loss), (high, high_loss) = found
    how = ", computed twice" if checkpointing else ""
    return [
        Term("activations", low, high, f"{batch.sequences} x {length:,} tokens through {shape.layers} layers{how}"),
        Term("loss", low_loss, high_loss, "logits of the learned tokens, a piece at a time"),
    ]


def _cached(config: RunConfig, shape: ModelShape, number: Formats, parts: int) -> int:
    """Return the bytes of weights that autocast keeps in bfloat16 beside those in float32.

    Weights that are spread are gathered in bfloat16 already, but for the table.
    """
    if parts > 1:
        return 2 * shape.vocabulary * shape.hidden if number.kind == "mixed" else 0
    if number.kind == "mixed":
        tables = shape.embedding + shape.per_layer_embedding
        return 2 * (shape.language - tables) + 2 * shape.vocabulary * shape.hidden
    return 2 * trained_weights(config, shape) if number.compute < number.trained else 0


def _unpacked(config: RunConfig, shape: ModelShape, number: Formats) -> int:
    """Return the bytes of the widest 4-bit layer while it works."""
    return shape.hidden * shape.ffn * number.compute if config.method.adapter == "qlora" else 0


def _head(config: RunConfig, shape: ModelShape, number: Formats, positions: int) -> int:
    """Return the bytes of the output head: two buffers of logits, states, and the gradient of a trained table."""
    chunk = min(positions, max(FEWEST, CHUNK_BYTES // (4 * shape.vocabulary)))
    logits = chunk * shape.vocabulary * (8 if number.compute == 4 else 12)
    states = 3 * positions * shape.hidden * number.compute
    if config.method.adapter != "none":
        return logits + states
    table = shape.vocabulary * shape.hidden
    return logits + states + table * (4 if number.compute == 4 else 6)


def _updating(config: RunConfig, shape: ModelShape) -> int:
    """Return the bytes that come and go while the optimizer works: Adafactor's update of the largest tensor."""
    if config.training.optimizer != "adafactor":
        return 0
    if config.method.adapter == "none":
        return 2 * 4 * max(shape.vocabulary * shape.hidden, shape.per_layer_embedding)
    return 2 * 4 * config.method.rank * max(shape.ffn, shape.hidden)
