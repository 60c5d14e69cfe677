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
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import shorten
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

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
"""Names of the linear layers that can get an adapter; `loading.adapter_targets` selects by the same."""
WRITERS = ("ForCausalLM", "ForConditionalGeneration")
"""Ends of the names of classes that write text."""
NOT_TUNABLE = {
    "paligemma": "it answers questions about pictures, and the data here has none",
    "shieldgemma": "it judges pictures and writes no text",
    "t5gemma": "it has an encoder and a decoder, and is trained in another way",
    "t5_gemma": "it has an encoder and a decoder, and is trained in another way",
    "recurrent_gemma": "it is built of recurrent layers, which this app does not know",
    "diffusion_gemma": "it writes by diffusion and not word after word, and is trained in another way",
    "embedding_gemma": "it turns a text into a vector and writes none",
}
"""Kinds of Gemma, by the start of their `model_type`, that are no language models to be tuned here."""
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
LONGEST_REASON = 240
"""Characters that are shown of what a library says."""
CHOOSE = "Choose a Gemma that writes text, such as google/gemma-3-1b-it."


def inspect(folder: Path) -> ModelShape:
    """Return the shape of the model in a folder, from its `config.json` alone. Raises `ModelError`."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{folder} holds an adapter, not a model.", "Choose the model that it was made for."
            ) from exc
        raise ModelError(
            f"{folder} holds no config.json.", "Give the folder of a model saved by transformers."
        ) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise _damaged(exc) from exc
    if not isinstance(values, dict):
        raise _damaged("it holds no object of settings")
    return shape_of(values)


def shape_of(config: PreTrainedConfig | Mapping[str, Any]) -> ModelShape:
    """Return the shape of the model that a configuration describes; it is left as it is.

    Raises `ModelError` for what is no Gemma, a Gemma that cannot be tuned here, one that the installed transformers
    does not know, and a damaged configuration.
    """
    values = config if isinstance(config, Mapping) else config.to_dict()
    _require_tunable(values)
    try:
        known = copy.deepcopy(config) if isinstance(config, PreTrainedConfig) else _config_from(values)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(known, trust_remote_code=False, attn_implementation="eager")
            return _measure(model)
    except ImportError as exc:
        missing = " ".join(str(exc).split()).partition(". ")[0]
        raise ModelError(
            f"A model of the kind {values['model_type']!r} needs a package that is not installed: {missing}.",
            "For Gemma 3n: pip install timm torchvision.",
        ) from exc
    except DAMAGED as exc:
        raise _damaged(exc) from exc


def _config_from(values: Mapping[str, Any]) -> PreTrainedConfig:
    config: PreTrainedConfig = CONFIG_MAPPING[values["model_type"]].from_dict(copy.deepcopy(dict(values)))
    return config


def _damaged(why: object) -> ModelError:
    reason = shorten(str(why), LONGEST_REASON)
    return ModelError(f"Its config.json is damaged: {reason}.", "Fetch the model again, or choose another one.")


def _require_tunable(values: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless a configuration says that it is of a Gemma that writes text, and a known one."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise _damaged("it does not say which model it is for (model_type)")
    if "gemma" not in kind:
        raise ModelError(f"This model is of the kind {kind!r}, not a Gemma.", "Choose a model of the Gemma family.")
    if why := _why_not_tunable(kind, values):
        raise ModelError(f"A Gemma of the kind {kind!r} cannot be tuned here: {why}.", CHOOSE)
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"The installed transformers does not know Gemmas of the kind {kind!r}.",
            "Upgrade it (pip install -U transformers), or choose another model.",
        )


def _why_not_tunable(kind: str, values: Mapping[str, Any]) -> str | None:
    """Return why a kind of Gemma, or the use that this one was saved for, is none to be tuned here."""
    for start, reason in NOT_TUNABLE.items():
        if kind.startswith(start):
            return reason
    if kind.endswith("_assistant"):
        return "it drafts words for a larger Gemma, which then writes faster, and says nothing by itself"
    if kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "it is only a part of a model"
    saved_as = [str(name) for name in values.get("architectures") or []]
    if saved_as and not any(name.endswith(WRITERS) for name in saved_as):
        return f"it was saved as {', '.join(saved_as)}, which embeds or judges texts and writes none"
    if values.get("use_bidirectional_attention") in (True, "all"):
        return "each of its words sees those that follow, so it embeds texts and cannot write any"
    return None


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
        quantisable=sum(module.weight.numel() for _, module in linears),
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
