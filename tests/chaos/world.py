"""A home with a page, a local Hub and a run in it, and a look at what goes on there, for the cases.

Promises to look only: states and facts are read from the files and never concluded here, so that what a case finds is
the doing of the product's own processes. Everything that is started here is ended by `close`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
from gradio_client import Client

from chaos.faults import small_disk
from conftest import BUILD_DEMO, ROOT, answers, free_port
from gemma_ft.config import DataConfig, EvaluationConfig, MethodConfig, PublishConfig, RunConfig, TrainingConfig
from gemma_ft.events import Fact, read_facts
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.rundir import RunDir
from hub_server import HubServer

STEPS, SAVE_EVERY, EVAL_EVERY = 14, 3, 4
OWNER, TOKEN = "tester", "hf_chaos"
DISK_MEGABYTES = 400
PATIENCE = 240.0
"""Seconds for what takes one on a machine with nothing else to do."""
POLL_SECONDS = 0.002
MODULES = {"gemma_ft.jobs.supervisor": "supervisor", "gemma_ft.train": "trainer", "gemma_ft.engine": "engine"}


class Broken(AssertionError):
    """Something that was promised does not hold."""


def tiny_run(repo: str | None) -> RunConfig:
    """Return a run that trains for a second and has everything: dropout, accumulation, evaluations, samples."""
    return RunConfig(
        name="chaos",
        data=DataConfig(source="example", id="capitals", validation_fraction=0.3, max_rows=60),
        method=MethodConfig(rank=4, alpha=8, dropout=0.1),
        training=TrainingConfig(
            max_steps=STEPS,
            learning_rate=5e-3,
            schedule="constant",
            batch_size=2,
            accumulation=2,
            max_length=64,
            eval_every=EVAL_EVERY,
            save_every=SAVE_EVERY,
        ),
        evaluation=EvaluationConfig(prompts=("What is the capital of France?",), max_new_tokens=4),
        publish=PublishConfig(repo=repo),
    )


def build_models(folder: Path) -> Path:
    """Build the demo model once, for all worlds."""
    subprocess.run([sys.executable, "-c", BUILD_DEMO, str(folder)], env=own_environment(), check=True, timeout=900)
    return folder


def until(condition: Callable[[], object], what: str, *, timeout: float = PATIENCE, every: float = 0.05) -> float:
    """Wait for something to become true and return how long it took. Raises `Broken`."""
    began, pause = time.monotonic(), threading.Event()
    while not condition():
        if time.monotonic() - began > timeout:
            raise Broken(f"waited {timeout:.0f} s in vain for {what}")
        pause.wait(every)
    return time.monotonic() - began


class Page:
    """A served page, as a program and a browser ask it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._client: Client | None = None

    def ask(self, name: str, *arguments: Any, timeout: float = 60.0) -> Any:
        """Call an endpoint. Raises `Broken` when there is no answer in time, and the page's own errors."""
        if self._client is None:
            self._client = Client(self.url, verbose=False, analytics_enabled=False)
        try:
            return self._client.submit(*arguments, api_name=f"/{name}").result(timeout)
        except NotInTime as exc:
            raise Broken(f"the page did not answer /{name} within {timeout:.0f} s") from exc

    def view(self, run: RunDir) -> dict[str, Any]:
        """Return what the dashboard shows of a run."""
        components = httpx.get(f"{self.url}/config", timeout=30).json()["components"]
        screen = next(part["id"] for part in components if part["props"].get("elem_id") == "dashboard")
        asked = {"session_hash": "chaos", "component_id": screen, "fn_name": "poll", "data": {"run": run.run_id}}
        answer = httpx.post(f"{self.url}/gradio_api/component_server", json=asked, timeout=30)
        answer.raise_for_status()
        return dict(answer.json()["view"])


