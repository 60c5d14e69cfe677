"""Which Gemmas can be tuned here, told from their `config.json`.

Promises a reason for each that cannot, before anything large is fetched or loaded. Loads neither weights nor PyTorch,
so the inspector can ask too. Whether the figures in the configuration make a model is told by `inspection.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from gemma_ft.errors import ModelError

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
LONGEST_REASON = 240
"""Characters that are shown of what a library says."""
CHOOSE = "Choose a Gemma that writes text, such as google/gemma-3-1b-it."


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a model's folder. Raises `ModelError`."""
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
        raise damaged(exc) from exc
    if not isinstance(values, dict):
        raise damaged("it holds no object of settings")
    return values


def knows(model_type: str) -> bool:
    """Tell whether the installed transformers has this architecture."""
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def damaged(why: object) -> ModelError:
    """Return the error for a configuration that cannot be read, or makes no model."""
    reason = shorten(str(why), LONGEST_REASON)
    return ModelError(f"Its config.json is damaged: {reason}.", "Fetch the model again, or choose another one.")


def lacking(exc: ImportError) -> ModelError:
    """Return the error for a model that needs a package which is not installed."""
    missing = " ".join(str(exc).split()).partition(". ")[0]
    return ModelError(
        f"It needs a package that is not installed: {missing}.",
        "For QLoRA: pip install bitsandbytes. For Gemma 3n: pip install -r requirements-gemma3n.txt",
    )


def require_tunable(values: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless a configuration says that it is of a Gemma that writes text, and a known one."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise damaged("it does not say which model it is for (model_type)")
    if "gemma" not in kind:
        raise ModelError(f"This model is of the kind {kind!r}, not a Gemma.", "Choose a model of the Gemma family.")
    if why := _why_not_tunable(kind, values):
        raise ModelError(f"A Gemma of the kind {kind!r} cannot be tuned here: {why}.", CHOOSE)
    if not knows(kind):
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
    saved_as = [str(name) for name in values.get("architectures") or []]
    if saved_as and not any(name.endswith(WRITERS) for name in saved_as):
        return f"it was saved as {', '.join(saved_as)}, which embeds or judges texts and writes none"
    if values.get("use_bidirectional_attention") in (True, "all"):
        return "each of its words sees those that follow, so it embeds texts and cannot write any"
    return None
