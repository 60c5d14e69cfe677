"""Loading a model's own tokenizer, for training, for answering and for the X-ray.

Promises the tokenizer that `AutoTokenizer` would give. The classes that Gemma models name are loaded directly, because
asking `AutoTokenizer` imports PyTorch: three seconds and 200 MB that a look at data need not spend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gemma_ft.errors import ModelError


def load_tokenizer(folder: Path) -> Any:
    """Return the model's own tokenizer. Raises `ModelError`."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"{folder} holds no tokenizer.", "Give a complete model folder, with tokenizer.json.")
    try:
        return _class_of(folder).from_pretrained(folder)
    except (OSError, ValueError) as exc:
        raise ModelError(f"Its tokenizer cannot be loaded: {exc}", "Give a complete model folder.") from exc


def _class_of(folder: Path) -> Any:
    """Return the class to load with: one that Gemma models name, if the folder does, else the general one."""
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.exists() else None
    if named in ("GemmaTokenizer", "GemmaTokenizerFast"):
        from transformers import GemmaTokenizer

        return GemmaTokenizer
    if named in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer
