"""From a model id to a folder on this machine: the offline demo, a local folder, or a download from the Hub.

The only place that knows about the demo: it is built here, once, and from then on is a model folder like any other.
Promises that the folder is whole and holds a Gemma, and that a gated model is never served from the cache to somebody
without access.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from filelock import FileLock

from gemma_ft.config import DEMO_MODEL, ModelConfig
from gemma_ft.errors import ModelError
from gemma_ft.hub.access import require_access
from gemma_ft.train.demo_model import build_demo_model, build_demo_tokenizer
from gemma_ft.train.kinds import read_config, require_tunable

Report = Callable[[int, int], None]
Enter = Callable[[str], None]

DEMO_FOLDER = "gemma-3-tiny-v1"
DEMO_TOKENIZER = "gemma-3-tiny-v1-tokenizer"
TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model"]
WANTED_FILES = ["*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]


def resolve_model(
    model: ModelConfig, models: Path, *, enter: Enter, report: Report, hub_token: str | None = None
) -> Path:
    """Return the folder of a model, building or downloading it first if need be.

    `enter(phase)` and `report(done, total)` are told what is going on and may raise to stop it. Raises `ModelError`.
    """
    if model.id == DEMO_MODEL:
        enter_building = partial(enter, "building the demo model (once)")
        return _build_once(models / DEMO_FOLDER, enter_building, partial(build_demo_model, report=report))
    if found := _local(model):
        return found
    enter("downloading the model")
    return _require_gemma(_download(model, WANTED_FILES, hub_token))


def resolve_tokenizer(model: ModelConfig, models: Path, *, hub_token: str | None = None) -> Path:
    """Return a folder with the model's tokenizer and configuration, without its weights. Raises `ModelError`."""
    if model.id == DEMO_MODEL:
        whole = models / DEMO_FOLDER
        return whole if whole.is_dir() else _build_once(models / DEMO_TOKENIZER, lambda: None, build_demo_tokenizer)
    return _local(model) or _require_gemma(_download(model, TOKENIZER_FILES, hub_token))


def is_here(model: ModelConfig) -> bool:
    """Tell whether nothing has to be downloaded for a model: the demo, a folder, or all of it is in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if model.id == DEMO_MODEL or Path(model.id).is_dir():
        return True
    try:
        folder = snapshot_download(
            model.id, revision=model.revision, allow_patterns=WANTED_FILES, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    return any(Path(folder).glob("*.safetensors"))


def _local(model: ModelConfig) -> Path | None:
    """Return the folder that a model's id names, or `None` for a model on the Hub. Raises `ModelError`."""
    if Path(model.id).is_dir():
        return _require_gemma(Path(model.id))
    if model.is_path:
        raise ModelError(
            f"There is no folder {model.id!r}.", "Give an existing folder, or a Hub id such as google/gemma-3-1b-it."
        )
    return None


def _build_once(folder: Path, enter: Callable[[], None], build: Callable[[Path], None]) -> Path:
    """Build a folder aside and rename it, unless it is there; processes that ask at once wait for one of them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            enter()
            aside = folder.with_name(f".{folder.name}.building")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            build(aside)
            aside.rename(folder)
    return folder


def _download(model: ModelConfig, wanted: list[str], hub_token: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with require_access(model.id, hub_token):
        folder = snapshot_download(model.id, revision=model.revision, token=hub_token, allow_patterns=wanted)
    return Path(folder)


def _require_gemma(folder: Path) -> Path:
    """Return the folder if it holds a Gemma that can be tuned. Raises `ModelError`."""
    require_tunable(read_config(folder))
    return folder
