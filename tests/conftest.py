"""What many tests need: a home of their own, the demo model built once, waiting for a condition, and a real page."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import pytest
from filelock import FileLock

from gemma_ft import recipes
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.rundir import ACTIVE, RunDir, RunState
from gemma_ft.settings import Settings
from small_disk import SmallDisk, mounted

ROOT = Path(__file__).resolve().parents[1]
if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before PyTorch is imported, and passed on to the children: several trainings share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
BUILD_DEMO = """
import sys
from pathlib import Path
from gemma_ft.config import ModelConfig
from gemma_ft.train.resolve import resolve_model
resolve_model(ModelConfig(), Path(sys.argv[1]), enter=print, report=lambda done, total: None)
"""


def wait_until(condition: Callable[[], object], *, timeout: float = 60.0, what: str = "the condition") -> None:
    """Wait for something to become true; fail with its name when it does not."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.05)


def wait_for_end(manager: JobManager, run: RunDir, *, timeout: float = 240.0) -> RunState:
    """Wait until a run has ended and return its state."""
    wait_until(lambda: manager.state(run).status not in ACTIVE, timeout=timeout, what=f"the end of {run.run_id}")
    return manager.state(run)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that has a folder made by whoever needs it first of all processes that run tests, and returns it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (made := shared / f"{name}.made").exists():
                make(shared / name)
                made.touch()
        return shared / name

    return make_once


@pytest.fixture(scope="session")
def demo_models(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A `models` folder in which the demo model has been built, by a child process, once for all tests."""

    def build(models: Path) -> None:
        subprocess.run([sys.executable, "-c", BUILD_DEMO, str(models)], env=own_environment(), check=True, timeout=600)

    return made_once("models", build)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings with an empty home; whatever still runs in it afterwards is ended."""
    found = Settings(home=tmp_path / "home", port=free_port())
    yield found
    end_all_runs(found)


@pytest.fixture
def demo_settings(settings: Settings, demo_models: Path) -> Settings:
    """Settings whose home has the demo model already."""
    settings.home.mkdir(parents=True)
    settings.models.symlink_to(demo_models)
    return settings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 40 MB that can be filled and emptied."""
    with mounted(tmp_path / "disk", 40_000_000) as disk:
        yield disk


@pytest.fixture(scope="session")
def tuned_settings(
    made_once: Callable[[str, Callable[[Path], None]], Path],
    demo_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A home with one finished run, the Try it recipe; for tests that only look at it or talk to it.

    It is made once and copied, because two pages on one home would know of each other.
    """

    def tune(home: Path) -> None:
        settings = Settings(home=home)
        home.mkdir()
        settings.models.symlink_to(demo_models)
        manager = JobManager(settings)
        run = manager.start(recipes.try_it())
        state = wait_for_end(manager, run)
        assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"

    home = tmp_path_factory.mktemp("tuned") / "home"
    shutil.copytree(made_once("tuned", tune), home, symlinks=True)
    return Settings(home=home, port=free_port())


def end_all_runs(settings: Settings) -> None:
    """Kill what a test left behind, so that no process outlives it."""
    manager = JobManager(settings)
    for run in manager.runs():
        state = manager.state(run)
        for process in (state.supervisor, state.trainer):
            if state.status in ACTIVE and process is not None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class App:
    """The page as a process of its own."""

    settings: Settings
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def manager(self) -> JobManager:
        return JobManager(self.settings)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL, nothing cleaned up."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_app(demo_settings: Settings) -> Iterator[Callable[..., App]]:
    """A function that starts the page, on the test's home or on another; every page is ended afterwards."""
    started: list[App] = []

    def start(settings: Settings = demo_settings) -> App:
        environment = {
            **own_environment(),
            "GEMMA_FT_HOME": str(settings.home),
            "GRADIO_SERVER_PORT": str(settings.port),
        }
        with (settings.home / "app.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        app = App(settings, process)
        started.append(app)
        wait_until(lambda: process.poll() is not None or answers(app.url), what="the page to answer")
        assert process.poll() is None, (settings.home / "app.log").read_text()
        return app

    yield start
    for app in started:
        app.process.terminate()
        app.process.wait(20)


def answers(url: str) -> bool:
    """Tell whether a page answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status) == 200
    except (URLError, ConnectionError, TimeoutError):
        return False
