"""Loading a Gemma and putting an adapter on it: for training, and again for answering.

Promises the class that the checkpoint was saved with, bfloat16 where the GPU has it natively and float32 elsewhere,
and adapters on the language model's linear layers only (never on the towers of a multimodal model). Remote code is
never run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from gemma_ft.config import MethodConfig, ModelConfig, RunConfig
from gemma_ft.errors import ModelError
from gemma_ft.train.tokenizer import load_tokenizer

LINEAR = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)$"
AMPERE = (8, 0)
"""The first CUDA compute capability with native bfloat16."""


def precision(wanted: str) -> torch.dtype:
    """Return the number format of the weights for `auto`, `bfloat16` or `float32` on this machine."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    native = torch.cuda.is_available() and torch.cuda.get_device_capability() >= AMPERE
    return torch.bfloat16 if native else torch.float32


def load_model(folder: Path, wanted_precision: str) -> Any:
    """Return the model with its weights, on the CPU. Raises `ModelError`."""
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=precision(wanted_precision))
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(
            f"Its weights cannot be loaded: {exc}", "Give a complete model folder, or upgrade transformers."
        ) from exc


def adapter_for(model: Any, method: MethodConfig) -> LoraConfig | None:
    """Return the adapter that is to be put on the model; `None` when every weight is to be trained."""
    if method.adapter == "none":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=adapter_targets(model),
    )


def adapter_targets(model: Any) -> str:
    """Return the pattern of the layers that get an adapter. Raises `ModelError` when there are none."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for pattern in (r".*language_model\..*\." + LINEAR, r".*\." + LINEAR):
        if any(re.fullmatch(pattern, name) for name in names):
            return pattern
    raise ModelError("It has no layers that an adapter could be put on.", "Use the method without an adapter.")


def save_result(model: Any, tokenizer: Any, folder: Path, origin: ModelConfig) -> None:
    """Write an adapter, or full weights, with the tokenizer; an adapter names its base by the id, not by a folder."""
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = origin.public_id
        model.peft_config["default"].revision = origin.revision
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_result(base_folder: Path, result: Path, config: RunConfig) -> tuple[Any, Any]:
    """Return (tuned model, tokenizer) of a finished run, ready to answer.

    With an adapter the model is a `PeftModel`, whose adapter can be switched off to hear the base.
    """
    tokenizer = load_tokenizer(result)
    if config.method.adapter == "none":
        return load_model(result, config.model.precision).eval(), tokenizer
    base = load_model(base_folder, config.model.precision)
    return PeftModel.from_pretrained(base, result).eval(), tokenizer


def describe_model(model: Any) -> dict[str, Any]:
    """Return the facts on a model without adapter: parameters (shared ones count once), layers, context in tokens."""
    text = model.config.get_text_config()
    return {
        "kind": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": text.num_hidden_layers,
        "context": text.max_position_embeddings,
        "precision": str(model.dtype).removeprefix("torch."),
    }
