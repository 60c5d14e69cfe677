"""The facts of one run, read once and then only as far as they have grown; what is known of steps is kept by column.

Promises that a step is counted once: when a run resumes from step 50, what an earlier attempt wrote about later steps
is forgotten, and `generation` counts how often that happened. A million steps take about 120 MB. Does not know how
anything is shown.

Besides what the trainer wrote about a step there are three columns: `clock`, the seconds that the training has gone on
without the gaps between attempts; `duration`, the seconds of one step without the evaluations, answers and checkpoints
before it; and `tokens_per_second`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemma_ft.events import Fact
from gemma_ft.monitor.columns import Columns, Numbers, by_column
from gemma_ft.monitor.reading import LineReader

FIRST_PHASE = "reading the data"
"""The phase with which every attempt of the trainer begins."""
NO_COLUMNS = frozenset({"event", "max_steps"})
DERIVED = ("clock", "duration", "tokens_per_second")


@dataclass(slots=True)
class Loop:
    """Where the training loop of the newest attempt stands: what its last step was, and until when it did other work.

    `since` is the row of its first step, `began` the moment, and `base` what the clock said, when it began. After its
    first step (`first_step`, `first_seconds`) it has spent `worked` seconds on steps.
    """

    since: int = 0
    began: float = 0.0
    base: float = 0.0
    first_step: int = 0
    first_seconds: float = 0.0
    worked: float = 0.0
    step: int = 0
    seconds: float = 0.0
    t: float = 0.0
    tokens: float = 0.0
    other_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a step: a `checkpoint`, a `seam` (resumed there), or a `warning` with its words."""

    kind: str
    step: int
    t: float
    text: str = ""


