"""What a browser gets when it asks for news of a run: only what it does not have yet.

Promises that the browser owns its place (the cursor), so that reloads, second browsers, lost answers and restarts of
the page need no memory here; that the cost of an answer does not grow with the length of the run; and that it only
reads.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from gemma_ft.errors import ConfigError, RunNotFound
from gemma_ft.events import Fact
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.identity import is_halted
from gemma_ft.monitor.log import read_log
from gemma_ft.monitor.summary import describe_run
from gemma_ft.rundir import RunDir, RunState
from gemma_ft.ui.actions import place_in_line, possible
from gemma_ft.ui.present import view

Cursor = dict[str, Any]
LISTED_RUNS = 50
REMEMBERED_RUNS = 8
LISTING_SECONDS = 1.0
MOST_POINTS = 2000
STEP_COLUMNS = ("step", "loss", "learning_rate")
EVAL_COLUMNS = ("step", "loss")
SAMPLE_FIELDS = ("step", "prompt", "answer")
WATCHES_ONLY = "This page only watches: another one controls the runs of this home. When it ends, this one takes over."
COUNTED = ("steps", "evals", "samples")


class LiveRuns:
    """Answers the browsers; remembers what it has read of each run, for all of them together."""

    def __init__(self, manager: JobManager, *, in_control: Callable[[], bool] = lambda: True) -> None:
        self._manager = manager
        self._in_control = in_control
        self._facts: OrderedDict[str, RunFacts] = OrderedDict()
        self._listing: tuple[float, list[dict[str, str]]] = (0.0, [])
        self._lock = threading.Lock()

    def poll(self, cursor: Cursor | None) -> dict[str, Any]:
        """Return the news of the run named in the cursor (the newest one if it names none) and the next cursor."""
        cursor = cursor or {}
        listing = self._list()
        version = zlib.crc32(json.dumps(listing).encode())
        news: dict[str, Any] = {"runs": listing if version != cursor.get("runs") else None}
        news["notice"] = None if self._in_control() else WATCHES_ONLY
        wanted = cursor.get("run") or (listing[0]["id"] if listing else None)
        if wanted is None:
            return {**news, "run": None, "cursor": {"run": None, "runs": version}}
        try:
            run = self._manager.open(str(wanted))
        except RunNotFound:
            return {**news, "run": None, "missing": str(wanted), "cursor": {"run": None, "runs": version}}
        return {**news, **self._news(run, cursor, version)}

    def _news(self, run: RunDir, cursor: Cursor, version: int) -> dict[str, Any]:
        known = cursor if cursor.get("seen") == run.run_id else {}
        facts = self._facts_of(run)
        news = facts.since(known.get("generation"), *(int(known.get(name, 0)) for name in COUNTED))
        text, log_end = read_log(run.log, 0 if news.anew else int(known.get("log", 0)))
        state = self._manager.state(run)
        place = place_in_line(self._order(), run.run_id) if state.status == "queued" else None
        shown = view(
            describe_run(run),
            state,
            facts,
            has_model=run.model.is_dir(),
            now=time.time(),
            place=place,
            halted=is_halted(state.trainer),
        )
        return {
            "run": run.run_id,
            "reset": news.anew,
            "view": shown,
            "can": self._possible(run, state, place),
            "steps": columns(thin(news.steps, MOST_POINTS), STEP_COLUMNS),
            "evals": columns(thin(news.evals, MOST_POINTS), EVAL_COLUMNS),
            "samples": [{key: fact.get(key) for key in SAMPLE_FIELDS} for fact in first_and_last(news.samples)],
            "log": text,
            "cursor": {
                "run": cursor.get("run"),
                "seen": run.run_id,
                "generation": news.generation,
                **dict(zip(COUNTED, news.counts, strict=True)),
                "log": log_end,
                "runs": version,
            },
        }

    def _possible(self, run: RunDir, state: RunState, place: int | None) -> list[str]:
        """Return what can be done now with a run, and `rescue` if there are runs that were interrupted."""
        try:
            asks = state.status == "training" and bool(run.config().evaluation.prompts)
        except ConfigError:
            asks = False
        in_control = self._in_control()
        can = possible(
            state,
            has_model=run.model.is_dir(),
            asks=asks,
            place=place,
            waiting=len(self._order()),
            in_control=in_control,
        )
        others = [other for other in self._list() if other["status"] == "interrupted" and other["id"] != run.run_id]
        return [*can, *(["rescue"] if in_control and others else [])]

    def _order(self) -> list[str]:
        return [run.run_id for run in self._manager.waiting()]

    def _facts_of(self, run: RunDir) -> RunFacts:
        """Return what has been read of a run; the runs that were looked at longest ago are forgotten."""
        with self._lock:
            facts = self._facts.setdefault(run.run_id, RunFacts(run.events))
            self._facts.move_to_end(run.run_id)
            if len(self._facts) > REMEMBERED_RUNS:
                self._facts.popitem(last=False)
            return facts

    def _list(self) -> list[dict[str, str]]:
        """Return the newest runs, at most a second old, for the choice of runs."""
        with self._lock:
            taken, listing = self._listing
            if time.monotonic() - taken > LISTING_SECONDS:
                runs = self._manager.runs()[:LISTED_RUNS]
                listing = [{"id": run.run_id, "status": self._manager.state(run).status} for run in runs]
                self._listing = (time.monotonic(), listing)
            return listing


def columns(facts: Sequence[Fact], names: Sequence[str]) -> dict[str, list[Any]]:
    """Turn facts into columns, for a chart; words for numbers that are not finite become gaps."""
    return {name: [_plottable(fact.get(name)) for fact in facts] for name in names}


def first_and_last(samples: Sequence[Fact]) -> list[Fact]:
    """Return of each question the first and the newest answer, in the order in which they were given."""
    first = {str(fact.get("prompt")): fact for fact in reversed(samples)}
    last = {str(fact.get("prompt")): fact for fact in samples}
    kept = {id(fact) for fact in (*first.values(), *last.values())}
    return [fact for fact in samples if id(fact) in kept]


def thin(facts: Sequence[Fact], most: int) -> Sequence[Fact]:
    """Return at most about `most` facts that draw the same curve: the lowest and the highest loss of each stretch."""
    if len(facts) <= most:
        return facts
    width = -(-2 * len(facts) // most)
    kept: list[Fact] = []
    for begin in range(0, len(facts), width):
        stretch = facts[begin : begin + width]
        ends = {id(f): f for f in (min(stretch, key=_loss), max(stretch, key=_loss))}
        kept += sorted(ends.values(), key=lambda fact: int(fact["step"]))
    return kept if kept[-1] is facts[-1] else [*kept, facts[-1]]


def _loss(fact: Fact) -> float:
    value = _plottable(fact.get("loss"))
    return 0.0 if value is None else value


def _plottable(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) else None
