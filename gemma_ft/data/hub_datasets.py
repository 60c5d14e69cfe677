"""Data sets on the Hugging Face Hub: found, described, looked at, read.

Promises that a look (`sample_rows`) reads the beginning of a data set and not all of it, that a look and the whole
give equal rows, that pictures and sounds stay as they are stored, that no configuration is chosen silently, and that
nothing is read, not even from the cache, before the Hub has said that this token may. What goes wrong leaves as a
`DataError`; only a full disk stays the `OSError` that it is.

Does not promise that a look is tiny: JSON comes in pieces of some 15 MB, Parquet by row groups. Without `sample_rows`
all splits of the configuration are downloaded. Does not judge the rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from gemma_ft.config import DataConfig
from gemma_ft.data.hub_failures import explained, nearest_ids
from gemma_ft.data.problems import listed, nearest
from gemma_ft.data.slices import Part, parse_split
from gemma_ft.data.source import Row, Rows, Source
from gemma_ft.errors import DataError
from gemma_ft.hub.access import RepoInfo, require_access
from gemma_ft.hub.search import find_datasets

LONGEST_SKIP = 20_000
"""A look goes no further into a split than this: the rows before it would have to be fetched too."""
REQUEST_BYTES = 1 << 20
"""How much of a Parquet file is asked for at once in a look; the reader's own 32 MB would be most files whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubDataset:
    """What a data set offers; `default_config` is the one its author names, or the only one."""

    id: str
    gated: bool | str
    configs: tuple[str, ...]
    default_config: str | None


def search_datasets(text: str, *, token: str | None, limit: int = 10) -> list[str]:
    """Return the ids of data sets whose id holds the text, the most downloaded first. Raises `DataError`."""
    return find_datasets(token=token, limit=limit, search=text.strip())


def describe_dataset(dataset_id: str, *, revision: str | None, token: str | None) -> HubDataset:
    """Return what a data set offers. Raises `DataError` when it is not there, may not be read, or holds no data."""
    with _allowed(dataset_id, revision, token) as (info, cache):
        configs, default = _configs(info.id, revision, token, cache)
    return HubDataset(id=info.id, gated=info.gated or False, configs=configs, default_config=default)


def splits_of(dataset_id: str, config: str | None, *, revision: str | None, token: str | None) -> tuple[str, ...]:
    """Return the names of a configuration's splits. Raises `DataError`, also when there is no such configuration."""
    with _allowed(dataset_id, revision, token) as (info, cache):
        return _splits(_builder(info.id, config, revision, token, cache))


def open_hub(data: DataConfig, split: str, *, token: str | None, sample_rows: int | None) -> Source:
    """Return a split of a data set: its first `sample_rows` rows, which are kept, or all of it, which is downloaded.

    Raises `DataError` for everything that a person can mend, and `OSError` when the disk is full.
    """
    parts = parse_split(split)
    with _allowed(data.id or "", data.revision, token) as (info, cache):
        builder = _builder(info.id, data.config, data.revision, token, cache)
        _require_splits(info.id, parts, _splits(builder))
        name = f"{info.id}{f' ({data.config})' if data.config else ''}, {split}"
        if sample_rows is not None:
            return _look(name, builder, parts, sample_rows)
        return _whole(name, info.id, data, parts, token)


@contextmanager
def _allowed(dataset_id: str, revision: str | None, token: str | None) -> Iterator[tuple[RepoInfo, str]]:
    """Ask whether the data set may be read; give its page and an empty cache, and put what goes wrong into words."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    datasets.disable_progress_bars()
    disable_progress_bars()
    # Twenty tries, five seconds apart, are too many for a person who waits.
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 2
    suggest = partial(nearest_ids, dataset_id, partial(find_datasets, token=token, limit=50))
    with (
        tempfile.TemporaryDirectory(prefix="gemma_ft-") as cache,
        explained(dataset_id, token),
        require_access(dataset_id, token, "dataset", revision=revision, suggest=suggest) as info,
    ):
        yield info, cache


def _address(repo: str) -> str:
    """Return what can only mean a data set on the Hub; a bare id may also be a folder here, or a file format."""
    return f"hf://datasets/{repo}"


def _configs(repo: str, revision: str | None, token: str | None, cache: str) -> tuple[tuple[str, ...], str | None]:
    """Return the names of the configurations, and the default among them."""
    from datasets import get_dataset_config_names, get_dataset_default_config_name

    how = {"revision": revision, "token": token, "cache_dir": cache}
    names = tuple(get_dataset_config_names(_address(repo), **how))
    return names, names[0] if len(names) == 1 else get_dataset_default_config_name(_address(repo), **how)


def _builder(repo: str, config: str | None, revision: str | None, token: str | None, cache: str) -> Any:
    """Return what reads one configuration. Raises `DataError` when it is not there, or none of several is named.

    `cache` is empty: from a filled one, `datasets` would answer with an older version where the present one is broken.
    """
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(_address(repo), config, revision=revision, token=token, cache_dir=cache)
    except ValueError:
        _require_config(repo, config, *_configs(repo, revision, token, cache))
        raise
    _require_config(repo, config, tuple(builder.builder_configs), builder.DEFAULT_CONFIG_NAME)
    return builder


def _require_config(repo: str, config: str | None, names: tuple[str, ...], default: str | None) -> None:
    if config is None and len(names) > 1:
        hint = f" Its author's default is {default}." if default else ""
        raise DataError(f"{repo} has {len(names)} configurations.", f"Set data.config to one: {listed(names)}.{hint}")
    if config is not None and config not in names:
        raise DataError(f"{repo} has no configuration {config!r}.", nearest(config, names))


def _splits(builder: Any) -> tuple[str, ...]:
    files = getattr(builder.config, "data_files", None)
    return tuple(str(name) for name in files or builder.as_streaming_dataset())


def _require_splits(repo: str, parts: list[Part], names: tuple[str, ...]) -> None:
    missing = next((part.split for part in parts if part.split not in names), None)
    if missing is not None:
        raise DataError(f"{repo} has no split {missing!r}.", nearest(missing, names))


def _sizes(builder: Any) -> dict[str, int]:
    """Return how many rows the splits have, as far as the data set's card says."""
    stated = builder.info.splits or {}
    return {str(name): split.num_examples for name, split in stated.items() if split.num_examples}