class World:
    """One home, and at most one page that serves it; `auto` lets that resume interrupted runs by itself."""

    def __init__(self, home: Path, models: Path, hub: HubServer, *, auto: bool) -> None:
        self.home, self.auto, self.hub = home, auto, hub
        self.port = free_port()
        self.app: subprocess.Popen[bytes] | None = None
        self.finished: dict[str, str] = {}
        self.page = Page(self.port)
        self._stack = ExitStack()
        self.disk_is_small = self._stack.enter_context(small_disk(home, DISK_MEGABYTES))
        (home / "models").symlink_to(models)
        hub.add_user(OWNER, TOKEN)

    def environment(self) -> dict[str, str]:
        """Return what the page's process knows: one thread, so that two runs give the same weights bit by bit."""
        return {
            **own_environment(hub_token=TOKEN),
            **self.hub.environment(),
            "HF_HOME": str(self.home / "hf"),
            "GEMMA_FT_HOME": str(self.home),
            "GEMMA_FT_AUTO_RESUME": "1" if self.auto else "",
            "GRADIO_SERVER_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }

    def start_app(self) -> None:
        """Start the page, unless it runs, and wait until it answers."""
        if self.app is not None and self.app.poll() is None:
            return
        self.app = self.spawn_app(self.port)
        until(lambda: answers(self.page.url) or self.app is None or self.app.poll() is not None, "the page")
        if self.app.poll() is not None:
            raise Broken(f"the page did not start: {(self.home / 'app.log').read_text()[-2000:]}")
        self.page = Page(self.port)

    def spawn_app(self, port: int) -> subprocess.Popen[bytes]:
        """Start a page on this home and return at once."""
        environment = self.environment() | {"GRADIO_SERVER_PORT": str(port)}
        with (self.home / "app.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)

    def reap_app(self) -> None:
        """Take leave of a page that was killed."""
        if self.app is not None:
            self.app.wait(30)
            self.app = None

    def ask(self, name: str, *arguments: Any, timeout: float = 60.0) -> Any:
        """Ask the page of this home; see `Page.ask`."""
        return self.page.ask(name, *arguments, timeout=timeout)

    def start_run(self, repo: str | None) -> RunDir:
        """Start the tiny run through the page."""
        run_id = self.ask("start_run", tiny_run(repo).model_dump(mode="json"))
        return RunDir(self.home / "runs" / run_id)

    def processes(self) -> dict[int, str]:
        """Return the living processes of this home and what each is: app, supervisor, trainer, engine or other."""
        found = {}
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("GEMMA_FT_HOME") == str(self.home)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = _role(process.cmdline())
            except psutil.Error:
                continue
        return found

    def close(self) -> list[str]:
        """End everything and return what had to be killed that should have left with the page by itself."""
        if self.app is not None and self.app.poll() is None:
            self.app.terminate()
            self.app.wait(60)
        try:
            until(lambda: not self.processes(), "the last process", timeout=20)
        except Broken:
            left = self.processes()
        else:
            left = {}
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self._stack.close()
        return [f"{role} {pid}" for pid, role in left.items()]


def _role(command: list[str]) -> str:
    if "app.py" in command:
        return "app"
    module = next((word for word in command if word in MODULES), "")
    return MODULES.get(module, "other")


class Follower:
    """Reads the facts of one run as they come and tells whether it is in a phase."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.facts: list[Fact] = []
        self._offset = 0
        self._reached, self._trainings = 0, 0

    def read(self) -> list[Fact]:
        """Return all facts so far."""
        new, self._offset = read_facts(self.run.events, self._offset)
        self.facts += new
        return self.facts

    def is_in(self, phase: str) -> bool:
        """Tell whether the run is in this very moment in a phase of a case."""
        if phase == "queued":
            return self.run.state().status == "queued"
        if phase == "checkpoint":
            return any((self.run.path / ".writing").glob("checkpoint-*"))
        facts = self.read()
        said = next((str(fact["phase"]) for fact in reversed(facts) if fact.get("event") == "phase"), "")
        if phase == "preparing":
            return self.run.state().status == "preparing" and said not in ("tokenising the data", "training")
        if phase == "tokenising":
            return said == "tokenising the data"
        if phase == "saving":
            return said == "saving the model" and not self.run.model.exists()
        if phase == "pushing":
            return said == "publishing" and facts[-1].get("event") == "phase"
        return said == "training" and (phase == "training" or _evaluates(facts))

    def mark(self) -> None:
        """Remember how far the run has come, now that something has happened to it."""
        self._reached = max((int(fact["step"]) for fact in self.read() if fact.get("event") == "step"), default=0)

    def mark_files(self) -> None:
        """Remember what of that is still on record, now that something has happened to the files."""
        self._trainings = len(_trainings(read_facts(self.run.events)[0]))

    def lost(self) -> int:
        """Return how many of the steps that were made by then had to be made again."""
        facts, _ = read_facts(self.run.events)
        again = _trainings(facts)[self._trainings :]
        return max(0, self._reached - again[0]) if again else 0


def _evaluates(facts: list[Fact]) -> bool:
    """Tell whether a step was made after which there is an evaluation that has not ended."""
    last = facts[-1]
    due = last.get("event") == "step" and (last["step"] % EVAL_EVERY == 0 or last["step"] == STEPS)
    return bool(due)


def _trainings(facts: list[Fact]) -> list[int]:
    """Return the steps from which the run was trained on, once for each attempt that came so far."""
    return [int(fact["step"]) for fact in facts if fact.get("event") == "phase" and "step" in fact]
