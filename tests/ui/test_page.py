"""How the page starts and rests: quickly and quietly, and without changing what it borrows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gradio
import pytest

from conftest import ROOT, free_port
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.settings import Settings
from gemma_ft.ui.page import QUEUE_SECONDS, build_page
from gemma_ft.ui.services import Services

COUNTED = """
import pathlib, inspect
genuine, written = inspect.getfile, []
read = pathlib.Path.read_text

def counting(path, *args, **kwargs):
    if path.suffix in (".py", ".pyi") and "gradio" in path.parts:
        written.append(path.name)
    return read(path, *args, **kwargs)

pathlib.Path.read_text = counting
import {module}
import gradio
assert inspect.getfile is genuine
print(len(written))
"""


@pytest.mark.parametrize(("module", "read"), [("gradio", True), ("gemma_ft.ui.page", False)])
def test_importing_the_page_makes_no_stubs_of_gradio(module: str, read: bool) -> None:
    code = COUNTED.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=own_environment(), capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) > 50) == read
    assert read or int(done.stdout) == 0


def test_the_queue_looks_a_hundred_times_a_second_at_most(tmp_path: Path) -> None:
    page = build_page(Services(Settings(home=tmp_path, port=free_port())))
    assert page._queue.sleep_when_free == QUEUE_SECONDS
    assert gradio.Blocks()._queue.sleep_when_free < QUEUE_SECONDS
