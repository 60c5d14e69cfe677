"""What a forward pass through a Gemma keeps for the backward pass, and what the backward pass needs besides.

Promises bytes for one batch, reckoned from the widths of the layers. The coefficients are counts of the tensors that
PyTorch's autograd saves in the blocks of transformers 5.23 and PEFT 0.21 (docs/estimator.md tells how they were
counted); they are whole numbers of bytes per token and unit of width, not fits. Text only: towers see nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gemma_ft.config import RunConfig
from gemma_ft.shape import LinearGroup, ModelShape

Kind = Literal["bfloat16", "mixed", "float32"]
"""How it computes: in bfloat16 with weights in bfloat16, in bfloat16 with weights in float32, or in float32."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Sums over all layers of the widths that tensors have: queries, keys and values, and the feed-forward part."""

    queries: int
    keys_values: int
    ffn: int
    widest_ffn: int
    per_layer: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch: sequences, their length in tokens, whether some of them are padded or packed, and where it computes."""

    sequences: int
    length: int
    uneven: bool
    gpu: bool

    @property
    def tokens(self) -> int:
        """All places, padding included."""
        return self.sequences * self.length


def widths(shape: ModelShape) -> Widths:
    """Work out the widths from the sums of the linear layers."""
    own = shape.layers * shape.hidden
    queries = shape.attention.inputs - (shape.attention.layers - shape.layers) * shape.hidden
    keys_values = max(0, shape.attention.outputs - own - queries)
    dense = (shape.mlp.outputs - own) // 2
    chosen = max(0, shape.ffn - dense // shape.layers) * shape.layers if shape.experts else 0
    per_layer = shape.per_layer_embedding // shape.vocabulary
    return Widths(queries, keys_values, dense + chosen, shape.ffn, per_layer)


def targeted(config: RunConfig, shape: ModelShape) -> LinearGroup:
    """Return the linear layers that get an adapter, together."""
    chosen = {"all": (shape.attention, shape.mlp), "attention": (shape.attention,), "mlp": (shape.mlp,)}
    groups = chosen[config.method.targets]
    return LinearGroup(
        layers=sum(group.layers for group in groups),
        inputs=sum(group.inputs for group in groups),
        outputs=sum(group.outputs for group in groups),
    )


def saved(config: RunConfig, shape: ModelShape, kind: Kind, batch: Batch) -> int:
    """Return the bytes that all layers keep without gradient checkpointing."""
    per_token = _blocks(shape, kind) + _per_layer_inputs(config, shape, kind)
    if config.method.adapter == "none":
        per_token += _inputs_of_trained_layers(shape, kind)
    else:
        per_token += _inputs_of_adapters(config, shape, kind, batch)
    return per_token * batch.tokens + _attention(shape, kind, batch)


def outside(shape: ModelShape, kind: Kind, batch: Batch) -> int:
    """Return the bytes kept beside the layers: the embeddings, the last norm, positions, masks."""
    compute = 4 if kind == "float32" else 2
    per_token = 12 * shape.hidden + 4 * compute * shape.head_dim + (4 + compute) * widths(shape).per_layer
    masks = 2 * batch.sequences * batch.length**2 if _masked_layers(shape, batch) else 0
    return per_token * batch.tokens + masks


def between_layers(shape: ModelShape, kind: Kind, batch: Batch) -> int:
    """Return the bytes that gradient checkpointing keeps: the input of each layer."""
    return shape.layers * shape.hidden * (2 if kind == "bfloat16" else 4) * batch.tokens


def passing(config: RunConfig, shape: ModelShape, kind: Kind, batch: Batch, *, again: bool) -> int:
    """Return the bytes that come and go while one layer goes backward, or forward `again` under checkpointing."""
    ffn = widths(shape).widest_ffn
    if config.method.adapter == "none":
        per_token = max(20 * shape.hidden, int((7.5 if kind == "float32" else 3.5) * ffn))
    else:
        per_token = max(22 * shape.hidden, (10 if again and kind == "bfloat16" else 6) * ffn)
    if shape.softcapped:
        per_token = max(per_token, 12 * shape.heads * batch.length)
    return per_token * batch.tokens


def _blocks(shape: ModelShape, kind: Kind) -> int:
    """Return bytes per token of the blocks with all weights frozen.

    Four norms keep their input in float32; of the feed-forward part the gate before and after its bend and the other
    half; the norms of queries and keys keep a float32 copy, attention the rotated ones, the values and its output.
    """
    wide = widths(shape)
    compute = 4 if kind == "float32" else 2
    normed = 0 if shape.model_type.startswith("gemma2") or shape.model_type == "gemma" else 4
    keys = wide.keys_values // 2
    per_token = 16 * shape.hidden * shape.layers + 3 * compute * wide.ffn
    per_token += (2 * compute + normed) * wide.queries + (2 * compute + normed) * keys
    if shape.model_type.startswith(("gemma4", "gemma3n")):
        per_token += 4 * keys
    return per_token + shape.layers * (16 + 8 * (shape.heads + shape.kv_heads))


def _inputs_of_trained_layers(shape: ModelShape, kind: Kind) -> int:
    """Return bytes per token that trained weights add: what they are multiplied with. Autocast copies it each time."""
    wide = widths(shape)
    compute = 4 if kind == "float32" else 2
    own = shape.hidden * shape.layers
    normed = 0 if shape.model_type.startswith("gemma2") or shape.model_type == "gemma" else 4
    inputs = 10 * own if kind == "mixed" else 2 * compute * own
    return 16 * own + inputs + compute * wide.ffn + normed * (wide.queries + wide.keys_values // 2)


def _inputs_of_adapters(config: RunConfig, shape: ModelShape, kind: Kind, batch: Batch) -> int:
    """Return bytes per token that the adapters keep: their input, its dropout, and their narrow middle.

    Dropout keeps what it multiplied with: a float32 number on a processor, one byte on a GPU.
    """
    group, wide = targeted(config, shape), widths(shape)
    own = shape.hidden * shape.layers
    drops = config.method.dropout > 0
    noise = (1 if batch.gpu else 4) if drops else 0
    if kind == "float32":
        shared = (config.method.targets != "mlp") * 4 * own
        shared += (config.method.targets != "attention") * 4 * (own + wide.ffn)
        inputs = (4 + noise) * group.inputs if drops else shared
        return inputs + 4 * config.method.rank * group.layers + _directions(config, group, 4)
    return (2 + noise) * group.inputs + 2 * config.method.rank * group.layers + _directions(config, group, 2)


def _directions(config: RunConfig, group: LinearGroup, compute: int) -> int:
    """Return bytes per token that DoRA adds: the outputs of the layers before they are scaled."""
    return 2 * compute * group.outputs if config.method.dora else 0


def _per_layer_inputs(config: RunConfig, shape: ModelShape, kind: Kind) -> int:
    """Return bytes per token of Gemma 3n's and 4's embeddings of each layer."""
    wide = widths(shape).per_layer
    if not wide:
        return 0
    own = shape.hidden * shape.layers
    if config.method.adapter != "none":
        return 4 * own + (8 if kind == "float32" else 4) * wide
    hidden, inner = {"bfloat16": (10, 16), "mixed": (10, 21), "float32": (12, 24)}[kind]
    return hidden * own + inner * wide


def _masked_layers(shape: ModelShape, batch: Batch) -> int:
    """Return how many layers need a mask: all when rows are uneven, else those that do not see far enough."""
    if batch.uneven:
        return shape.layers
    return shape.layers - shape.full_attention_layers if batch.length > shape.window > 0 else 0


def _attention(shape: ModelShape, kind: Kind, batch: Batch) -> int:
    """Return the bytes that grow with the square of the length, and the keys and values repeated for each head.

    The eager kind keeps the scores after the cap and after the softmax. SDPA keeps its mask in the format that
    computes, each layer its own, and takes keys and values unrepeated only without a mask.
    """
    compute = 4 if kind == "float32" else 2
    wide = widths(shape)
    repeats = shape.heads > shape.kv_heads > 1
    repeated = max(0, 2 * wide.queries - wide.keys_values) * compute * batch.tokens if repeats else 0
    squared = batch.sequences * batch.length**2
    if shape.softcapped:
        return 8 * shape.heads * squared * shape.layers + repeated
    masked = _masked_layers(shape, batch)
    return masked * compute * squared + repeated * masked // shape.layers
