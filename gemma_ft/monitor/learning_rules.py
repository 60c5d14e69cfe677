"""Alert rules on the learning rate, told from the loss: it explodes, or it does not move.

Promises to judge a run by its own losses and their noise, so that a model with a high healthy loss is left alone.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

from gemma_ft.events import Fact
from gemma_ft.monitor.rules import (
    Point,
    Rule,
    Setup,
    mean_and_variance,
    noise_between,
    number,
    positive,
    spread,
    step_of,
)


class LossExplodes(Rule):
    """The learning rate is too high: what was learned is lost again, or the model is worse than untouched."""

    name = "loss_explodes"
    severity = "critical"
    title = "The loss is exploding"
    why = (
        "Either the median of the last 10 reports is above the lowest such median by half of what had been learned "
        "until then, by half of itself, and by 4 times the noise between reports (which medians of ten do not do by "
        "chance); or, within the first 50 reports, the last 8 are all above the first 3 (when the model was nearly "
        "untouched; only the very first, if another is five times it), their median by half and by 1.5 times their "
        "noise. So neither noise, nor a jump that heals, nor the slow rise of a run that goes on for too long counts. "
        "Over when the rise is half gone."
    )
    advice = (
        "The learning rate is most likely too high. Stop, and start again with a tenth of it, or a longer warm-up; a "
        "checkpoint from before the rise is still good."
    )
    WINDOW, NOISE_WINDOW, SIGMAS = 10, 50, 4.0
    FIRST, LAST, EARLY, WORSE, AT_ONCE = 3, 8, 50, 1.5, 5.0

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._first: list[Point] = []
        self._recent: deque[Point] = deque(maxlen=self.WINDOW)
        self._levels: deque[float] = deque(maxlen=self.NOISE_WINDOW)
        self._best: Point | None = None
        self._reports = 0

    def take(self, fact: Fact) -> None:
        """Compare the newest reports with the first and with the best ones."""
        if fact.get("event") != "step" or (value := positive(fact.get("loss"))) is None:
            return
        self._reports += 1
        if len(self._first) < self.WINDOW:
            self._first.append((step_of(fact), value))
        self._recent.append((step_of(fact), value))
        self._levels.append(math.log(value))
        worse, best = self._than_first(), self._than_best()
        said = (worse[0] if worse else "") or (best[0] if best else "")
        if said:
            self.found = self.found or said
        elif all(part is None or part[1] for part in (worse, best)):
            self.found = ""

    def begin(self, step: int) -> None:
        """Forget what came after this step."""
        self._first = [point for point in self._first if point[0] <= step]
        self._reports = len(self._first) if len(self._first) < self.WINDOW else self._reports
        self._recent.clear()
        self._levels.clear()
        if self._best is not None and self._best[0] > step:
            self._best = None
        self.found = ""

    def _than_first(self) -> tuple[str, bool] | None:
        """Return what is wrong compared with the untouched model, and whether it certainly is not."""
        last = [point[1] for point in self._recent][-self.LAST :]
        if self._reports < self.FIRST + self.LAST or len(last) < self.LAST or len(self._first) < self.FIRST:
            return None
        first = self._untouched()
        middle = statistics.median(last)
        if self._reports > self.EARLY or min(last) <= first:
            return "", middle <= first
        noise = spread([math.log(value) for value in last])
        far = math.log(middle / first) > max(math.log(self.WORSE), 1.5 * noise)
        said = f"Around step {self._recent[-1][0]:,} the loss is {middle:.4g}; in the first steps it was {first:.4g}."
        return (said, False) if far else ("", False)

    def _untouched(self) -> float:
        """Return the loss of the nearly untouched model: that of the first reports, unless they explode already."""
        beginning = [point[1] for point in self._first[: self.FIRST]]
        return beginning[0] if max(beginning) > self.AT_ONCE * beginning[0] else max(beginning)

    def _than_best(self) -> tuple[str, bool] | None:
        """Return what is wrong compared with the best ten reports, and whether it certainly is not."""
        if len(self._recent) < self.WINDOW:
            return None
        middle, now = statistics.median([point[1] for point in self._recent]), self._recent[-1][0]
        if self._best is None or middle < self._best[1]:
            self._best = (now, middle)
        step, best = self._best
        began = statistics.median([point[1] for point in self._first])
        least = best + max(0.5 * (began - best), 0.5 * best)
        if middle < best + (least - best) / 2:
            return "", True
        if middle <= least or math.log(middle / best) <= self.SIGMAS * noise_between(self._levels):
            return "", False
        return (
            f"Around step {now:,} the loss is {middle:.4g}; it was down to {best:.4g} around step {step:,}, and began "
            f"at {began:.4g}."
        ), False


class LossFlat(Rule):
    """The learning rate is too low, or there is nothing to learn: the loss does not move."""

    name = "loss_flat"
    severity = "warning"
    title = "The loss does not move"
    why = (
        "Counted once the learning rate has reached half of its full size, over at least 30 steps and a tenth of the "
        "run. Either the held-out loss, which is measured on the same rows each time, is within 0.1 % of its first "
        "value in three evaluations, and the training loss has not clearly fallen; or, without evaluations, the "
        "training loss cannot have moved by more than 2 %, noise (3 standard errors) included, between its first and "
        "its last 30 reports. Noisy runs are given the benefit of the doubt."
    )
    advice = (
        "The learning rate is most likely far too low (LoRA likes about 2e-4, full tuning 2e-5). It can also be that "
        "the model knows these rows already, or that what is trained has no effect."
    )
    REPORTS, EVALS, STEPS, SHARE_OF_RUN = 30, 3, 30, 0.1
    SAME_EVAL, SAME_LOSS, ERRORS = 0.001, 0.02, 3.0

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._first: list[Point] = []
        self._recent: deque[Point] = deque(maxlen=self.REPORTS)
        self._evals: list[Point] = []
        self._moved = False
        self._full_rate_at: int | None = None
        self._max_steps = 0

    def take(self, fact: Fact) -> None:
        """Compare the beginning with the present."""
        event, value = fact.get("event"), positive(fact.get("loss"))
        if self._moved or value is None or event not in ("step", "eval"):
            return
        if event == "step":
            self._max_steps = int(number(fact.get("max_steps")) or 0)
            self._take_step(step_of(fact), value, number(fact.get("learning_rate")) or 0.0)
        elif self._full_rate_at is not None:
            self._take_eval(step_of(fact), value)
        self._judge(step_of(fact))

    def begin(self, step: int) -> None:
        """Forget what came after this step."""
        self._first = [point for point in self._first if point[0] <= step]
        self._recent = deque((point for point in self._recent if point[0] <= step), maxlen=self.REPORTS)
        self._evals = [point for point in self._evals if point[0] <= step]
        if self._full_rate_at is not None and self._full_rate_at > step:
            self._full_rate_at = None

    def _take_step(self, step: int, value: float, rate: float) -> None:
        if self._full_rate_at is None and rate >= self.setup.learning_rate / 2:
            self._full_rate_at = step
        if self._full_rate_at is None:
            return
        if len(self._first) < self.REPORTS:
            self._first.append((step, math.log(value)))
        else:
            self._recent.append((step, math.log(value)))

    def _take_eval(self, step: int, value: float) -> None:
        self._evals = [*self._evals[: self.EVALS - 1], (step, value)]
        first = self._evals[0][1]
        self._moved = abs(value / first - 1) > self.SAME_EVAL

    def _judge(self, step: int) -> None:
        fall, error = self._fall()
        least = max(self.STEPS, self.SHARE_OF_RUN * self._max_steps)
        if self._moved or (fall is not None and fall > max(self.ERRORS * error, self.SAME_LOSS / 2)):
            self._moved, self.found = True, ""
        elif self._full_rate_at is None or step - self._full_rate_at < least or self.found:
            return
        elif len(self._evals) >= self.EVALS and self._evals[-1][0] - self._evals[0][0] >= least:
            (since, first), (until, last) = self._evals[0], self._evals[-1]
            self.found = (
                f"The held-out loss was {first:.5g} at step {since:,} and is {last:.5g} at step {until:,}; the "
                f"learning rate is {self.setup.learning_rate:g}."
            )
        elif not self._evals and fall is not None and abs(fall) + self.ERRORS * error < self.SAME_LOSS:
            before, after = (math.exp(statistics.fmean(p[1] for p in part)) for part in (self._first, self._recent))
            self.found = (
                f"The loss was {before:.5g} in the first {self.REPORTS} reports and is {after:.5g} around step "
                f"{step:,}; the learning rate is {self.setup.learning_rate:g}."
            )

    def _fall(self) -> tuple[float | None, float]:
        """Return by how much the logarithm of the loss has fallen, and the standard error of that."""
        if len(self._first) < self.REPORTS or len(self._recent) < self.REPORTS:
            return None, 0.0
        before, after = (mean_and_variance([point[1] for point in part]) for part in (self._first, self._recent))
        return before[0] - after[0], math.sqrt((before[1] + after[1]) / self.REPORTS)
