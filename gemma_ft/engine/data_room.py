"""Answers questions about data for the page and the command line: the check, first rows, the X-ray.

Promises that rows are read once for as long as the questions are about the same data, and that what is kept between
questions does not grow with it. The survey of a file is thrown away when the file changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma_ft.check import Report, check, refused
from gemma_ft.config import DataConfig, RunConfig, parse_config
from gemma_ft.data.prepare import Survey, require_usable, survey
from gemma_ft.data.samples import Pair, Sample
from gemma_ft.data.source import SAMPLE_ROWS, plain_row
from gemma_ft.errors import ConfigError
from gemma_ft.settings import Settings

Told = Callable[[int], None]
RAW_ROWS = 5


class DataRoom:
    """Keeps the last survey and the last X-ray."""

    def __init__(self) -> None:
        self._settings = Settings.from_env()
        self._survey: tuple[str, Survey] | None = None
        self._xray: tuple[str, Any, Any] | None = None

    def look(self, values: Mapping[str, Any], hub_token: str | None, report: Told) -> dict[str, Any]:
        """Return the `report` of the check on a config's values, `raw` rows as they came, and `questions`."""
        try:
            config = parse_config(values)
        except ConfigError as exc:
            return {"report": refused(exc), "raw": [], "questions": []}
        checked: Report = check(
            config, has_token=hub_token is not None, look=lambda: self._look(config, hub_token, report)
        )
        found = self._survey[1] if checked["data"] and self._survey else None
        raw = [plain_row(row) for row in found.raw[:RAW_ROWS]] if found else []
        return {"report": checked, "raw": raw, "questions": _questions(found.preview) if found else []}

    def xray(
        self, values: Mapping[str, Any], hub_token: str | None, report: Told, *, first: int, number: int
    ) -> dict[str, Any]:
        """Return the `figures` of the X-ray and `number` of its `rows` from the `first` (counted from 0) on.

        Raises `ConfigError`, `DataError`, `ModelError`.
        """
        from gemma_ft.engine.xray import show_row, take_xray
        from gemma_ft.train.resolve import resolve_tokenizer
        from gemma_ft.train.tokenizer import load_tokenizer

        config = parse_config(values)
        length, batch = config.training.max_length, config.training.batch_size
        key = json.dumps([self._key(config, hub_token), config.model.model_dump(), length, batch])
        if self._xray is None or self._xray[0] != key:
            found = self._look(config, hub_token, report)
            require_usable(found, drop_bad_rows=True)
            folder = resolve_tokenizer(config.model, self._settings.models, hub_token=hub_token)
            tokenizer = load_tokenizer(folder)
            self._xray = (key, take_xray(config, found, tokenizer, folder, report=report), tokenizer)
        _, taken, tokenizer = self._xray
        shown = [show_row(row, sample, tokenizer, length) for row, sample in taken.rows[first : first + number]]
        return {"figures": taken.figures, "rows": shown, "first": first, "pages_rows": len(taken.rows)}

    def first_samples(self, config: RunConfig, hub_token: str | None, report: Told, *, number: int) -> list[Sample]:
        """Return the first samples that a run would train on. Raises `DataError`."""
        found = self._look(config, hub_token, report)
        require_usable(found, drop_bad_rows=True)
        return [sample for _, sample in found.first_rows("train", number)]

    def _look(self, config: RunConfig, hub_token: str | None, report: Told) -> Survey:
        key = self._key(config, hub_token)
        if self._survey is None or self._survey[0] != key:
            self._survey = None
            found = survey(
                config.data,
                config.method.objective,
                hub_token=hub_token,
                folder=self._settings.datasets,
                sample_rows=SAMPLE_ROWS,
                report=report,
            )
            self._survey = (key, found)
        return self._survey[1]

    def _key(self, config: RunConfig, hub_token: str | None) -> str:
        """Return what the survey depends on, as text; for files also when they were written."""
        files = [Path(path) for path in (config.data.path, config.data.validation_path) if path]
        stamps = [_stamp(file) for file in files]
        looked_at = config.data.model_dump(exclude={"drop_bad_rows"})
        return json.dumps([looked_at, config.method.objective, stamps, hub_token])


def _stamp(file: Path) -> list[int]:
    """Return when a file was written and its size; nothing for what is not there (reading it will say why)."""
    try:
        stat = file.stat()
    except OSError:
        return []
    return [stat.st_mtime_ns, stat.st_size]


def search(text: str, hub_token: str | None) -> dict[str, Any]:
    """Return the `ids` of data sets on the Hub whose name holds a text. Raises `DataError`."""
    from gemma_ft.data.hub_datasets import search_datasets

    return {"ids": search_datasets(text, token=hub_token)}


def offers(source: str, dataset_id: str, config: str | None, hub_token: str | None) -> dict[str, Any]:
    """Return the `configs` of a data set on the Hub, the one that is meant (`config`), and its `splits`.

    Of one of TensorFlow Datasets only the splits are told. Raises `DataError`.
    """
    from gemma_ft.data.hub_datasets import describe_dataset, splits_of
    from gemma_ft.data.tfds import split_names

    if source == "tfds":
        named = DataConfig(source="tfds", id=dataset_id, config=config)
        return {"configs": [], "config": config, "splits": list(split_names(named, Settings.from_env().datasets))}
    about = describe_dataset(dataset_id, revision=None, token=hub_token)
    meant = config if config in about.configs else about.default_config
    splits = splits_of(dataset_id, meant, revision=None, token=hub_token) if meant else ()
    return {"configs": list(about.configs), "config": meant, "splits": list(splits)}


def _questions(samples: Sequence[Sample]) -> list[str]:
    """Return the first question of each sample that has one."""
    talks = [sample.prompt if isinstance(sample, Pair) else sample for sample in samples if not isinstance(sample, str)]
    return [next(turn["content"] for turn in talk if turn["role"] == "user") for talk in talks]
