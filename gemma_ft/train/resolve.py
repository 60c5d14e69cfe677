"""From a model id to a folder on this machine: the offline demo, a local folder, or a download from the Hub.

The only place that knows about the demo: it is built here, once, and from then on is a model folder like any other.
Promises that the folder is whole and holds a Gemma, and that a gated model is never served from the cache to somebody
without access.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from gemma_ft.config import DEMO_MODEL, ModelConfig
from gemma_ft.errors import ModelError
from gemma_ft.hub.access import require_access
from gemma_ft.train.demo_model import build_demo_model

Report = Callable[[int, int], None]
Enter = Callable[[str], None]

DEMO_FOLDER = "gemma-3-tiny-v1"
WANTED_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model"]


def resolve_model(
    model: ModelConfig, models: Path, *, enter: Enter, report: Report, hub_token: str | None = None
) -> Path:
    """Return the folder of a model, building or downloading it first if need be.

    `enter(phase)` and `report(done, total)` are told what is going on and may raise to stop it. Raises `ModelError`.
    """
    if model.id == DEMO_MODEL:
        return _demo(models, enter, report)
    if Path(model.id).is_dir():
        return _require_gemma(Path(model.id))
    if model.is_path:
        raise ModelError(
            f"There is no folder {model.id!r}.", "Give an existing folder, or a Hub id such as google/gemma-3-1b-it."
        )
    return _require_gemma(_download(model, enter, hub_token))


def _demo(models: Path, enter: Enter, report: Report) -> Path:
    folder = models / DEMO_FOLDER
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f"{DEMO_FOLDER}.lock"):
        if not folder.is_dir():
            enter("building the demo model (once)")
            aside = models / f".{DEMO_FOLDER}.building"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            build_demo_model(aside, report=report)
            aside.rename(folder)
    return folder


def _download(model: ModelConfig, enter: Enter, hub_token: str | None) -> Path:
    from huggingface_hub import snapshot_download

    enter("downloading the model")
    with require_access(model.id, hub_token):
        folder = snapshot_download(model.id, revision=model.revision, token=hub_token, allow_patterns=WANTED_FILES)
    return Path(folder)


def _require_gemma(folder: Path) -> Path:
    """Return the folder if its configuration is a Gemma's. Raises `ModelError`."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    except (OSError, ValueError, AttributeError) as exc:
        raise ModelError(
            f"{folder} holds no readable config.json.", "Give the folder of a model saved by transformers."
        ) from exc
    if not str(kind).startswith("gemma"):
        raise ModelError(f"This model is of the kind {kind!r}, not a Gemma.", "Choose a model of the Gemma family.")
    return folder