def _look(name: str, builder: Any, parts: list[Part], limit: int) -> Source:
    """Fetch the first rows; one more than wanted, to know whether there are more."""
    _ask_for_little(builder)
    streams, sizes = builder.as_streaming_dataset(), _sizes(builder)
    rows: list[Row] = []
    notes: list[str] = []
    ended = True
    for part in parts:
        found, whole, note = _beginning(streams[part.split], part, sizes.get(part.split), limit + 1 - len(rows))
        rows += found
        ended = ended and whole
        notes += [note] if note else []
    complete = ended and len(rows) <= limit
    total = len(rows) if complete else _stated_total(parts, sizes)
    kept = rows[:limit]
    return Source(name=name, read=lambda: iter(kept), notes=tuple(notes), total=total, complete=complete)


def _beginning(stream: Any, part: Part, size: int | None, wanted: int) -> tuple[list[Row], bool, str | None]:
    """Return the first rows of a part, whether these are all of it, and a remark when they are others than asked."""
    if not wanted:
        return [], False, None
    stream = _as_stored(stream)
    known = not part.relative or size is not None
    start, stop = part.bounds(size) if part.relative and size is not None else (part.start, part.stop)
    if known and start <= LONGEST_SKIP:
        asked = wanted if stop is None else min(wanted, stop - start)
        rows = list(islice(stream.skip(start), asked))
        return rows, len(rows) < wanted, None
    rows = list(islice(stream, wanted))
    if len(rows) < wanted:
        return rows[slice(*part.bounds(len(rows)))], True, None
    why = "is too far in for a look" if known else "is not known before all of it is read"
    return rows, False, f"Shown are the first rows of {part.split}: where {part.spec} begins {why}."


def _stated_total(parts: list[Part], sizes: Mapping[str, int]) -> int | None:
    if any(part.split not in sizes for part in parts):
        return None
    return sum(stop - start for start, stop in (part.bounds(sizes[part.split]) for part in parts))


def _ask_for_little(builder: Any) -> None:
    """Let a Parquet reader make small requests."""
    if hasattr(builder.config, "fragment_scan_options"):
        import pyarrow
        from pyarrow.dataset import ParquetFragmentScanOptions

        cache = pyarrow.CacheOptions(range_size_limit=REQUEST_BYTES, lazy=True)
        builder.config.fragment_scan_options = ParquetFragmentScanOptions(cache_options=cache)


def _whole(name: str, repo: str, data: DataConfig, parts: list[Part], token: str | None) -> Source:
    """Download a configuration and give its rows from the disk."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(_address(repo), data.config, revision=data.revision, token=token)
    if builder.name == "cache":
        raise ConnectionError("the Hub stopped answering")
    stated = _sizes(builder)
    # A card whose numbers are old is no reason to refuse: the person is told instead.
    builder.download_and_prepare(verification_mode="no_checks")
    tables = {part.split: builder.as_dataset(split=part.split) for part in parts}
    notes = [
        f"The card of {repo} says that {split} has {stated[split]} rows; it has {len(table)}."
        for split, table in tables.items()
        if stated.get(split, len(table)) != len(table)
    ]
    spans = [(tables[part.split], *part.bounds(len(tables[part.split]))) for part in parts]
    total = sum(stop - start for _, start, stop in spans)

    def read() -> Rows:
        with explained(repo, token):
            for table, start, stop in (span for span in spans if span[1] < span[2]):
                yield from _as_stored(table.select(range(start, stop)).to_iterable_dataset())

    return Source(name=name, read=read, notes=tuple(notes), total=total)


def _as_stored(stream: Any) -> Any:
    """Return a stream that leaves pictures, sounds and the like undecoded."""
    stored = _undecoded(stream.features)
    return stream if stored == stream.features else stream.decode(False).cast(stored)


def _undecoded(feature: Any) -> Any:
    """Return a type that decodes nothing but JSON; `decode(False)` would leave that as text too."""
    from datasets.features import Json

    if isinstance(feature, dict):
        return type(feature)({name: _undecoded(inner) for name, inner in feature.items()})
    if isinstance(feature, list):
        return [_undecoded(inner) for inner in feature]
    if hasattr(feature, "feature"):
        return replace(feature, feature=_undecoded(feature.feature))
    return (
        replace(feature, decode=False) if getattr(feature, "decode", False) and type(feature) is not Json else feature
    )
