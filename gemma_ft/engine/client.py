"""The page's side of the engine: starts it when it is needed, asks it, and frees it.

Promises that a page that never chats starts no engine, that an engine that dies or is halted is said to be dead with
its last words and is started anew by the next question, and that `close` gives its memory back before it returns.
Standard library only.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from gemma_ft.errors import EngineError, ErrorReport
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling

Side = Literal["base", "tuned"]
Answer = dict[str, Any]
HALTED_SECONDS = 3.0
"""How often one who waits for an answer looks whether the process was halted by a signal (SIGSTOP)."""


class EngineClient:
    """One engine process at most; safe to use from several threads."""

    def __init__(self, log: Path, environment: Mapping[str, str], working_folder: Path) -> None:
        self._log, self._environment, self._folder = log, dict(environment), working_folder
        self._lock = threading.Lock()
        self._engine: _Engine | None = None
        self._run_id: str | None = None

    @property
    def pid(self) -> int | None:
        """The number of the engine's process, or `None` while there is none."""
        engine = self._engine
        return engine.process.pid if engine and engine.process.poll() is None else None

    @property
    def run_id(self) -> str | None:
        """The run whose model the engine was asked about last, and holds; `None` while there is no engine."""
        return self._run_id if self.pid is not None else None

    def warm(self) -> None:
        """Start the engine if it is not running, so that the first question need not wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the engine and free its memory; open questions end with an error."""
        with self._lock:
            if self._engine is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self._engine.process.pid, signal.SIGKILL)
                self._engine.process.wait()
                self._engine = None

    def chat(
        self,
        run: RunDir,
        side: Side,
        messages: list[dict[str, str]],
        sampling: Sampling,
        hub_token: str | None = None,
    ) -> Iterator[Answer]:
        """Yield the engine's answers to one question: `loaded`, `text` pieces, and at last `end`.

        The token, for a base model that is gated, goes through the pipe. Leaving the iteration early cancels the
        question. Raises `EngineError`.
        """
        self._run_id = run.run_id
        question = {"op": "chat", "run": str(run.path), "side": side, "messages": messages, "token": hub_token}
        yield from self._ask({**question, "sampling": asdict(sampling)})

    def looking(self, config: Mapping[str, Any], hub_token: str | None = None) -> Iterator[Answer]:
        """Yield `progress` with the `rows` read so far, and at last what `look` returns. Raises `EngineError`."""
        return self._ask({"op": "look", "config": config, "token": hub_token})

    def look(self, config: Mapping[str, Any], hub_token: str | None = None) -> Answer:
        """Return the check's `report` on a config's values, the first rows of its data (`raw`) and their `questions`.

        Raises `EngineError`.
        """
        return _last(self.looking(config, hub_token))

    def xray(self, config: Mapping[str, Any], first: int = 0, number: int = 0, hub_token: str | None = None) -> Answer:
        """Return the X-ray's `figures` for a config's values, and `number` of its `rows` from the `first` on.

        Raises `EngineError`, also for data and models that cannot be used.
        """
        asked = {"op": "xray", "config": config, "first": first, "number": number, "token": hub_token}
        return _last(self._ask(asked))

    def search(self, text: str, hub_token: str | None = None) -> list[str]:
        """Return the ids of data sets on the Hub whose name holds a text. Raises `EngineError`."""
        return list(_last(self._ask({"op": "search", "text": text, "token": hub_token}))["ids"])

    def offers(self, source: str, dataset_id: str, config: str | None, hub_token: str | None = None) -> Answer:
        """Return the `configs` of a data set (source `hub`), the one that is meant (`config`), and its `splits`.

        Of the source `tfds` only the splits are told. Raises `EngineError`.
        """
        asked = {"op": "offers", "source": source, "dataset": dataset_id, "config": config, "token": hub_token}
        return _last(self._ask(asked))

    def complete(self, config: Mapping[str, Any], report: Answer, hub_token: str | None = None) -> Answer:
        """Return the report of a `check` with the `fit` and the `doctor`'s findings for the same config.

        What the Doctor calls bad is a problem too, and so is a model that cannot be had. There is no `fit` (`None`) for
        data or a model that is not known yet. Raises `EngineError`.
        """
        if not report["ok"] and not report["data"]:
            return {**report, "fit": None, "doctor": []}
        found = _last(self._ask({"op": "plan", "config": config, "token": hub_token, **_known(report)}))
        bad = [
            _problem(f"{line['name']}: {line['text']}", line["fix_label"] or line["link"] or "", kind="doctor")
            for line in found["doctor"]
            if line["state"] == "bad"
        ]
        told = {problem["message"] for problem in report["problems"]}
        if (why := found["problem"]) and why["what_happened"] not in told:
            bad.append(_problem(why["what_happened"], why["what_to_do"], kind="model"))
        return {
            **report,
            "ok": report["ok"] and not bad,
            "problems": [*report["problems"], *bad],
            "fit": found["fit"] if report["data"] else None,
            "doctor": found["doctor"],
        }

    def preset(
        self, name: str, config: Mapping[str, Any], report: Answer, hub_token: str | None = None
    ) -> dict[str, Any]:
        """Return the values of a config with a preset filled in. Raises `EngineError`."""
        asked = {"op": "preset", "name": name, "config": config, "token": hub_token, **_known(report)}
        return dict(_last(self._ask(asked))["config"])

    def measuring(self, config: Mapping[str, Any], hub_token: str | None = None) -> Iterator[Answer]:
        """Yield `progress`, and at last the figures of three real steps (`train/measuring.py`). Raises `EngineError`.

        The engine's memory is what is measured, so ask one that was just started, and close it afterwards.
        """
        return self._ask({"op": "measure", "config": config, "token": hub_token})

    def full_check(self, config: Mapping[str, Any], hub_token: str | None = None) -> Answer:
        """Return the `complete` report of a check. Raises `EngineError`."""
        return self.complete(config, self.check(config, hub_token), hub_token)

    def check(self, config: Mapping[str, Any], hub_token: str | None = None) -> Answer:
        """Return the check's report with the figures of the X-ray as `xray`.

        When there can be none, the trainer could not encode the data either: that is a problem of the report.

        Raises `EngineError`.
        """
        report: Answer = self.look(config, hub_token)["report"]
        figures = None
        no_model = any(problem["kind"] == "model" for problem in report["problems"])
        if report["data"] and report["data"]["train_rows"] and not no_model:
            try:
                figures = self.xray(config, hub_token=hub_token)["figures"]
            except EngineError as exc:
                report["problems"].append(_problem(exc.report.what_happened, exc.report.what_to_do))
            else:
                if figures["rows"] == figures["zero_supervised_rows"]:
                    what = f"No answer begins before token {figures['max_length']}, so nothing could be learned."
                    report["problems"].append(_problem(what, "Raise training.max_length or shorten the questions."))
        ok = all(problem["severity"] != "error" for problem in report["problems"])
        return {**report, "ok": ok, "xray": figures}

    def _ask(self, question: Mapping[str, Any]) -> Iterator[Answer]:
        """Yield the answers to one question; leaving the iteration early cancels it. Raises `EngineError`."""
        with self._lock:
            engine = self._running()
        number, answers = engine.ask(question)
        ended = False
        try:
            while not ended:
                answer = engine.next_of(answers)
                ended = answer["event"] in ("end", "error")
                if answer["event"] == "error":
                    raise EngineError.reported(ErrorReport(**answer["report"]))
                yield answer
        finally:
            engine.forget(number, cancel=not ended)

    def _running(self) -> _Engine:
        """Return the live engine, starting one if there is none; the lock is held."""
        if self._engine is None or self._engine.process.poll() is not None:
            self._engine = _Engine(self._log, self._environment, self._folder)
        return self._engine


