"""Data sets of TensorFlow Datasets (TFDS), read without TensorFlow.

Promises rows of plain Python values in the data set's order: texts as `str`, numbers, lists, dictionaries, and a
sequence of objects as a list of objects. Bytes that are no UTF-8 stay bytes, and so do pictures: nothing is decoded.
What fails, in TFDS, in a builder or in a file, leaves as a `DataError`. Downloads only for a run, never for a look.

Reads only what is stored as `array_record`. Whether a data set can be prepared without TensorFlow is up to its builder;
most text ones can. Does not judge the rows, and never runs the code of community data sets.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from gemma_ft.config import DataConfig
from gemma_ft.data.problems import listed, nearest
from gemma_ft.data.source import Source
from gemma_ft.data.tfds_rows import ELSEWHERE, FORMAT, cause, in_words, open_prepared, read_prepared
from gemma_ft.errors import DataError, NotHereYet

NEEDED = ("tensorflow_datasets", "array_record", "importlib_resources", "h5py")
NAME = re.compile(r"(\w+)(?:/([\w.+-]+))?(?::(\d+\.\d+\.\d+))?", re.ASCII)
VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
INFO = "dataset_info.json"
CATALOG = "See https://www.tensorflow.org/datasets/catalog/overview."
RETRIES = 5


def open_tfds(data: DataConfig, split: str, *, folder: Path, sample_rows: int | None) -> Source:
    """Return a split, a slice or a sum of them: of a prepared folder, or of a data set that TFDS knows by name.

    One by name lies below `folder`; without `sample_rows` it is downloaded and prepared there if it is not yet.
    """
    tfds = _library()
    place = _place(data, folder)
    if place is None:
        builder = _known(tfds, data, folder)
        place = _prepare(tfds, builder) if sample_rows is None else _refuse(builder, folder)
    builder = open_prepared(tfds, place, data.config)
    name, known = f"{builder.info.full_name}, {split}", builder.info.splits
    with in_words(f"{split!r} is no split of it", f"It has {listed(known)}, and slices such as train[:10%]."):
        total = int(known[split].num_examples)
    if total <= 0:
        raise DataError(f"{name} holds no rows.", "Choose another split or slice.")
    most = total if sample_rows is None else min(total, sample_rows)
    return Source(
        name=name, read=lambda: read_prepared(tfds, builder, split, most), total=total, complete=most == total
    )


def split_names(data: DataConfig, folder: Path) -> tuple[str, ...]:
    """Return the names of the splits; none for a known data set that is not on this machine yet."""
    tfds = _library()
    place = _place(data, folder)
    builder = open_prepared(tfds, place, data.config) if place else _known(tfds, data, folder)
    return tuple(builder.info.splits)


def _library() -> Any:
    """Import TFDS and make it quiet."""
    install = f"Install it: `{shlex.quote(sys.executable)} -m pip install -r requirements-tfds.txt`"
    try:
        if missing := [name for name in NEEDED if find_spec(name) is None]:
            raise DataError(f"TensorFlow Datasets is not installed: there is no {listed(missing)}.", install)
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import downloader
    except ImportError as exc:
        raise DataError(f"TensorFlow Datasets is not installed: {cause(exc)}.", install) from exc
    tfds.disable_progress_bar()
    for name in ("absl", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    downloader.MAX_RETRIES = RETRIES  # its own ten take three and a half minutes to find that there is no network
    return tfds


def _name(data: DataConfig) -> tuple[str, str, str]:
    """Take `name/config:version` apart."""
    match = NAME.fullmatch(data.id or "")
    if not match:
        raise DataError(f"{data.id!r} is no name in TensorFlow Datasets.", f"Write it as `glue/cola`. {CATALOG}")
    name, config, version = (part or "" for part in match.groups())
    if data.config and config not in ("", data.config):
        raise DataError(f"The id says {config!r}, the config {data.config!r}.", "Leave one of the two out.")
    return name.lower(), config or data.config or "", version


def _place(data: DataConfig, folder: Path) -> Path | None:
    """Return the folder of a version: within the given path, or where a named data set lies if it is prepared."""
    with in_words(f"{data.path or folder} cannot be looked into", "Check the path, and who may read it."):
        if data.path:
            return _within(Path(data.path), data.config or "")
        name, config, version = _name(data)
        return _newest(folder / name / (config or _default(folder / name)), version)


def _default(home: Path) -> str:
    note = home / ".config" / "metadata.json"
    return json.loads(note.read_text(encoding="utf-8"))["default_config_name"] if note.is_file() else ""


def _newest(place: Path, version: str = "") -> Path | None:
    found = [note.parent for note in place.glob(f"*/{INFO}") if VERSION.fullmatch(note.parent.name)]
    found = [each for each in found if version in ("", each.name)]
    return max(found, key=lambda each: [int(part) for part in each.name.split(".")], default=None)


def _within(root: Path, config: str) -> Path:
    """Find the one version that is meant in its own folder, or in that of its configuration or of the data set."""
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.", "Give one that TFDS prepared, such as `.../glue/cola/2.0.0`.")
    for place in (root, root / (config or _default(root))):
        if found := place if (place / INFO).is_file() else _newest(place):
            return found
    inside = {each.name: found for each in sorted(root.iterdir()) if (found := _newest(each))}
    if not inside:
        raise DataError(f"{root} holds no data set that TFDS prepared.", f"Give the folder in which {INFO} lies.")
    if config or len(inside) > 1:
        wanted = f"no configuration {config!r}" if config else "more than one data set"
        raise DataError(f"{root} holds {wanted}.", f"Give the folder of one of these as the path: {listed(inside)}.")
    return next(iter(inside.values()))


def _known(tfds: Any, data: DataConfig, folder: Path) -> Any:
    """Return the builder of a name that TFDS has code for; nothing is prepared."""
    name, config, version = _name(data)
    with in_words(f"{data.id} of TensorFlow Datasets cannot be used", f"Choose another one. {CATALOG}"):
        names = tfds.list_builders(with_community_datasets=False)
        if name not in names:
            here = sorted(str(found.parent.relative_to(folder)) for found in (folder / name).rglob(INFO))
            todo = f"On this machine there is {listed(here)}." if here else f"{nearest(name, names)} {CATALOG}"
            raise DataError(f"TensorFlow Datasets knows no {data.id!r}.", todo)
        if config and config not in (configs := tfds.builder_cls(name).builder_configs):
            todo = nearest(config, configs) if configs else "Leave it out: there are no configurations."
            raise DataError(f"{name} has no configuration {config!r}.", todo)
        return tfds.builder(name, data_dir=folder, config=config or None, version=version or None)


def _refuse(builder: Any, folder: Path) -> NoReturn:
    name = builder.info.full_name.rpartition("/")[0]
    size = sum(int(url.size) for url in (builder.url_infos or {}).values())
    facts = f"at most {size / 1e6:,.1f} MB to download" if size else "its size is not known"
    facts += f", {builder.info.splits.total_num_examples:,} rows" if builder.info.splits else ""
    facts += ", some of it by hand" if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ""
    code = f"import tensorflow_datasets as t; t.builder({json.dumps(name)}, data_dir={json.dumps(str(folder))})"
    command = shlex.join([sys.executable, "-c", f"{code}.download_and_prepare(file_format={json.dumps(FORMAT)})"])
    then = f"Start the run: it downloads it. Or do so before, with `{command}`"
    raise NotHereYet(f"{name} is not on this machine yet ({facts}).", then)


def _prepare(tfds: Any, builder: Any) -> Path:
    then = f"Check the network and the disk and try again. Or: {ELSEWHERE}"
    with in_words(f"{builder.info.full_name} could not be downloaded and prepared", then):
        how = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(file_format=FORMAT, download_config=how)
        return Path(builder.data_dir)
