"""Alert rules on how a run goes along: whether it still speaks, how fast it is, and whether the Hub answers."""

from __future__ import annotations

import statistics
from collections import deque
from itertools import pairwise

from gemma_ft.events import Fact
from gemma_ft.monitor.rules import LONGEST_GAP_SECONDS, Rule, Sample, Setup, number, step_of
from gemma_ft.monitor.silence import LONGEST_PAUSE_SECONDS, patience

HUB_FAILURES = frozenset({"hub", "hub_down", "network", "rate_limit", "token"})
"""Kinds of errors that come from the Hub or the way to it."""
HUB_WORDS = "Hub could not be reached"


class Stalled(Rule):
    """The training has stopped speaking."""

    name = "stalled"
    severity = "critical"
    title = "No sign of life"
    why = (
        "Nothing was heard for a minute, twenty steps' time, three reports' time and twice the longest pause so far, "
        "whichever is longest (`monitor/silence.py`); before the first two steps for five minutes. An evaluation that "
        "is due is allowed for. Time in which nobody looked, because the machine slept, does not count."
    )
    advice = (
        "Look at the system figures: is the processor or the GPU busy? If it hangs, stop the run; after ten minutes "
        "its process is ended, and it can be resumed from the last checkpoint."
    )
    RECENT = 20

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._trains = False
        self._quiet = 0.0
        self._looked: float | None = None
        self._steps: deque[tuple[float, int]] = deque(maxlen=self.RECENT)
        self._longest = 0.0
        self._last = 0.0
        self._evaluation_steps = 0.0

    def take(self, fact: Fact) -> None:
        """Hear a sign of life."""
        event, t = fact.get("event"), number(fact.get("t")) or 0.0
        if event == "phase":
            self._trains = fact.get("phase") == "training"
            self._last = 0.0
        elif event == "result":
            self._trains = False
        elif event == "data":
            held_out = number(fact.get("validation")) or 0.0
            self._evaluation_steps = held_out / self.setup.rows_per_step
        elif event == "step":
            self._steps.append((t, step_of(fact)))
        if self._trains and self._last and len(self._steps) > 1:
            self._longest = max(self._longest, min(t - self._last, LONGEST_PAUSE_SECONDS))
        self._last, self._quiet, self.found = t, 0.0, ""

    def look(self, sample: Sample, now: float) -> None:
        """Count how long it has been quiet."""
        passed = 0.0 if self._looked is None else min(max(0.0, now - self._looked), LONGEST_GAP_SECONDS)
        self._looked = now
        if not self._trains:
            return
        self._quiet += passed
        allowed = self.allowed()
        if self._quiet > allowed:
            last = self._steps[-1][1] if self._steps else 0
            self.found = self.found or (
                f"Nothing was heard for {self._quiet:,.0f} seconds since step {last:,}; up to {allowed:,.0f} would be "
                "normal for this run."
            )

    def begin(self, step: int) -> None:
        """Learn the pace anew: the machine may be another one."""
        self._steps.clear()
        self._longest, self._last, self.found = 0.0, 0.0, ""

    def allowed(self) -> float:
        """Return how many seconds of silence are normal now."""
        points = list(self._steps)
        paces = [(t - before) / max(1, step - last) for (before, last), (t, step) in pairwise(points)]
        if not paces:
            return patience(None, pause=self._longest)
        pace = statistics.median(paces)
        evaluation = pace * self._evaluation_steps  # at most: training does more with a row
        return patience(pace, report_every=self.setup.report_every, pause=max(self._longest, evaluation))


class Slower(Rule):
    """The training has lost much of its speed."""

    name = "slower"
    severity = "warning"
    title = "The training has become slower"
    why = (
        "Tokens a second, in stretches of at least 10 seconds and 5 reports, without those in which it evaluated, "
        "saved or answered questions. The median of the last 6 stretches is below half of the median of those before "
        "(at least 12, at most 200): half, because a neighbour on the machine or a long row costs less; a minute, "
        "because shorter lulls pass. Over when it is back above 80 %."
    )
    advice = (
        "Look at the system figures: is another program using the machine, is the GPU hot, is memory or the disk full? "
        "`nvidia-smi` lists what uses a GPU."
    )
    SECONDS, REPORTS, RECENT, BEFORE, MOST, LOST, BACK = 10.0, 5, 6, 12, 200, 0.5, 0.8

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._speeds: deque[float] = deque(maxlen=self.MOST)
        self._usual = 0.0
        self._before: tuple[float, float] | None = None
        self._seconds, self._tokens, self._reports = 0.0, 0.0, 0

    def take(self, fact: Fact) -> None:
        """Add the time and the tokens since the last step, if nothing else came between."""
        if fact.get("event") != "step":
            self._before = None
            return
        now = (number(fact.get("seconds")) or 0.0, number(fact.get("tokens")) or 0.0)
        if self._before is not None and now[0] > self._before[0]:
            self._seconds += now[0] - self._before[0]
            self._tokens += now[1] - self._before[1]
            self._reports += 1
        self._before = now
        if self._seconds >= self.SECONDS and self._reports >= self.REPORTS and self._tokens > 0:
            self._speeds.append(self._tokens / self._seconds)
            self._seconds, self._tokens, self._reports = 0.0, 0.0, 0
            self._judge(step_of(fact))

    def begin(self, step: int) -> None:
        """Begin anew: the machine, or the batch, may be another one."""
        self._speeds.clear()
        self._before = None
        self._seconds, self._tokens, self._reports = 0.0, 0.0, 0
        self.found = ""

    def _judge(self, step: int) -> None:
        speeds = list(self._speeds)
        recent, before = speeds[-self.RECENT :], speeds[: -self.RECENT]
        if len(before) < self.BEFORE:
            return
        speed = statistics.median(recent)
        usual = self._usual if self.found else statistics.median(before)
        if not self.found and speed < self.LOST * usual:
            self._usual = usual
            self.found = (
                f"Around step {step:,} it makes {speed:,.0f} tokens a second; the median before was {usual:,.0f}."
            )
        elif self.found and speed > self.BACK * usual:
            self.found = ""


class HubUnreachable(Rule):
    """The Hub did not answer, or refused."""

    name = "hub_unreachable"
    severity = "warning"
    title = "The Hugging Face Hub could not be used"
    why = (
        "The trainer warns of it, after the Hub's client has tried as often as it does. A run that cannot go on "
        "without the Hub fails and says so, which is no alert. Over when something was published, or it is resumed."
    )
    advice = (
        "The model and the checkpoints are safe on this machine. Check the network, the token and "
        "https://status.huggingface.co, then publish it again, or resume the run."
    )

    def take(self, fact: Fact) -> None:
        """Look for a failure at the Hub."""
        event = fact.get("event")
        if event == "published" or (event == "phase" and fact.get("phase") == "reading the data"):
            self.found = ""
        elif event == "warning" and (fact.get("kind") in HUB_FAILURES or HUB_WORDS in str(fact.get("message"))):
            self.found = str(fact.get("message"))
