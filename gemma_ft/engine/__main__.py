"""`python -m gemma_ft.engine`: answers requests, one JSON object a line, from stdin to stdout.

A request is one of these, with an `id`; `token` may be added where the Hub is asked:

    {"op": "chat", "run": path, "side": "tuned", "messages": [...], "sampling": {...}}
    {"op": "look", "config": {...}}         {"op": "xray", "config": {...}, "first": 0, "number": 5}
    {"op": "plan", "config": {...}, "figures": {...} or null, "rows": 135}
    {"op": "preset", "name": "balanced", and as for plan}            {"op": "measure", "config": {...}}
    {"op": "search", "text": ...}           {"op": "offers", "source": "hub", "dataset": ..., "config": ...}
    {"op": "cancel"}

The answers carry the same id: any number of `{"event": "text", "text": ...}` or `{"event": "progress", "rows": ...}`,
then one `{"event": "end", ...}` or `{"event": "error", "report": {...}}`. Promises one request at a time, that nothing
but answers goes to stdout (prints of libraries go to stderr), and that the process ends when stdin does, so it cannot
outlive the page.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from typing import Any

from gemma_ft.errors import GemmaFtError
from gemma_ft.failures import explain
from gemma_ft.redaction import redact_output
from gemma_ft.sampling import Sampling

Request = dict[str, Any]


class Cancelled(Exception):
    """Ends work on a question whose asker has left."""


class Engine:
    """Takes requests from a queue and works on them in the main thread; cancels come in from the side."""

    def __init__(self, answers_fd: int) -> None:
        self._answers = os.fdopen(answers_fd, "wb")
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._cancelled: set[int] = set()

    def listen(self) -> None:
        """Read requests until stdin ends; runs in a thread of its own."""
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if request["op"] == "cancel":
                self._cancelled.add(request["id"])
            else:
                self._requests.put(request)
        os._exit(0)

    def work(self) -> None:
        """Answer requests for ever."""
        while (request := self._requests.get()) is not None:
            if request["id"] in self._cancelled:
                continue
            try:
                fields = self._answer(request)
            except Cancelled:
                self._say(request["id"], "end")
            except GemmaFtError as exc:
                self._say(request["id"], "error", report=exc.report.model_dump())
            except Exception as exc:  # noqa: BLE001 - the outermost frame of a child: the person asking must hear of it
                traceback.print_exc()
                self._say(request["id"], "error", report=explain(exc, _token(request)).model_dump())
            else:
                self._say(request["id"], "end", **fields)

    @cached_property
    def _chat_room(self) -> Any:
        from gemma_ft.engine.chat import ChatRoom

        return ChatRoom()

    @cached_property
    def _data_room(self) -> Any:
        from gemma_ft.engine.data_room import DataRoom

        return DataRoom()

    @cached_property
    def _planning_room(self) -> Any:
        from gemma_ft.engine.planning import PlanningRoom

        return PlanningRoom()

    def _answer(self, request: Request) -> dict[str, Any]:
        """Return the fields of the `end` of a request."""
        if request["op"] == "chat":
            return self._chat(request)
        if request["op"] in ("plan", "preset"):
            return self._plan(request)
        from gemma_ft.engine import data_room

        token, progress = _token(request), self._progress(request["id"])
        if request["op"] == "measure":
            from gemma_ft.engine.measuring import measure

            return measure(request["config"], token, self._data_room, progress)
        if request["op"] == "search":
            return data_room.search(request["text"], token)
        if request["op"] == "offers":
            return data_room.offers(request["source"], request["dataset"], request["config"], token)
        found: dict[str, Any]
        if request["op"] == "look":
            found = self._data_room.look(request["config"], token, progress)
        else:
            page = {"first": request["first"], "number": request["number"]}
            found = self._data_room.xray(request["config"], token, progress, **page)
        return found

    def _plan(self, request: Request) -> dict[str, Any]:
        known = (request["config"], request["figures"], request["rows"], _token(request))
        room = self._planning_room
        found: dict[str, Any] = room.preset(request["name"], *known) if request["op"] == "preset" else room.plan(*known)
        return found

    def _chat(self, request: Request) -> dict[str, Any]:
        number = request["id"]
        pair = self._chat_room.pair(request["run"], _token(request))
        self._say(number, "loaded")
        began = time.monotonic()
        text, tokens = pair.answer(
            request["side"],
            request["messages"],
            Sampling(**request["sampling"]),
            on_text=lambda piece: self._say(number, "text", text=piece),
            should_stop=lambda: number in self._cancelled,
        )
        return {"text": text, "tokens": tokens, "seconds": round(time.monotonic() - began, 3)}

    def _progress(self, number: int) -> Callable[[int], None]:
        """Return what tells how many rows are done, and ends a question that was cancelled."""

        def report(rows: int) -> None:
            if number in self._cancelled:
                raise Cancelled
            self._say(number, "progress", rows=rows)

        return report

    def _say(self, number: int, event: str, **fields: Any) -> None:
        """Write one answer; half characters, which no page can show, become question marks."""
        text = json.dumps({"id": number, "event": event, **fields}, ensure_ascii=False)
        self._answers.write(text.encode("utf-8", "replace") + b"\n")
        self._answers.flush()


def _token(request: Request) -> str | None:
    return request.get("token") or os.environ.get("HF_TOKEN")


def main() -> None:
    """Set up the streams and serve."""
    redact_output(os.environ.get("HF_TOKEN"))
    answers = os.dup(1)
    os.dup2(2, 1)
    engine = Engine(answers)
    threading.Thread(target=engine.listen, name="requests", daemon=True).start()
    engine.work()


if __name__ == "__main__":
    main()