def _problem(what_happened: str, what_to_do: str, kind: str = "xray") -> Answer:
    told = {"message": what_happened, "fix": what_to_do}
    return {"severity": "error", "kind": kind, "row": None, "column": None, **told}


def _known(report: Answer) -> Answer:
    """Return what a report tells of the data: the X-ray's `figures`, and the `rows` to train on."""
    data = report["data"]
    return {"figures": report["xray"], "rows": data["expected"][0] if data else 1}


def _last(answers: Iterator[Answer]) -> Answer:
    *_, end = answers
    return end


class _Engine:
    """One process with the questions that wait for it."""

    def __init__(self, log: Path, environment: Mapping[str, str], folder: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[Answer]] = {}
        self._numbers = itertools.count(1)
        self._ended: Answer | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gemma_ft.engine"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
        threading.Thread(target=self._listen, name="engine", daemon=True).start()

    def ask(self, question: Mapping[str, Any]) -> tuple[int, queue.SimpleQueue[Answer]]:
        """Send a question; its answers come into the queue, also that the process has ended."""
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answers
            if self._ended is not None or not self._send({"id": number, **question}):
                answers.put(self._ended or self._report())
        return number, answers

    def next_of(self, answers: queue.SimpleQueue[Answer]) -> Answer:
        """Wait for the next answer to a question; a process that a signal has halted is ended, it would never come."""
        while True:
            try:
                return answers.get(timeout=HALTED_SECONDS)
            except queue.Empty:
                if self._is_halted():
                    self.process.kill()

    def _is_halted(self) -> bool:
        stopped = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        with suppress(ChildProcessError):  # It has ended.
            return os.waitid(os.P_PID, self.process.pid, stopped) is not None
        return False

    def forget(self, number: int, *, cancel: bool) -> None:
        """Expect no more answers to a question; `cancel` ends it in the engine too."""
        with self._lock:
            self._waiting.pop(number, None)
            if cancel and self._ended is None:
                self._send({"id": number, "op": "cancel"})

    def _send(self, request: Mapping[str, Any]) -> bool:
        """Write one request; returns whether the process could take it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def _listen(self) -> None:
        """Hand each answer to whoever asked; when the process ends, tell those who still wait."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        for line in self.process.stdout:
            if not line.endswith(b"\n"):
                break  # it died in the middle of an answer
            answer = json.loads(line)
            if waiting := self._waiting.get(answer["id"]):
                waiting.put(answer)
        self.process.wait()
        with self._lock:
            self._ended = self._report()
            self.process.stdout.close()
            with suppress(BrokenPipeError):  # what was still to be sent has nobody to read it
                self.process.stdin.close()
            for waiting in self._waiting.values():
                waiting.put(self._ended)

    def _report(self) -> Answer:
        lines = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        words = f" Its last words: {lines[-1][:300]}" if lines else ""
        report = {
            "kind": EngineError.kind,
            "title": "The model process ended",
            "what_happened": f"It ended with code {self.process.returncode}.{words}",
            "what_to_do": "Ask again; it is started anew. If a training was started meanwhile, wait until it is done.",
        }
        return {"event": "error", "report": report}
