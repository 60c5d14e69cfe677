"""Alert rules on the curves: loss, gradient, held-out loss.

Promises to judge a run by itself only: a healthy Gemma 3n or 4 has losses of 8 to 12 and gradient norms in the
thousands, and a run that has learned its rows by heart has a loss of a thousandth. So nothing here compares with a
fixed loss or norm; steps are compared as ratios, with the run's own median and its own noise.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import ClassVar

from gemma_ft.events import Fact
from gemma_ft.monitor.rules import (
    Point,
    Rule,
    Setup,
    number,
    positive,
    spread,
    step_of,
)


class NotFinite(Rule):
    """Numbers that are no numbers."""

    name = "not_finite"
    severity = "critical"
    title = "The numbers are no longer finite"
    why = "No healthy run has one. Over after 10 finite reports, because a single one can heal."
    advice = (
        "A single one can be an accident; several in a row mean that the training has fallen apart. Then go back to an "
        "earlier checkpoint, or start again, with a lower learning rate (a tenth) or a longer warm-up; compute in "
        "bfloat16 or float32."
    )
    HEALED = 10

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._finite = 0

    def take(self, fact: Fact) -> None:
        """Look at every number of a step or an evaluation that the weights depend on."""
        names = {"step": ("loss", "grad_norm"), "eval": ("loss",)}.get(str(fact.get("event")), ())
        values = {name: value for name in names if (value := number(fact.get(name))) is not None}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            said = {"loss": "loss", "grad_norm": "gradient's norm"}[wrong[0]]
            where = "held-out " if fact["event"] == "eval" else ""
            self.found = self.found or f"At step {step_of(fact):,} the {where}{said} was {fact[wrong[0]]}."
            self._finite = 0
        elif values:
            self._finite += 1
            if self._finite >= self.HEALED:
                self.found = ""

    def begin(self, step: int) -> None:
        """Begin anew: the weights come from a checkpoint."""
        self.found, self._finite = "", 0


class ZeroLoss(Rule):
    """A loss of exactly nothing."""

    name = "zero_loss"
    severity = "critical"
    title = "The loss is exactly zero"
    why = (
        "Learning hardly ever brings a batch to exactly 0.0, but training no token does, and so do numbers that are "
        "lost in half precision. Three steps, so that one batch of empty rows is no alarm. Losses of DPO may reach "
        "zero when every pair is won, so they are left out while the margin is positive."
    )
    advice = "Look at the X-ray of the data: which tokens are trained? And compute in bfloat16 or float32."
    STEPS = 3

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._since: int | None = None
        self._before = 0

    def take(self, fact: Fact) -> None:
        """Count steps whose loss is zero."""
        if fact.get("event") != "step" or (loss := number(fact.get("loss"))) is None:
            return
        if loss == 0.0 and not (number(fact.get("reward_margin")) or 0.0) > 0:
            self._since = self._before if self._since is None else self._since
            if step_of(fact) - self._since >= self.STEPS:
                self.found = f"The loss has been exactly 0.0 in steps {self._since + 1:,} to {step_of(fact):,}."
        elif math.isfinite(loss):
            self._since, self.found = None, ""
        self._before = step_of(fact)

    def begin(self, step: int) -> None:
        """Begin anew after this step."""
        self._since, self._before, self.found = None, step, ""


class Spike(Rule):
    """One value far above the run's own recent median; what it is of stands in the classes below."""

    severity = "warning"
    field: ClassVar[str]
    what: ClassVar[str]
    times: ClassVar[float]
    WINDOW, LEAST, SIGMAS, QUIET = 50, 20, 6.0, 10
    WORTH = 0.05
    """What is below this share of where the run began is nothing to worry about, however far above its median."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._recent: deque[Point] = deque(maxlen=self.WINDOW)
        self._first: list[Point] = []
        self._quiet = 0

    def take(self, fact: Fact) -> None:
        """Compare a step with those before it."""
        if fact.get("event") != "step" or (value := positive(fact.get(self.field))) is None:
            return
        if len(self._first) < self.LEAST:
            self._first.append((step_of(fact), value))
        level = math.log(value)
        if len(self._recent) >= self.LEAST and self._is_far(level):
            middle = math.exp(statistics.median(point[1] for point in self._recent))
            self.found = self.found or (
                f"At step {step_of(fact):,} the {self.what} was {value:.4g}, {value / middle:,.1f} times the median of "
                f"the {len(self._recent)} reports before it ({middle:.4g})."
            )
            self._quiet = 0
        elif self.found:
            self._quiet += 1
            if self._quiet >= self.QUIET:
                self.found = ""
        self._recent.append((step_of(fact), level))

    def begin(self, step: int) -> None:
        """Forget the points after this step."""
        self._recent = deque((point for point in self._recent if point[0] <= step), maxlen=self.WINDOW)
        self._first = [point for point in self._first if point[0] <= step]
        self.found, self._quiet = "", 0

    def _is_far(self, level: float) -> bool:
        levels = [point[1] for point in self._recent]
        far = level - statistics.median(levels)
        if far <= math.log(self.times) or far <= self.SIGMAS * spread(levels):
            return False
        return level > math.log(self.WORTH * statistics.median([point[1] for point in self._first]))


class LossSpike(Spike):
    """A step whose loss stands out."""

    name = "loss_spike"
    title = "The loss jumped"
    field, what, times = "loss", "loss", 2.0
    why = (
        "More than 6 standard deviations (from the median distance, of logarithms) above the median of the last 50 "
        "reports, at least twice it, and at least 5 % of where the run began: noisy runs with small batches stay "
        "silent, and so do runs that know their rows by heart. The first 20 reports only teach the rule."
    )
    advice = (
        "One jump heals by itself. If jumps come often, lower the learning rate, or look for rows that are very unlike "
        "the others."
    )


class GradientSpike(Spike):
    """A step whose gradient stands out."""

    name = "gradient_spike"
    title = "The gradient jumped"
    field, what, times = "grad_norm", "gradient's norm", 10.0
    why = (
        "As for the loss, but at least ten times the median, because norms vary more and longer gradients are "
        "shortened (`training.max_grad_norm`). Only the ratio counts: norms in the thousands are healthy for Gemma 3n "
        "and 4."
    )
    advice = (
        "It was shortened to `training.max_grad_norm`, so one does no harm. If jumps come often, lower the learning "
        "rate, or look for rows that are very unlike the others."
    )


class Overfitting(Rule):
    """The rows are learned by heart, and others get worse."""

    name = "overfitting"
    severity = "warning"
    title = "The model starts to learn by heart"
    why = (
        "Three evaluations in a row above the lowest one by 5 % of it, by 2 % of what had been learned between the "
        "first and the lowest, and by 1 % of the loss that the training began with; and not falling. The same rows are "
        "measured each time, so their loss has little noise; one bad evaluation, or a hover around the lowest one, is "
        "no alarm. Over when it is back within half of that."
    )
    advice = (
        "More passes make it worse. Stop and take the best step (`training.keep_best`), let it stop by itself "
        "(`training.early_stopping`), use fewer epochs, more data, or more dropout."
    )
    EVALS, SHARE, OF_PROGRESS, OF_BEGINNING = 3, 0.05, 0.02, 0.01

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._began = 0.0
        self._first: Point | None = None
        self._best: Point | None = None
        self._above: list[Point] = []

    def take(self, fact: Fact) -> None:
        """Compare an evaluation with the best one."""
        event = fact.get("event")
        if event not in ("step", "eval") or (value := positive(fact.get("loss"))) is None:
            return
        if event == "step":
            self._began = self._began or value
            return
        now = (step_of(fact), value)
        self._first = self._first or now
        if self._best is None or value <= self._best[1]:
            self._best, self._above, self.found = now, [], ""
            return
        best = self._best[1]
        progress = self.OF_PROGRESS * (self._first[1] - best)
        rise = max(self.SHARE * best, progress, self.OF_BEGINNING * self._began)
        self._above = [*self._above, now][-self.EVALS :] if value > best + rise else []
        if len(self._above) == self.EVALS and value >= self._above[0][1]:
            self.found = self.found or (
                f"The held-out loss was lowest at step {self._best[0]:,} ({best:.4g}) and is {value:.4g} at step "
                f"{now[0]:,}, after {self.EVALS} evaluations in a row above it."
            )
        elif value < best + rise / 2:
            self.found = ""

    def begin(self, step: int) -> None:
        """Forget evaluations after this step."""
        if self._best is not None and self._best[0] > step:
            self._best = None
        if self._first is not None and self._first[0] > step:
            self._first = None
        self._above = [point for point in self._above if point[0] <= step]
        if len(self._above) < self.EVALS:
            self.found = ""
