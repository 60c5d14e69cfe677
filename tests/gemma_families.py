"""One very small model of each family of Gemma, of random weights: the real classes, built from their real
configurations.

Each has what makes its family special: soft-capped scores (2), a vision tower (3), alternating updates and layers that
share keys and values (3n), embeddings per layer, shared keys and values and towers for pictures and sound (4), experts
(4, 26B-A4B), values that are the keys and no encoder (4, 12B). Gemma 3n's tower for pictures needs timm, so there is
one of its language model alone too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "initializer_range": 0.1,
}
SHARING = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
"""The last two layers have no keys and values of their own."""
KEYS_AS_VALUES = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "global_head_dim": 32}
SEEING = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_embedding_size": 16,
}
HEARING = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [8, 4],
    "output_proj_dims": 16,
}


@dataclass(frozen=True)
class Family:
    """One family: its class in transformers, its chat template among TRL's, and where its language model is.

    `towers` are the parts beside the language model, which text does not reach; `needs` are packages that not everybody
    has.
    """

    kind: str
    template: str
    make: Callable[[int], Any]
    language: str = "model."
    towers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether it can be made here."""
        return all(find_spec(package) for package in self.needs)

    @property
    def inside_towers(self) -> tuple[str, ...]:
        """How the names of the towers' weights begin."""
        return tuple(f"model.{tower}." for tower in self.towers)


def save_family(folder: Path, family: Family, tokenizer: Any) -> None:
    """Write a model of this family, of the same weights each time, with a tokenizer that fits it."""
    import torch

    torch.manual_seed(0)
    model = family.make(len(tokenizer))
    assert type(model).__name__ == family.kind
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _gemma_2(words: int) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**SMALL, vocab_size=words))


def _gemma_3(words: int) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, vocab_size=words))


def _gemma_3_seeing(words: int) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    seeing = {**{name: SEEING[name] for name in names}, "image_size": 28, "patch_size": 14}
    text = {**SMALL, "vocab_size": words}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=seeing, mm_tokens_per_image=4))


def _gemma_3n(words: int) -> Any:
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    model = Gemma3nForCausalLM(Gemma3nTextConfig(**_special_3n(words)))
    _let_embeddings_count(model.model)
    return model


def _gemma_3n_seeing(words: int) -> Any:
    from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration

    seeing = {"architecture": "mobilenetv5_base", "hidden_size": 2048, "model_args": {"channel_multiplier": 0.1}}
    hearing = {
        "hidden_size": 16,
        "conf_num_hidden_layers": 1,
        "conf_num_attention_heads": 2,
        "sscp_conv_channel_size": [8, 4],
    }
    config = Gemma3nConfig(text_config=_special_3n(words), vision_config=seeing, audio_config=hearing)
    model = Gemma3nForConditionalGeneration(config)
    _let_embeddings_count(model.model.language_model)
    return model


def _special_3n(words: int) -> dict[str, Any]:
    special = {
        "vocab_size": words,
        "vocab_size_per_layer_input": words,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    }
    return {**SMALL, **SHARING, **special}


def _let_embeddings_count(language: Any) -> None:
    """Give the embeddings per layer a say; a model that was just made multiplies them by nought."""
    import torch

    for layer in language.layers:
        torch.nn.init.ones_(layer.altup.correct_output_scale)


def _gemma_4(words: int) -> Any:
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    special = {
        "vocab_size_per_layer_input": words,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 32,
        "use_double_wide_mlp": True,
    }
    text = {**SMALL, **SHARING, **special, "vocab_size": words}
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=SEEING, audio_config=HEARING))


def _gemma_4_experts(words: int) -> Any:
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    special = {
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
    }
    text = {**SMALL, **KEYS_AS_VALUES, **special, "vocab_size": words}
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=SEEING, audio_config=None))


def _gemma_4_unified(words: int) -> Any:
    from transformers import Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration

    seeing = {"patch_size": 4, "mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32}
    text = {**SMALL, **KEYS_AS_VALUES, "vocab_size": words}
    hearing = {"audio_embed_dim": 16}
    config = Gemma4UnifiedConfig(text_config=text, vision_config=seeing, audio_config=hearing)
    return Gemma4UnifiedForConditionalGeneration(config)


THOUGHTLESS = "gemma4, no thoughts"
"""Gemma 4's template as the larger models have it: the generation prompt ends with an empty block of thoughts."""
_MULTIMODAL = "model.language_model."
FAMILIES = {
    "gemma2": Family("Gemma2ForCausalLM", "gemma", _gemma_2),
    "gemma3": Family("Gemma3ForCausalLM", "gemma3", _gemma_3),
    "gemma3_vision": Family(
        "Gemma3ForConditionalGeneration",
        "gemma3",
        _gemma_3_seeing,
        _MULTIMODAL,
        ("vision_tower", "multi_modal_projector"),
    ),
    "gemma3n": Family("Gemma3nForCausalLM", "gemma3", _gemma_3n),
    "gemma3n_vision": Family(
        "Gemma3nForConditionalGeneration",
        "gemma3",
        _gemma_3n_seeing,
        _MULTIMODAL,
        ("vision_tower", "embed_vision", "audio_tower", "embed_audio"),
        needs=("timm", "torchvision"),
    ),
    "gemma4": Family(
        "Gemma4ForConditionalGeneration",
        "gemma4_v5",
        _gemma_4,
        _MULTIMODAL,
        ("vision_tower", "embed_vision", "audio_tower", "embed_audio"),
    ),
    "gemma4_experts": Family(
        "Gemma4ForConditionalGeneration",
        THOUGHTLESS,
        _gemma_4_experts,
        _MULTIMODAL,
        ("vision_tower", "embed_vision"),
    ),
    "gemma4_unified": Family(
        "Gemma4UnifiedForConditionalGeneration",
        THOUGHTLESS,
        _gemma_4_unified,
        _MULTIMODAL,
        ("embed_vision", "embed_audio"),
    ),
}
