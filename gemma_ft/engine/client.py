"""The page's side of the engine: starts it when it is needed, asks it, and frees it.

Promises that a page that never chats starts no engine, that an engine that dies is said to be dead with its last
words and is started anew by the next question, and that `close` gives its memory back before it returns. Standard
library only.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from gemma_ft.errors import EngineError
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling

Side = Literal["base", "tuned"]
Answer = dict[str, Any]
CLOSE_SECONDS = 5.0


class EngineClient:
    """One engine process at most; safe to use from several threads."""

    def __init__(self, log: Path, environment: Mapping[str, str], working_folder: Path) -> None:
        self._log, self._environment, self._folder = log, dict(environment), working_folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, queue.SimpleQueue[Answer]] = {}
        self._numbers = itertools.count(1)

    def warm(self) -> None:
        """Start the engine if it is not running, so that the first question need not wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the engine and free its memory; open questions end with an error."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(CLOSE_SECONDS)

    def chat(self, run: RunDir, side: Side, messages: list[dict[str, str]], sampling: Sampling) -> Iterator[Answer]:
        """Yield the engine's answers to one question: `loaded`, `text` pieces, and at last `end`.

        Leaving the iteration early cancels the question. Raises `EngineError`.
        """
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        number = next(self._numbers)
        request = {"id": number, "op": "chat", "run": str(run.path), "side": side, "messages": messages}
        with self._lock:
            self._waiting[number] = answers
            self._send(self._running(), {**request, "sampling": asdict(sampling)})
        ended = False
        try:
            while not ended:
                answer = answers.get()
                ended = answer["event"] in ("end", "error")
                if answer["event"] == "error":
                    report = answer["report"]
                    raise EngineError(report["what_happened"], report["what_to_do"], title=report["title"])
                yield answer
        finally:
            self._waiting.pop(number, None)
            if not ended:
                self._cancel(number)

    def _cancel(self, number: int) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._send(self._process, {"id": number, "op": "cancel"})

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the live process, starting one if there is none; the lock is held."""
        if self._process is None or self._process.poll() is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "gemma_ft.engine"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    cwd=self._folder,
                    start_new_session=True,
                )
            threading.Thread(target=self._listen, args=(self._process,), name="engine", daemon=True).start()
        return self._process

    def _send(self, process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError as exc:
            raise EngineError("The model process has just ended.", "Ask again; it is started anew.") from exc

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Hand each answer to whoever asked; when the process ends, tell those who still wait."""
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            answer = json.loads(line)
            if waiting := self._waiting.get(answer["id"]):
                waiting.put(answer)
        process.wait()
        process.stdout.close()
        process.stdin.close()
        with self._lock:
            abandoned = list(self._waiting.values()) if self._process in (None, process) else []
        report = {
            "title": "The model process ended",
            "what_happened": f"It ended with code {process.returncode}. {self._last_words()}".strip(),
            "what_to_do": "Ask again; it is started anew. If a training was started meanwhile, wait until it is done.",
        }
        for waiting in abandoned:
            waiting.put({"event": "error", "report": report})

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return f"Its last words: {lines[-1][:300]}" if lines else ""
