"""The facts of one run, read once and then only as far as they have grown.

Promises that a step is counted once: when a run resumes from step 50, what an earlier attempt wrote about later steps
is forgotten. Safe to use from several threads. Does not know how anything is shown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gemma_ft.events import Fact, read_facts

TAIL_BYTES = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What is new to one reader, and how many steps, evaluations and samples it knows with that."""

    generation: int
    anew: bool
    steps: list[Fact]
    evals: list[Fact]
    samples: list[Fact]
    counts: tuple[int, int, int]


@dataclass(slots=True)
class RunFacts:
    """What the trainer has told so far; call `refresh` to read on."""

    path: Path
    generation: int = 0
    steps: list[Fact] = field(default_factory=list)
    evals: list[Fact] = field(default_factory=list)
    samples: list[Fact] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    phase: Fact = field(default_factory=dict)
    model: Fact = field(default_factory=dict)
    data: Fact = field(default_factory=dict)
    published: Fact = field(default_factory=dict)
    checkpoint: int | None = None
    newest: float | None = None
    _offset: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def refresh(self) -> RunFacts:
        """Read what was appended since the last call and return the facts."""
        with self._lock:
            self._read_on()
        return self

    def since(self, generation: int | None, steps: int, evals: int, samples: int) -> News:
        """Read on, and return what a reader that knows so many of each does not know yet, in one consistent piece.

        `generation` counts how often points were taken back; a reader of another generation begins anew.
        """
        with self._lock:
            self._read_on()
            known = (steps, evals, samples) if generation == self.generation else (0, 0, 0)
            return News(
                generation=self.generation,
                anew=generation != self.generation,
                steps=self.steps[known[0] :],
                evals=self.evals[known[1] :],
                samples=self.samples[known[2] :],
                counts=(len(self.steps), len(self.evals), len(self.samples)),
            )

    def _read_on(self) -> None:
        facts, self._offset = read_facts(self.path, self._offset)
        for fact in facts:
            self.newest = float(fact.get("t", 0.0))
            self._take(fact)

    def _take(self, fact: Fact) -> None:
        event = fact.get("event")
        if event == "step":
            self.steps.append(fact)
        elif event == "eval":
            self.evals.append(fact)
        elif event == "sample":
            self.samples.append(fact)
        elif event == "warning":
            self.warnings.append(str(fact.get("message", "")))
        elif event == "checkpoint":
            self.checkpoint = int(fact["step"])
        elif event == "phase":
            self._enter(fact)
        elif event in ("model", "data", "published"):
            setattr(self, event, fact)

    def _enter(self, phase: Fact) -> None:
        self.phase = phase
        if "step" not in phase:
            return
        begin = int(phase["step"])
        keep: Callable[[Fact], bool] = lambda fact: int(fact["step"]) <= begin  # noqa: E731
        before = len(self.steps) + len(self.evals)
        self.steps = [fact for fact in self.steps if keep(fact)]
        self.evals = [fact for fact in self.evals if keep(fact)]
        self.samples = [fact for fact in self.samples if keep(fact)]
        self.generation += len(self.steps) + len(self.evals) < before


def last_step(path: Path) -> Fact:
    """Return the newest step of a run, looking from the end of its file backwards; empty when there is none."""
    size = path.stat().st_size if path.exists() else 0
    window = TAIL_BYTES
    while size:
        facts, _ = read_facts(path, max(0, size - window))
        if step := next((fact for fact in reversed(facts) if fact.get("event") == "step"), None):
            return step
        if window >= size:
            break
        window *= 4
    return {}
