"""Where rows come from: bundled examples, files, the Hugging Face Hub, TensorFlow Datasets.

Promises a `Source` for the split to train on, and one to measure with where the configuration names it. With
`sample_rows`, only so many rows of a data set that is not on this machine are fetched.
"""

from __future__ import annotations

from pathlib import Path

from gemma_ft.config import DataConfig
from gemma_ft.data.files import open_file
from gemma_ft.data.hub_datasets import open_hub
from gemma_ft.data.source import Source
from gemma_ft.data.tfds import open_tfds
from gemma_ft.errors import DataError

BUNDLED = Path(__file__).parent / "bundled"
EXAMPLES = {"capitals": "capitals.jsonl"}


def open_sources(
    data: DataConfig, *, hub_token: str | None, folder: Path, sample_rows: int | None
) -> tuple[Source, Source | None]:
    """Return the source to train on, and the one to measure with or `None`.

    `folder` is where data sets are prepared. Raises `DataError`.
    """
    if data.source == "example":
        return open_file(_example(data.id)), None
    if data.source == "file":
        measured = open_file(Path(data.validation_path)) if data.validation_path else None
        return open_file(Path(data.path or "")), measured

    def open_split(split: str) -> Source:
        if data.source == "hub":
            return open_hub(data, split, token=hub_token, sample_rows=sample_rows)
        return open_tfds(data, split, folder=folder, sample_rows=sample_rows)

    return open_split(data.split), open_split(data.validation_split) if data.validation_split else None


def _example(name: str | None) -> Path:
    if name not in EXAMPLES:
        raise DataError(f"There is no bundled example {name!r}.", f"The examples are: {', '.join(EXAMPLES)}.")
    return BUNDLED / EXAMPLES[name]
