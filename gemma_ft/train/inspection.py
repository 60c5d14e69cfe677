"""What a Gemma is made of, read off the model itself: it is built without memory (on the meta device) and counted.

Promises the class that training loads and, for it, every figure of `ModelShape`; nothing is reckoned from a formula of
a family, so a Gemma that transformers learns tomorrow is counted too. Only a configuration is needed: no weights, no
tokenizer, no network, and never code that came with a model. The largest takes about a third of a second once
transformers is loaded.

Does not promise that there is room for the model, nor that the weights beside the configuration are whole. Gemma 3n can
only be built where the package timm is installed, as it can only be loaded there: its vision tower comes from it.

`python -m gemma_ft.train.inspection` counts every model of the catalogue and writes the figures to `catalog.yaml`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
)

from gemma_ft import catalog
from gemma_ft.errors import ModelError
from gemma_ft.shape import LinearGroup, ModelShape
from gemma_ft.train.kinds import CHOOSE, damaged, lacking, read_config, require_tunable

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
"""Names of the linear layers that can get an adapter; `loading.adapter_targets` selects by the same."""
DAMAGED = (
    StrictDataclassError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
    RuntimeError,
)
"""What building and measuring a model from a wrong configuration raises."""


def inspect(folder: Path) -> ModelShape:
    """Return the shape of the model in a folder, from its `config.json` alone. Raises `ModelError`."""
    return shape_of(read_config(folder))


def shape_of(config: PreTrainedConfig | Mapping[str, Any]) -> ModelShape:
    """Return the shape of the model that a configuration describes; it is left as it is.

    Raises `ModelError` for what is no Gemma, a Gemma that cannot be tuned here, one that the installed transformers
    does not know, and a damaged configuration.
    """
    values = config if isinstance(config, Mapping) else config.to_dict()
    require_tunable(values)
    kind = str(values["model_type"])
    if CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"A Gemma of the kind {kind!r} cannot be tuned here: it is only a part of a model.", CHOOSE)
    try:
        known = copy.deepcopy(config) if isinstance(config, PreTrainedConfig) else _config_from(values)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(known, trust_remote_code=False, attn_implementation="eager")
            return _measure(model)
    except ImportError as exc:
        raise lacking(exc) from exc
    except DAMAGED as exc:
        raise damaged(exc) from exc


def _config_from(values: Mapping[str, Any]) -> PreTrainedConfig:
    config: PreTrainedConfig = CONFIG_MAPPING[values["model_type"]].from_dict(copy.deepcopy(dict(values)))
    return config


def _measure(model: Any) -> ModelShape:
    """Read the figures of a built model. The first layer tells the heads; Gemma 4's full attention has other ones."""
    text = model.config.get_text_config()
    decoder = getattr(model.model, "language_model", model.model)
    linears = [(name, module) for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)]
    tables = [module for module in decoder.modules() if isinstance(module, torch.nn.Embedding)]
    experts = [parameter for parameter in decoder.parameters() if parameter.ndim == 3]
    parameters = _weights(model.parameters())
    language = _weights([*decoder.parameters(), *model.lm_head.parameters()])
    embedding = model.get_input_embeddings().weight
    per_layer_embedding = sum(table.weight.numel() for table in tables) - embedding.numel()
    working = text.top_k_experts if experts else 0
    unused = sum(each.numel() // each.shape[0] * (each.shape[0] - working) for each in experts)
    looked_up = per_layer_embedding + (0 if model.lm_head.weight is embedding else embedding.numel())
    attention = decoder.layers[0].self_attn
    layer_types = getattr(text, "layer_types", None) or ["full_attention"] * len(decoder.layers)
    gates = [module.out_features for name, module in linears if name.endswith(".gate_proj")]
    return ModelShape(
        model_type=model.config.model_type,
        architecture=type(model).__name__,
        layers=len(decoder.layers),
        full_attention_layers=layer_types.count("full_attention"),
        hidden=embedding.shape[1],
        ffn=max(gates) + working * (text.moe_intermediate_size if experts else 0),
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        vocabulary=embedding.shape[0],
        context=text.max_position_embeddings,
        window=text.sliding_window if "sliding_attention" in layer_types else text.max_position_embeddings,
        parameters=parameters,
        language=language,
        towers=parameters - language,
        embedding=embedding.numel(),
        per_layer_embedding=per_layer_embedding,
        quantisable=sum(
            module.weight.numel() for name, module in linears if name.rpartition(".")[2] in ATTENTION + MLP
        ),
        active=language - looked_up - unused,
        experts=experts[0].shape[0] if experts else 0,
        softcapped=getattr(text, "attn_logit_softcapping", None) is not None,
        modalities=_modalities(model.config),
        attention=_group(linears, ATTENTION),
        mlp=_group(linears, MLP),
    )


def _weights(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Return how many weights there are; a tied one counts once."""
    return sum(parameter.numel() for parameter in {id(each): each for each in parameters}.values())


def _group(linears: Iterable[tuple[str, torch.nn.Linear]], names: tuple[str, ...]) -> LinearGroup:
    chosen = [module for name, module in linears if name.rpartition(".")[2] in names]
    return LinearGroup(
        layers=len(chosen),
        inputs=sum(module.in_features for module in chosen),
        outputs=sum(module.out_features for module in chosen),
    )


def _modalities(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return what the model takes in; the app gives it text only."""
    senses = {"image": "vision_config", "audio": "audio_config"}
    return ("text", *(sense for sense, part in senses.items() if getattr(config, part, None) is not None))


if __name__ == "__main__":
    catalog.write_shapes({name: shape_of(config) for name, config in catalog.configs().items()})