class RunFacts:
    """What the trainer has told so far; call `refresh` to read on. Hold `lock` while reading more than one thing."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.columns = Columns()
        self.generation = 0
        self.max_steps: int | None = None
        self.evals: list[Fact] = []
        self.samples: list[Fact] = []
        self.marks: list[Mark] = []
        self.warnings: list[str] = []
        self.phases: set[str] = set()
        self.attempts: list[list[float]] = []
        self.phase: Fact = {}
        self.model: Fact = {}
        self.data: Fact = {}
        self.published: Fact = {}
        self.checkpoint: int | None = None
        self.newest: float | None = None
        self.loop = Loop()
        self._reader = LineReader(path)

    def refresh(self, seconds: float | None = None) -> RunFacts:
        """Read what was appended since the last call and return the facts; with `seconds`, stop about then."""
        until = None if seconds is None else time.monotonic() + seconds
        with self.lock:
            while True:
                if facts := self._reader.read():
                    self._take_all(facts)
                if not self._reader.behind or (until is not None and time.monotonic() >= until):
                    break
        return self

    @property
    def share_read(self) -> float | None:
        """How much of the file has been read, between 0 and 1; `None` when that is all of it."""
        with self.lock:
            return self._reader.offset / self._reader.size if self._reader.behind else None

    @property
    def step(self) -> int:
        """The newest step; 0 before there is one."""
        return int(self.columns.last("step") or 0)

    @property
    def steps(self) -> list[Fact]:
        """All steps as facts one by one, as they were written; for short runs, and for tests."""
        with self.lock:
            names = [name for name in self.columns.names() if name not in DERIVED]
            rows = zip(*(self.columns.column(name).tolist() for name in names), strict=True)
            facts = [
                {name: value for name, value in zip(names, row, strict=True) if value == value or name == "loss"}
                for row in rows
            ]
        for fact in facts:
            fact["step"] = int(fact["step"])
            fact["max_steps"] = self.max_steps
        return facts

    def _take_all(self, facts: list[Fact]) -> None:
        self.newest = _time(facts[-1])
        steps: list[Fact] = []
        for fact in facts:
            if fact.get("event") == "step":
                if type(fact.get("step")) is int:
                    steps.append(fact)
                continue
            if steps:
                self._take_steps(steps)
                steps = []
            self._take(fact)
        if steps:
            self._take_steps(steps)
        if self.attempts:
            self.attempts[-1][1] = self.newest

    def _take_steps(self, facts: list[Fact]) -> None:
        """Append a stretch of steps with nothing else between them."""
        loop, columns = self.loop, by_column(facts, leave_out=NO_COLUMNS)
        if isinstance(last := facts[-1].get("max_steps"), int):
            self.max_steps = last
        nothing = np.full(len(facts), np.nan)
        step, t = columns["step"], columns.get("t", nothing)
        if not loop.began:
            loop.began = loop.t = float(t[0])
        seconds = columns.get("seconds", nothing)
        seconds = np.where(np.isnan(seconds), t - loop.began, seconds)
        taken = _growth(seconds, loop.seconds)
        taken[0] -= max(0.0, loop.other_until - loop.t)
        made = _growth(step, loop.step)
        passed = _growth(columns.get("tokens", nothing), loop.tokens)
        with np.errstate(divide="ignore", invalid="ignore"):
            columns["clock"] = loop.base + seconds
            columns["duration"] = np.where((taken >= 0) & (made > 0), taken / made, np.nan)
            columns["tokens_per_second"] = np.where((taken > 0) & (passed >= 0), passed / taken, np.nan)
        if self.columns.rows == loop.since:
            loop.first_step, loop.first_seconds = int(step[0]), float(seconds[0])
            loop.worked = float(np.nansum(taken[1:]))
        else:
            loop.worked += float(np.nansum(taken))
        self.columns.extend(columns, len(facts))
        loop.step, loop.seconds, loop.t = int(step[-1]), float(seconds[-1]), float(t[-1])
        loop.tokens, loop.other_until = self.columns.last("tokens") or np.nan, 0.0

    def _take(self, fact: Fact) -> None:
        event = fact.get("event")
        if event in ("eval", "sample", "checkpoint"):
            if type(fact.get("step")) is not int:
                return
            self.loop.other_until = _time(fact)
        if event == "eval":
            self.evals.append(fact)
        elif event == "sample":
            self.samples.append(fact)
        elif event == "checkpoint":
            self.checkpoint = fact["step"]
            self._mark("checkpoint", fact)
        elif event == "warning":
            self.warnings.append(str(fact.get("message", "")))
            self._mark("warning", fact, self.warnings[-1])
        elif event == "phase":
            self._enter(fact)
        elif event in ("model", "data", "published"):
            setattr(self, event, fact)

    def _mark(self, kind: str, fact: Fact, text: str = "") -> None:
        step = fact.get("step")
        self.marks.append(Mark(kind, step if type(step) is int else self.step, _time(fact), text))

    def _enter(self, phase: Fact) -> None:
        self.phase = phase
        self.phases.add(name := str(phase.get("phase")))
        if name == FIRST_PHASE or not self.attempts:
            self.attempts.append([_time(phase), _time(phase)])
        if type(phase.get("step")) is int:
            self._begin_loop(int(phase["step"]), phase)

    def _begin_loop(self, begin: int, phase: Fact) -> None:
        """Begin at a step: take back what an earlier attempt did after it."""
        if isinstance(phase.get("max_steps"), int):
            self.max_steps = phase["max_steps"]
        before = self.columns.rows + len(self.evals) + len(self.samples) + len(self.marks)
        self.columns.keep(int(np.searchsorted(self.columns.column("step"), begin, side="right")))
        self.evals = [fact for fact in self.evals if fact["step"] <= begin]
        self.samples = [fact for fact in self.samples if fact["step"] <= begin]
        self.marks = [mark for mark in self.marks if mark.step <= begin or mark.kind == "warning"]
        saved = [mark.step for mark in self.marks if mark.kind == "checkpoint"]
        self.checkpoint = saved[-1] if saved else None
        self.generation += self.columns.rows + len(self.evals) + len(self.samples) + len(self.marks) < before
        if begin:
            self._mark("seam", phase)
        known = self.columns.last("step") == begin
        self.loop = Loop(
            since=self.columns.rows,
            began=_time(phase),
            base=self.columns.last("clock") or 0.0,
            step=begin,
            t=_time(phase),
            tokens=(self.columns.last("tokens") or np.nan) if known else np.nan if begin else 0.0,
        )


def _growth(values: Numbers, before: float) -> Numbers:
    """Return by how much each value is above the one before it."""
    return np.diff(values, prepend=before)


def _time(fact: Fact) -> float:
    t = fact.get("t")
    return float(t) if isinstance(t, (int, float)) else 0.0
