"""The shape of a Gemma: the figures of a model from which memory, time and trainable weights are reckoned.

Promises plain numbers that say nothing about a machine or a method. Where they come from (`train/inspection.py` builds
the model without memory, `catalog.py` has those of the known models) is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma_ft.config import Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearGroup:
    """A group of the language model's linear layers that can get an adapter.

    `layers` is their number, `inputs` and `outputs` the sums over them of their widths. A LoRA of rank r has
    r x (inputs + outputs) weights; DoRA adds `outputs`.
    """

    layers: int
    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What there is to know about a model before it is loaded. All counts are of weights; tied ones count once.

    `parameters` = `language` + `towers`: full tuning trains the language model and leaves the towers (vision, audio,
    and what projects them) as they are. Of `language`, `embedding` are tables that are looked up (the output layer
    shares them), and `per_layer_embedding` those of Gemma 3n and 4 that are looked up at every layer.
    `quantisable` are the weights that QLoRA keeps in 4 bits: those of the layers that adapters go on, not the experts.
    `active` are the weights that work on each token (all but tables, towers and unused experts, the output layer
    included). `window` is the reach of sliding attention, `full_attention_layers` how many layers see everything.
    `heads`, `kv_heads` and `head_dim` are those of the first layer (Gemma 4 has others where a layer sees everything);
    `ffn` is the width that a token goes through in the widest layer, with the experts that are chosen for it.
    `softcapped` says that the scores of attention are capped, which only the eager kind of attention does right.
    """

    model_type: str
    architecture: str
    layers: int
    full_attention_layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    window: int
    parameters: int
    language: int
    towers: int
    embedding: int
    per_layer_embedding: int
    quantisable: int
    active: int
    experts: int
    softcapped: bool
    modalities: tuple[str, ...]
    attention: LinearGroup
    mlp: LinearGroup

    def adapter_weights(self, rank: int, targets: Targets, *, dora: bool = False) -> int:
        """Return how many weights an adapter has."""
        groups = {"all": (self.attention, self.mlp), "attention": (self.attention,), "mlp": (self.mlp,)}[targets]
        return sum(rank * (group.inputs + group.outputs) + dora * group.outputs for group in groups)
