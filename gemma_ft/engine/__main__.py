"""`python -m gemma_ft.engine`: answers requests, one JSON object a line, from stdin to stdout.

A request is `{"id": 1, "op": "chat", "run": path, "side": "tuned", "messages": [...], ...}` or `{"id": 1, "op":
"cancel"}`; the answers carry the same id: any number of `{"event": "text", "text": ...}`, then one `{"event": "end",
...}` or `{"event": "error", "report": {...}}`. Promises one request at a time, that nothing but answers goes to
stdout (prints of libraries go to stderr), and that the process ends when stdin does, so it cannot outlive the page.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from typing import Any

from gemma_ft.redaction import redact_output
from gemma_ft.sampling import Sampling
from gemma_ft.train.failures import explain

Request = dict[str, Any]


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
        from gemma_ft.engine.chat import ChatRoom

        room = ChatRoom()
        while (request := self._requests.get()) is not None:
            try:
                self._answer(room, request)
            except Exception as exc:  # noqa: BLE001 - the outermost frame of a child: the person asking must hear of it
                traceback.print_exc()
                self._say(request["id"], "error", report=explain(exc).model_dump())

    def _answer(self, room: Any, request: Request) -> None:
        number = request["id"]
        pair = room.pair(request["run"], request.get("token") or os.environ.get("HF_TOKEN"))
        self._say(number, "loaded")
        began = time.monotonic()
        text, tokens = pair.answer(
            request["side"],
            request["messages"],
            Sampling(**request["sampling"]),
            on_text=lambda piece: self._say(number, "text", text=piece),
            should_stop=lambda: number in self._cancelled,
        )
        self._say(number, "end", text=text, tokens=tokens, seconds=round(time.monotonic() - began, 3))

    def _say(self, number: int, event: str, **fields: Any) -> None:
        self._answers.write(json.dumps({"id": number, "event": event, **fields}).encode() + b"\n")
        self._answers.flush()


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
