"""A data set that TensorFlow Datasets (TFDS) has prepared in a folder: opened, and its rows in plain terms.

Promises texts as `str` where the bytes are UTF-8 and else the bytes as they are (pictures, sounds), numbers, lists and
dictionaries, and a list of objects as one: TFDS stores it as an object of lists. Reads only `array_record`.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from gemma_ft.data.problems import listed
from gemma_ft.data.source import Rows
from gemma_ft.errors import DataError

FORMAT = "array_record"
BATCH, LONGEST_CAUSE = 256, 400
ONE_AT_A_TIME = threading.RLock()
"""Two threads that redirect the output at once would leave it redirected."""
ELSEWHERE = f"Prepare it where TensorFlow is (`tfds build NAME --file_format={FORMAT}`) and give that folder as path."
NOISE = re.compile(r'^Failed to construct dataset .*?}": |^Error parsing split .*?/splits ')
DAMAGED = "The files are damaged or not whole: remove the folder and prepare the data set again."


@contextmanager
def in_words(what: str, then: str) -> Iterator[None]:
    """Turn whatever fails within into a `DataError`, and keep to itself what TFDS prints."""
    try:
        with ONE_AT_A_TIME, redirect_stdout(io.StringIO()):
            yield
    except DataError:
        raise
    except Exception as exc:
        if missing := re.search(r"No module named '(\w+)", str(exc)):
            raise DataError(f"{what}: it needs {missing[1]}.", ELSEWHERE) from exc
        raise DataError(f"{what}: {cause(exc)}.", then) from exc


def cause(exc: Exception) -> str:
    """Return what an exception says, in one line."""
    text = NOISE.sub("", " ".join(str(exc).split())).rstrip(".") or type(exc).__name__
    return text if len(text) <= LONGEST_CAUSE else f"{text[: LONGEST_CAUSE - 2]} …"


def open_prepared(tfds: Any, place: Path, config: str | None) -> Any:
    """Return the builder of a version's folder. Raises `DataError`, also when it is not the wanted configuration."""
    with in_words(f"The data set in {place} cannot be opened", DAMAGED):
        builder = tfds.builder_from_directory(place)
        formats = [each.value for each in builder.info.available_file_formats()]
    if FORMAT not in formats:
        raise DataError(f"{place} is stored as {listed(formats)}; only {FORMAT} can be read.", ELSEWHERE)
    if config and (builder.builder_config is None or config != builder.builder_config.name):
        raise DataError(f"The data set in {place} is not the configuration {config!r}.", "Mend the path or the config.")
    return builder


def read_prepared(tfds: Any, builder: Any, split: str, most: int) -> Rows:
    """Yield the first rows of a split. Raises `DataError` when the files are damaged."""
    from tensorflow_datasets.core.example_parser import ExampleParserNp

    features, sequence = builder.info.features, tfds.features.Sequence
    raw = tfds.decode.DeserializeMethod.RAW_BYTES  # TFDS's decoding opens pictures, and needs TensorFlow at times
    with in_words(f"{builder.data_dir} cannot be read", DAMAGED):
        parser = ExampleParserNp(features.get_serialized_info())
        records = builder.as_data_source(split, deserialize_method=raw, file_format=FORMAT).data_source
    for start in range(0, most, BATCH):
        end = min(start + BATCH, most)
        with in_words(f"Rows {start + 1} to {end} of {builder.data_dir}, {split}, cannot be read", DAMAGED):
            stored = [parser.parse_example(record) for record in records.__getitems__(range(start, end))]
            rows = [_plain(features, example, sequence) for example in stored]
        yield from rows


def _plain(feature: Any, value: Any, sequence: type) -> Any:
    """Return a value in plain terms, given its feature and the class of features that are sequences."""
    if value is None:
        return None  # an optional feature that this row lacks
    if isinstance(feature, sequence):
        inner: Any = feature
        return [_plain(inner.feature, item, sequence) for item in _items(value)]
    if isinstance(value, dict):
        return {name: _plain(feature[name], value[name], sequence) for name in sorted(feature)}
    return _leaf(value)


def _items(value: Any) -> list[Any]:
    """Turn columns, which may hold columns, into their rows."""
    if not isinstance(value, dict):
        return list(value)
    columns = [_items(column) for column in value.values()]
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


def _leaf(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [_leaf(item) for item in value]
    return _leaf(value.tolist()) if hasattr(value, "tolist") else value
