"""Loading a Gemma and putting an adapter on it: for training, and again for answering.

Promises the class that the checkpoint was saved with, and adapters on the language model's linear layers only: the
towers of a multimodal model (vision, audio, and what projects them) are never adapted, never put into 4 bits and, when
every weight is tuned, stay as they are. Remote code is never run. Attention is left to transformers' rule for the
family: Gemma 2 soft-caps its scores, which only the eager kind does right; the others use SDPA.

Number formats: computing is in bfloat16 where the GPU has it natively, else in float32. Weights that are trained are
kept in float32 (a step of full tuning is smaller than bfloat16 can add to a weight), unless `precision: bfloat16` asks
for less memory; weights that are not trained are kept in the format that computes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from gemma_ft.config import MethodConfig, ModelConfig, RunConfig, Targets
from gemma_ft.errors import ModelError
from gemma_ft.hardware import AMPERE
from gemma_ft.train.inspection import ATTENTION, MLP
from gemma_ft.train.kinds import lacking
from gemma_ft.train.tokenizer import load_tokenizer

LAYERS: dict[Targets, tuple[str, ...]] = {"all": ATTENTION + MLP, "attention": ATTENTION, "mlp": MLP}
"""The linear layers of each group of targets."""


def computing(wanted: str) -> torch.dtype:
    """Return the number format to compute in for `auto`, `bfloat16` or `float32` on this machine."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    native = torch.cuda.is_available() and torch.cuda.get_device_capability() >= AMPERE
    return torch.bfloat16 if native else torch.float32


def load_for_training(folder: Path, config: RunConfig) -> Any:
    """Return the model as its method trains it: the towers fixed, in 4 bits for QLoRA. Raises `ModelError`."""
    if config.method.adapter == "none":
        trained = torch.bfloat16 if config.model.precision == "bfloat16" else torch.float32
        model = _load(folder, dtype=trained)
        for tower in towers(model).values():
            tower.requires_grad_(False)
        return model
    return load_model(folder, config.model.precision, in_4_bits=config.method.adapter == "qlora")


def load_reference(folder: Path, config: RunConfig) -> Any:
    """Return the model that full DPO compares with: never trained, so in the format that computes."""
    return load_model(folder, config.model.precision)


def load_model(folder: Path, wanted_precision: str, *, in_4_bits: bool = False) -> Any:
    """Return the model with its weights in the format that computes; `in_4_bits` has exactly the layers that adapters
    go on in NF4 with double quantisation (https://arxiv.org/abs/2305.14314). It is on the CPU, but in 4 bits where it
    will compute.

    Raises `ModelError`.
    """
    dtype = computing(wanted_precision)
    if not in_4_bits:
        return _load(folder, dtype=dtype)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[f"(?!{adapter_targets(empty, 'all')}).*"],
    )
    place = {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else None
    model = _load(folder, dtype=dtype, quantization_config=four_bits, device_map=place)
    for module in model.modules():
        # On processors with bfloat16, bitsandbytes repacks the weights for an evaluation into a form without gradients.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _load(folder: Path, **how: Any) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(folder, **how)
    except ImportError as exc:
        raise lacking(exc) from exc
    except (OSError, ValueError, KeyError, SafetensorError) as exc:
        raise ModelError(
            f"Its weights cannot be loaded: {exc}", "Give a complete model folder, or upgrade transformers."
        ) from exc


def towers(model: Any) -> dict[str, torch.nn.Module]:
    """Return the parts of a multimodal model beside its language model, by name; nothing for a text model."""
    inner = model.base_model
    if not hasattr(inner, "language_model"):
        return {}
    return {name: part for name, part in inner.named_children() if name != "language_model"}


def adapter_for(model: Any, method: MethodConfig) -> LoraConfig | None:
    """Return the adapter that is to be put on the model; `None` when every weight is to be trained."""
    if method.adapter == "none":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        use_dora=method.dora,
        use_rslora=method.rslora,
        target_modules=adapter_targets(model, method.targets),
    )


def adapter_targets(model: Any, targets: Targets) -> str:
    """Return the pattern of the layers that get an adapter. Raises `ModelError` when there are none."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    wanted = "|".join(LAYERS[targets])
    for pattern in (rf".*language_model\..*\.({wanted})$", rf".*\.({wanted})$"):
        if any(re.fullmatch(pattern, name) for name in names):
            return pattern
    raise ModelError("It has no layers that an adapter could be put on.", "Use the method without an adapter.")


def save_result(
    model: Any, tokenizer: Any, folder: Path, origin: ModelConfig, whole: dict[str, torch.Tensor] | None = None
) -> None:
    """Write an adapter, or full weights, with the tokenizer; an adapter names its base by the id, not by a folder.

    The weights are those of the model, or `whole` when it holds only a part of them.
    """
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = origin.public_id
        model.peft_config["default"].revision = origin.revision
        model.save_pretrained(folder, state_dict=whole, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(folder, state_dict=whole)
    tokenizer.save_pretrained(folder)


def load_result(base_folder: Path, result: Path, config: RunConfig, *, whole: bool = False) -> tuple[Any, Any]:
    """Return (tuned model, tokenizer) of a finished run, ready to answer.

    With an adapter the model is a `PeftModel`, whose adapter can be switched off to hear the base. The base is in the
    bits it was trained with, unless `whole` asks for all of them (to merge the adapter into it).
    """
    tokenizer = load_tokenizer(result)
    if config.method.adapter == "none":
        return load_model(result, config.model.precision).eval(), tokenizer
    in_4_bits = config.method.adapter == "qlora" and not whole
    base = load_model(base_folder, config.model.precision, in_4_bits=in_4_bits)
    return PeftModel.from_pretrained(base, result).eval(), tokenizer


def describe_model(model: Any) -> dict[str, Any]:
    """Return the facts on a model without adapter: parameters (shared ones count once), layers, context in tokens."""
    text = model.config.get_text_config()
    return {
        "kind": type(model).__name__,
        "parameters": model.num_parameters(),
        "layers": text.num_hidden_layers,
        "context": text.max_position_embeddings,
        "precision": str(model.dtype).removeprefix("torch."),
    }
