"""What an alert rule is, and the arithmetic that several share.

A rule is fed with the facts of a run in order, and with a look at the machine about once a second. It holds one
sentence, `found`, while something is wrong, and none while nothing is. Promises that a rule needs no more memory after
a million steps than after a thousand, and that what it has learned from facts is rebuilt by feeding them again. Rules
read no files, know no clock and do nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from gemma_ft.config import RunConfig
from gemma_ft.events import Fact

Severity = Literal["warning", "critical"]
Sample = dict[str, Any]
"""A look at the machine as `monitor.machine` takes it; empty where it could not be taken."""
MAD_TO_SIGMA = 1.4826
"""The median distance from the median, times this, is the standard deviation of normal noise."""
LONGEST_GAP_SECONDS = 5.0
"""Time between two looks counts up to this: nobody knows what happened while the machine slept."""

Point = tuple[int, float]
"""A step and a value."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the rules need to know of a run's configuration."""

    learning_rate: float
    rows_per_step: int
    report_every: int
    eval_every: int

    @classmethod
    def of(cls, config: RunConfig) -> Setup:
        """Return what counts of a configuration."""
        training = config.training
        return cls(
            learning_rate=training.learning_rate,
            rows_per_step=training.batch_size * training.accumulation,
            report_every=training.log_every,
            eval_every=training.eval_every,
        )


class Rule:
    """One thing that can go wrong with a run. `why` gives the reasons for the thresholds, `advice` what to do."""

    name: ClassVar[str]
    severity: ClassVar[Severity]
    title: ClassVar[str]
    why: ClassVar[str]
    advice: ClassVar[str]

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.found = ""

    def take(self, fact: Fact) -> None:
        """Learn from one fact."""

    def look(self, sample: Sample, now: float) -> None:
        """Learn from a look at the machine, and that it is `now` (seconds; about one second after the last look)."""

    def begin(self, step: int) -> None:
        """The training (again) goes on after this step: forget what an earlier attempt did later."""


class Lasting:
    """Whether something has been wrong for a while, and whether it has been right again for a while.

    Wrong for `limit` seconds it is on; then it takes as long of being right until it is off. What is neither wrong nor
    right changes nothing.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._filled = 0.0
        self._last: float | None = None
        self.on = False

    def add(self, now: float, *, wrong: bool, right: bool) -> bool:
        """Add a look, and return whether it is on."""
        passed = 0.0 if self._last is None else min(max(0.0, now - self._last), LONGEST_GAP_SECONDS)
        self._last = now
        self._filled = min(self._limit, max(0.0, self._filled + (passed if wrong else -passed if right else 0.0)))
        if self._filled >= self._limit:
            self.on = True
        elif self._filled <= 0.0:
            self.on = False
        return self.on


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation that the middle of the values suggests; a few wild ones change nothing."""
    middle = statistics.median(values)
    return MAD_TO_SIGMA * statistics.median([abs(value - middle) for value in values])


def noise_between(values: Sequence[float]) -> float:
    """Return the standard deviation of the values around their course, from the differences of neighbours."""
    differences = [abs(after - before) for before, after in pairwise(values)]
    return MAD_TO_SIGMA * statistics.median(differences) / math.sqrt(2) if differences else 0.0


def mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    """Return both of at least two values; much faster than `statistics`, which is exact."""
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def number(value: object) -> float | None:
    """Return a measured value, also one that is not finite (facts keep these as words); `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def positive(value: object) -> float | None:
    """Return a measured value that is above zero and finite, else `None`."""
    found = number(value)
    return found if found is not None and math.isfinite(found) and found > 0 else None


def step_of(fact: Fact) -> int:
    """Return the step of a fact; 0 if it has none."""
    step = fact.get("step")
    return step if isinstance(step, int) else 0
