"""What a browser gets when it asks for news of a run: only what it does not have yet.

Promises that the browser owns its place (the cursor), so that reloads, second browsers, lost answers and restarts of
the page need no memory here; that the cost of an answer does not grow with the length of the run; that nothing but
`same` is sent when nothing changed; and that it only reads.

A question may also `ask` for something else: `refine`, a stretch of a run in detail, or `overlay`, the losses of other
runs.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from gemma_ft.errors import RunNotFound
from gemma_ft.events import Fact
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.notify import undelivered
from gemma_ft.monitor.identity import is_halted
from gemma_ft.monitor.machine import MachineSampler
from gemma_ft.monitor.machine_history import flat, totals
from gemma_ft.monitor.pace import pace_of
from gemma_ft.rundir import ACTIVE, RunDir, RunState
from gemma_ft.ui.actions import place_in_line, possible
from gemma_ft.ui.followed import FollowedRun
from gemma_ft.ui.kpis import LAYOUT, dollars_per_hour, figures
from gemma_ft.ui.present import view
from gemma_ft.ui.series import BUCKETS, evals_of, machine_between, steps_between
from gemma_ft.ui.served import PLOTLY_ADDRESS

Cursor = dict[str, Any]
LISTED_RUNS = 100
REMEMBERED_RUNS = 12
REMEMBERED_BYTES = 200_000_000
FRESH_SECONDS = 1.0
"""How old the list of runs and the sample of the machine may be, which all browsers share."""
MACHINE_SECONDS = 0.15
"""How long one call reads samples of the machine; the next call goes on."""
MOST_MARKS = 400
MOST_ALERTS = 200
MOST_OVERLAYS = 6
OVERLAY_BUCKETS = 250
WATCHES_ONLY = "This page only watches: another one controls the runs of this home. When it ends, this one takes over."
SAMPLE_FIELDS = ("step", "prompt", "answer")
COUNTED = ("rows", "evals", "samples", "marks", "alerts", "machine")


class LiveRuns:
    """Answers the browsers; remembers what it has read of each run, for all of them together."""

    def __init__(self, manager: JobManager, *, in_control: Callable[[], bool] = lambda: True) -> None:
        self._manager = manager
        self._in_control = in_control
        self._followed: OrderedDict[str, FollowedRun] = OrderedDict()
        self._listing: tuple[float, list[dict[str, str]], int] = (0.0, [], 0)
        self._ended: dict[str, tuple[int, str]] = {}
        self._sampler: MachineSampler | None = None
        self._sample: tuple[float, Fact] = (0.0, {})
        self._lock = threading.RLock()

    def poll(self, cursor: Cursor | None) -> dict[str, Any]:
        """Return the news of the run named in the cursor (the newest one if it names none) and the next cursor."""
        cursor = cursor or {}
        if cursor.get("ask") == "refine":
            return self._refine(cursor)
        if cursor.get("ask") == "overlay":
            return self._overlay(cursor)
        listing, version = self._list()
        next_cursor: Cursor = {"run": cursor.get("run"), "runs": version}
        news: dict[str, Any] = {"runs": listing} if version != cursor.get("runs") else {}
        notice = None if self._in_control() else WATCHES_ONLY
        next_cursor["notice"] = bool(notice)
        if bool(notice) != bool(cursor.get("notice")):
            news["notice"] = notice
        if "machine" in (cursor.get("want") or ()):
            sample = self._machine_now()
            news["machine"] = {"now": flat(sample), "totals": totals(sample)}
        wanted = cursor.get("run") or (listing[0]["id"] if listing else None)
        try:
            run = self._manager.open(str(wanted)) if wanted else None
        except RunNotFound:
            return {**news, "run": None, "missing": str(wanted), "cursor": next_cursor}
        if run is None:
            return {**news, "run": None, "cursor": next_cursor}
        followed = self._follow(run)
        share = followed.read_on()
        if share is not None:
            return {**news, "run": run.run_id, "reading": round(share, 3), "cursor": {**cursor, **next_cursor}}
        return self._news(followed, cursor, news, next_cursor)

    def _news(self, followed: FollowedRun, cursor: Cursor, news: dict[str, Any], after: Cursor) -> dict[str, Any]:
        """Add to the news what is new of one run; `after` becomes the next cursor."""
        run_id = followed.run.run_id
        known = cursor if cursor.get("seen") == run_id else {}
        anew = known.get("generation") != followed.facts.generation
        counts = {name: 0 if anew else int(known.get(name) or 0) for name in COUNTED}
        after |= {"seen": run_id, "generation": followed.facts.generation}
        if anew:
            known = {}
            news |= {"reset": True, "layout": LAYOUT, "plotly": PLOTLY_ADDRESS}
        state = self._manager.state(followed.run)
        place = place_in_line(self._order(), run_id) if state.status == "queued" else None
        with followed.facts.lock:
            self._add_points(followed, counts, news, after)
            pace = pace_of(followed.facts)
            said = view(
                followed.about,
                state,
                followed.facts,
                has_model=followed.run.model.is_dir(),
                now=time.time(),
                pace=pace,
                place=place,
                halted=is_halted(state.trainer),
            )
        said["warnings"] += undelivered(followed.run, state)
        said["can"] = self._possible(followed, state, place)
        self._add_machine(followed, cursor, counts, news, after)
        with followed.facts.lock:
            shown = figures(followed.facts, pace, followed.config, followed.machine.last_sample())
        said["clock"]["dollars_per_hour"] = dollars_per_hour(self._manager.settings.hardware)
        for name, value in (("view", said), ("figures", shown)):
            after[name] = zlib.crc32(orjson.dumps(value))
            if after[name] != known.get(name):
                news[name] = value
        self._add_log(followed, known, news, after)
        if not news and all(after.get(name) == cursor.get(name) for name in after):
            return {"same": True}
        return {**news, "run": run_id, "now": round(time.time(), 2), "cursor": after}

    def _possible(self, followed: FollowedRun, state: RunState, place: int | None) -> list[str]:
        """Return what can be done now with a run, and `rescue` if there are runs that were interrupted."""
        run, config, in_control = followed.run, followed.config, self._in_control()
        can = possible(
            state,
            has_model=run.model.is_dir(),
            asks=state.status == "training" and config is not None and bool(config.evaluation.prompts),
            place=place,
            waiting=len(self._order()) if place else 0,
            in_control=in_control,
        )
        others = any(other["status"] == "interrupted" and other["id"] != run.run_id for other in self._list()[0])
        return [*can, *(["rescue"] if in_control and others else [])]

    def _order(self) -> list[str]:
        return [run.run_id for run in self._manager.waiting()]

    def _add_points(self, followed: FollowedRun, counts: dict[str, int], news: dict[str, Any], after: Cursor) -> None:
        facts = followed.facts
        rows = facts.columns.rows
        if counts["rows"] == 0 and rows > BUCKETS:
            rows, news["steps"] = followed.whole_curves()
        elif counts["rows"] < rows:
            news["steps"] = steps_between(facts.columns, counts["rows"], rows)
        after["rows"] = rows
        for name, have in (("evals", facts.evals), ("samples", facts.samples), ("marks", facts.marks)):
            after[name] = len(have)
        if new := facts.evals[counts["evals"] :]:
            news["evals"] = evals_of(new)
        if samples := first_and_last(facts.samples[counts["samples"] :]):
            news["samples"] = [{key: fact.get(key) for key in SAMPLE_FIELDS} for fact in samples]
        if marks := facts.marks[counts["marks"] :]:
            news["marks"] = [[mark.kind, mark.step, mark.text] for mark in thinned(marks, MOST_MARKS)]
        after["alerts"] = len(followed.alerts)
        if alerts := followed.alerts[counts["alerts"] :]:
            news["alerts"] = alerts[-MOST_ALERTS:]

    def _add_machine(
        self, followed: FollowedRun, cursor: Cursor, counts: dict[str, int], news: dict[str, Any], after: Cursor
    ) -> None:
        machine, begin = followed.machine, counts["machine"]
        after["machine"] = begin
        if "system" not in (cursor.get("want") or ()):
            return
        if (share := machine.refresh(MACHINE_SECONDS).share_read) is not None:
            news["system"] = {"reading": round(share, 3)}
            return
        with machine.lock:
            rows = machine.columns.rows
            if begin < rows:
                news["system"] = machine_between(machine.columns, begin, rows)
                if not begin:
                    news["system"]["totals"] = totals(machine.newest)
                after["machine"] = rows

    def _add_log(self, followed: FollowedRun, known: Cursor, news: dict[str, Any], after: Cursor) -> None:
        log = followed.log
        with log.lock:
            begin = int(known.get("lines") or 0) if known.get("log") == log.generation else 0
            after |= {"log": log.generation, "lines": log.count, "open": zlib.crc32(log.open.encode())}
            lines = log.since(begin)
            if not lines and after["open"] == known.get("open", 0) and known:
                return
            first = lines[0].number if lines else log.count
            sections = [section for section in log.sections if section[0] >= first]
            if not begin:
                sections = [section for section in log.sections if section[0] < first][-1:] + sections
            news["log"] = {
                "reset": not begin,
                "first": first,
                "text": "\n".join(line.text for line in lines),
                "levels": "".join(line.level[0] for line in lines),
                "open": log.open,
                "counts": [log.count, log.errors, log.warnings],
                "sections": sections,
            }

    def _refine(self, cursor: Cursor) -> dict[str, Any]:
        """Return the steps from `from` to `to` of a run in detail."""
        followed = self._known(cursor.get("run"))
        if followed is None:
            return {"steps": None}
        with followed.facts.lock:
            columns = followed.facts.columns
            step = columns.column("step")
            begin = max(0, int(np.searchsorted(step, float(cursor.get("from") or 0))) - 1)
            end = min(columns.rows, int(np.searchsorted(step, float(cursor.get("to") or 0), side="right")) + 1)
            return {
                "generation": followed.facts.generation,
                "steps": steps_between(columns, begin, max(begin, end)) if begin < end else None,
            }

    def _overlay(self, cursor: Cursor) -> dict[str, Any]:
        """Return the losses of other runs; of those that are long, what could be read in this call."""
        found: dict[str, Any] = {}
        for run_id in list(cursor.get("runs") or ())[:MOST_OVERLAYS]:
            followed = self._known(run_id)
            if followed is None:
                continue
            share = followed.read_on()
            with followed.facts.lock:
                columns = followed.facts.columns
                found[str(run_id)] = {
                    "name": followed.about["name"],
                    "reading": share,
                    "active": self._manager.state(followed.run).status in ACTIVE,
                    "steps": steps_between(columns, 0, columns.rows, OVERLAY_BUCKETS),
                    "evals": evals_of(followed.facts.evals, 2 * OVERLAY_BUCKETS),
                }
        return {"overlays": found}

    def _known(self, run_id: Any) -> FollowedRun | None:
        try:
            return self._follow(self._manager.open(str(run_id)))
        except RunNotFound:
            return None

    def _follow(self, run: RunDir) -> FollowedRun:
        """Return what has been read of a run; the runs that were looked at longest ago are forgotten."""
        with self._lock:
            followed = self._followed.get(run.run_id) or FollowedRun(run)
            self._followed[run.run_id] = followed
            self._followed.move_to_end(run.run_id)
            while len(self._followed) > 1 and (
                len(self._followed) > REMEMBERED_RUNS
                or sum(other.bytes() for other in self._followed.values()) > REMEMBERED_BYTES
            ):
                self._followed.popitem(last=False)
            return followed

    def _list(self) -> tuple[list[dict[str, str]], int]:
        """Return the newest runs, at most a second old, for the choice of runs, and a number that changes with them."""
        with self._lock:
            taken, listing, version = self._listing
            if time.monotonic() - taken > FRESH_SECONDS:
                listing = [
                    {"id": run.run_id, "status": self._status(run)} for run in self._manager.runs()[:LISTED_RUNS]
                ]
                version = zlib.crc32(orjson.dumps(listing))
                self._listing = (time.monotonic(), listing, version)
            return listing, version

    def _status(self, run: RunDir) -> str:
        """Return a run's status; that of an ended run is read again only when its file changes."""
        changed = run.state_file.stat().st_mtime_ns
        known = self._ended.get(run.run_id)
        if known and known[0] == changed:
            return known[1]
        status = self._manager.state(run).status
        if status not in ACTIVE:
            self._ended[run.run_id] = (changed, status)
        return status

    def _machine_now(self) -> Fact:
        """Return a sample of this machine, at most a second old, for all browsers together."""
        with self._lock:
            taken, sample = self._sample
            if time.monotonic() - taken > FRESH_SECONDS:
                self._sampler = self._sampler or MachineSampler(self._manager.settings.home)
                sample = {"t": round(time.time(), 1), **self._sampler.sample()}
                self._sample = (time.monotonic(), sample)
            return sample


def first_and_last(samples: Sequence[Fact]) -> list[Fact]:
    """Return of each question the first and the newest answer, in the order in which they were given."""
    first = {str(fact.get("prompt")): fact for fact in reversed(samples)}
    last = {str(fact.get("prompt")): fact for fact in samples}
    kept = {id(fact) for fact in (*first.values(), *last.values())}
    return [fact for fact in samples if id(fact) in kept]


def thinned(things: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many things, evenly, the newest among them."""
    if len(things) <= most:
        return list(things)
    ends = [len(things) * part // most for part in range(most + 1)]
    return [things[end - 1] for _, end in pairwise(ends)]
