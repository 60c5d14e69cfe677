"""From a `DataConfig` to the samples that are trained on and those that are held out.

Promises the same split for the same rows, seed and fraction in every process, that no held-out sample is also trained
on, and that what was left out is counted and explained. The look before a run and the trainer both go through `survey`,
so they cannot disagree. A survey keeps numbers of rows, not the rows, so its memory does not grow with their size.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from gemma_ft.config import DataConfig, Format
from gemma_ft.data.columns import LOOKED_AT, Layout, columns_of, find_layout
from gemma_ft.data.formats import RowReader
from gemma_ft.data.problems import BadRow, Problem, Tally
from gemma_ft.data.samples import Objective, Pair, Sample, digest
from gemma_ft.data.source import Row, Source
from gemma_ft.data.sources import open_sources
from gemma_ft.data.split import split
from gemma_ft.errors import DataError

PREVIEW_ROWS = 20
REPORT_EVERY = 1000
Part = Literal["train", "validation"]
Kept = TypeVar("Kept")
PAIRS_NOTE = "Supervised tuning learns the chosen answers; the rejected ones are not used."
NO_MEASURE = "Put rows in it, or leave it out: a part of the rows to train on is then held out."


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What is in the data and what a run will use of it.

    `train_numbers` and `validation_numbers` are positions among the rows of their source, in the order of training.
    `rows` and `kept` also count those of a second source that is there to measure with; `looked_at` does not. `counts`
    and `problems` hold errors (rows that cannot be used) and warnings. When only the first rows were looked at,
    `complete` is false, `total` the number of rows to train on where that is known, and `expected` how many rows are
    about to be trained on and held out. `characters` is how long a usable row is on average.
    """

    format: Format
    mapping: dict[str, str]
    columns: tuple[str, ...]
    rows: int
    kept: int
    looked_at: int
    total: int | None
    complete: bool
    expected: tuple[int, int]
    characters: float
    notes: tuple[str, ...]
    counts: dict[str, int]
    problems: list[Problem]
    bad_rows: int
    preview: list[Sample]
    raw: list[Row]
    train_numbers: array[int] = field(repr=False)
    validation_numbers: array[int] = field(repr=False)
    sources: tuple[Source, Source | None] = field(repr=False)
    objective: Objective

    @property
    def train_rows(self) -> int:
        """How many rows are trained on."""
        return len(self.train_numbers)

    @property
    def validation_rows(self) -> int:
        """How many rows are held out."""
        return len(self.validation_numbers)

    def samples(self, part: Part) -> list[Sample]:
        """Return all samples of a part, in the order of training; reads the source again."""
        return [sample for _, sample in self._read(part, None, lambda row: None)]

    def first_rows(self, part: Part, limit: int) -> list[tuple[Row, Sample]]:
        """Return the first rows of a part as they came and as samples, in the order of training."""
        return self._read(part, limit, lambda row: row)

    def _read(self, part: Part, limit: int | None, keep: Callable[[Row], Kept]) -> list[tuple[Kept, Sample]]:
        """Return what is kept of each row, and its sample."""
        numbers = (self.train_numbers if part == "train" else self.validation_numbers)[:limit]
        source = self.sources[1] if part == "validation" and self.sources[1] is not None else self.sources[0]
        places = {number: place for place, number in enumerate(numbers)}
        found: list[tuple[Kept, Sample] | None] = [None] * len(places)
        reader = _Reader(Layout(self.format, self.mapping), self.objective)
        for number, row in enumerate(islice(source.read(), max(numbers, default=-1) + 1)):
            if number in places and not isinstance(row, BadRow):
                with suppress(BadRow):
                    found[places[number]] = (keep(row), reader(row))
        if any(pair is None for pair in found):
            raise DataError(f"{source.name} has changed while it was read.", "Try again when nothing writes to it.")
        return [pair for pair in found if pair is not None]


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What a run will use of its data, in memory."""

    survey: Survey
    train: list[Sample]
    validation: list[Sample]


def prepare(
    data: DataConfig,
    objective: Objective = "sft",
    *,
    hub_token: str | None = None,
    folder: Path = Path(),
    report: Callable[[int], None] = lambda rows: None,
) -> PreparedData:
    """Read, check, mix and split all of the data.

    `folder` is where data sets of TensorFlow are prepared; `report` is told the number of rows read so far. Raises
    `DataError` when the source cannot be read, when no row can be used, or when rows are bad and `drop_bad_rows` is
    off.
    """
    found = survey(data, objective, hub_token=hub_token, folder=folder, report=report)
    require_usable(found, drop_bad_rows=data.drop_bad_rows)
    return PreparedData(found, found.samples("train"), found.samples("validation"))


def survey(
    data: DataConfig,
    objective: Objective = "sft",
    *,
    hub_token: str | None = None,
    folder: Path = Path(),
    sample_rows: int | None = None,
    report: Callable[[int], None] = lambda rows: None,
) -> Survey:
    """Look at every row (of data that is not on this machine: the first `sample_rows`) and plan the split.

    Raises `DataError` when a source cannot be read, holds no rows, or fits no format; bad rows do not raise.
    """
    sources = open_sources(data, hub_token=hub_token, folder=folder, sample_rows=sample_rows)
    first = [row for row in islice(sources[0].read(), LOOKED_AT) if not isinstance(row, BadRow)]
    try:
        layout = _layout(sources[0], first, data)
    except DataError as exc:
        exc.columns = tuple(columns_of(first))
        raise
    if objective == "dpo" and layout.format != "preference":
        raise DataError(
            f"DPO learns from pairs of a better and a worse answer; these rows hold {layout.format}.",
            "Give rows with `prompt`, `chosen` and `rejected`, or choose supervised tuning.",
        )
    tally = Tally()
    reader = _Reader(layout, objective)
    trained = _look(sources[0], reader, tally, report)
    measured = _look(sources[1], reader, tally, report, where=sources[1].name) if sources[1] else None
    if measured and not measured.rows and sources[1]:
        raise DataError(f"{sources[1].name}, the data to measure with, holds no rows.", NO_MEASURE)
    bad_rows = sum(tally.counts.values())
    _count_duplicates(trained, tally)
    train, validation = split(trained.numbers, trained.digests, data, measured.digests if measured else None)
    if measured:
        validation = measured.numbers
        _count_in_both(trained, measured, tally)
    read = [(source, look) for source, look in zip(sources, (trained, measured), strict=True) if source and look]
    return Survey(
        format=layout.format,
        mapping=layout.columns,
        columns=tuple(columns_of(first)),
        rows=sum(look.rows for _, look in read),
        kept=sum(len(look.numbers) for _, look in read),
        looked_at=trained.rows,
        total=sources[0].total,
        expected=_expected(data, sources, trained, measured, len(train)),
        characters=reader.characters / max(1, sum(len(look.numbers) for _, look in read)),
        complete=all(source.complete for source, _ in read),
        notes=(*(note for source, _ in read for note in source.notes), *sorted(reader.notes)),
        counts=dict(tally.counts),
        problems=tally.kept,
        bad_rows=bad_rows,
        preview=trained.preview,
        raw=trained.raw,
        train_numbers=train,
        validation_numbers=validation,
        sources=sources,
        objective=objective,
    )


def require_usable(found: Survey, *, drop_bad_rows: bool) -> None:
    """Raise `DataError` when there is nothing to train on, or there are bad rows that may not be left out."""
    if found.bad_rows and not (drop_bad_rows and found.kept):
        raise DataError(
            _describe(found), "Mend these rows, or switch on data.drop_bad_rows to leave such rows out of the training."
        )
    if found.sources[1] and not found.validation_rows:
        raise DataError(f"No row of {found.sources[1].name}, the data to measure with, can be used.", NO_MEASURE)
    if found.train_rows:
        return
    if found.counts.get("in_both"):
        raise DataError(
            "All rows are also in the data to measure with, so none is left to train on.",
            "Give other rows to measure with, or none: a part of the rows is then held out.",
        )
    if found.sources[1]:
        raise DataError(f"No row of {found.sources[0].name} can be used.\n{_describe(found)}", "Mend these rows.")
    raise DataError("All rows say the same, so none is left to train on.", "Add different rows or hold none out.")


def _expected(
    data: DataConfig, sources: tuple[Source, Source | None], trained: _Look, measured: _Look | None, train_rows: int
) -> tuple[int, int]:
    """Return how many rows will be trained on and held out: those found, or about so many when there are more."""
    most = data.max_rows or sys.maxsize
    usable = min(_scaled(sources[0], trained), most)
    train = round(usable * train_rows / max(1, min(len(trained.numbers), most)))
    if measured is not None and sources[1] is not None:
        return train, _scaled(sources[1], measured)
    return train, usable - train


def _scaled(source: Source, look: _Look) -> int:
    """Return how many usable rows a source has, going by those that were looked at."""
    share = source.total / look.rows if source.total and look.rows and not source.complete else 1.0
    return round(len(look.numbers) * share)


@dataclass(slots=True)
class _Look:
    """The usable rows of one source: their numbers and digests; `preview` and `raw` are the first of them."""

    rows: int = 0
    numbers: array[int] = field(default_factory=lambda: array("L"))
    digests: array[int] = field(default_factory=lambda: array("Q"))
    preview: list[Sample] = field(default_factory=list)
    raw: list[Row] = field(default_factory=list)


class _Reader(RowReader):
    """Reads rows for an objective: supervised tuning learns from the chosen half of a pair."""

    def __init__(self, layout: Layout, objective: Objective) -> None:
        super().__init__(layout)
        self._objective = objective

    def __call__(self, row: Row) -> Sample:
        sample = super().__call__(row)
        if isinstance(sample, Pair) and self._objective == "sft":
            self.notes.add(PAIRS_NOTE)
            return [*sample.prompt, sample.chosen]
        return sample


def _layout(source: Source, first: list[Row], data: DataConfig) -> Layout:
    if first:
        return find_layout(first, data.format, data.columns)
    bad = next(source.read(), None)
    if isinstance(bad, BadRow):
        raise DataError(f"{source.name} begins with no usable row. {bad.message}", bad.fix)
    raise DataError(f"{source.name} holds no rows.", "Put at least two rows in it.")


def _look(source: Source, reader: _Reader, tally: Tally, report: Callable[[int], None], where: str = "") -> _Look:
    look = _Look()
    for number, row in enumerate(source.read()):
        look.rows = number + 1
        try:
            if isinstance(row, BadRow):
                raise row
            sample = reader(row)
        except BadRow as bad:
            problem = bad.at(number + 1)
            tally.add(replace(problem, message=f"{where}: {problem.message}") if where else problem)
        else:
            look.numbers.append(number)
            look.digests.append(digest(sample))
            if len(look.preview) < PREVIEW_ROWS:
                look.preview.append(sample)
                look.raw.append(row if isinstance(row, dict) else {})
        if look.rows % REPORT_EVERY == 0:
            report(look.rows)
    return look


def _count_duplicates(look: _Look, tally: Tally) -> None:
    """Warn of rows that say the same as an earlier one."""
    digests = np.frombuffer(look.digests, dtype=np.uint64)
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    firsts = np.searchsorted(ordered, ordered[same])
    again = sorted(zip(order[same].tolist(), order[firsts].tolist(), strict=True))
    _warn(tally, "duplicate", ((look.numbers[a], f"row {look.numbers[b] + 1}") for a, b in again))


def _count_in_both(trained: _Look, measured: _Look, tally: Tally) -> None:
    held_out = set(measured.digests)
    found = (n for n, d in zip(trained.numbers, trained.digests, strict=True) if d in held_out)
    _warn(tally, "in_both", ((number, "a row of the data to measure with") for number in found))


def _warn(tally: Tally, kind: str, rows: Iterable[tuple[int, str]]) -> None:
    fix = {
        "duplicate": "Leave it out unless it should weigh more; copies are never split between training and held out.",
        "in_both": "It is left out of the training, so that the measurement stays honest.",
    }[kind]
    for number, other in rows:
        message = f"The row says the same as {other}."
        tally.add(Problem(severity="warning", kind=kind, message=message, fix=fix, row=number + 1))


def _describe(found: Survey) -> str:
    """Say the first few problems and how many there are."""
    errors: Iterator[Problem] = (problem for problem in found.problems if problem.severity == "error")
    first = "\n".join(f"Row {problem.row}: {problem.message} {problem.fix}" for problem in islice(errors, 5))
    more = f"\n... and {found.bad_rows - 5:,} more." if found.bad_rows > 5 else ""
    return f"{found.bad_rows:,} of {found.rows:,} rows cannot be used.\n{first}{more}"
