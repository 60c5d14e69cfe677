"""The page served by a small program of a test's own, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import ROOT, App, answers, end_all_runs, wait_until
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.settings import Settings

AS_IT_IS = "import app; app.main()"


@contextmanager
def served(settings: Settings, code: str = AS_IT_IS, **environment: str) -> Iterator[App]:
    """Serve the page until the block ends; what is given more goes to its environment."""
    settings.home.mkdir(exist_ok=True, parents=True)
    given = {"GEMMA_FT_HOME": str(settings.home), "GRADIO_SERVER_PORT": str(settings.port)}
    with (settings.home / "app.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**own_environment(), **given, **environment},
            stdout=log,
            stderr=log,
        )
    app = App(settings, process)
    try:
        wait_until(lambda: process.poll() is not None or answers(app.url), what="the page to answer", timeout=120)
        assert process.poll() is None, (settings.home / "app.log").read_text()
        yield app
    finally:
        process.terminate()
        process.wait(20)
        end_all_runs(settings)
