"""The line of a log that says most, and the end that a person would read: logs as real processes leave them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gemma_ft.jobs.log_end import NEAREST_FRAMES, last_line, log_tail

LAUNCHER = """\
11:02:11 ERROR The training failed
Traceback (most recent call last):
  File "/app/gemma_ft/train/__main__.py", line 50, in main
    outcome, error = train(run, Progress(facts, control), control)
                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
RuntimeError: CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1

W1126 11:02:13.123000 710 torch/distributed/elastic/multiprocessing/api.py:1010] Closing process 712
E1126 11:02:13.456000 710 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: 1) local_rank: 0
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "/venv/lib/torch/distributed/launcher/api.py", line 300, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
gemma_ft.train FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-26_11:02:13
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 711)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""
CASES = {
    "nothing": ("", ""),
    "a step": ("11:00:00 INFO Training\n11:00:01 INFO Step 1 of 9: loss 2.1\n\n", "Step 1 of 9: loss 2.1"),
    "a progress bar": (
        "Loading\nModel shards:  50%|#####     | 1/2 [00:01<00:01]\rModel shards: 100%|##########| 2/2 [00:02<00:00]\n",
        "Loading",
    ),
    "a word over a bar": ("\r 10%|#   | 1/10 [00:00<00:01, 9.1it/s]\rKilled by hand\n", "Killed by hand"),
    "separators": ("The reason\n=====\n-----\n  \n", "The reason"),
    "an exception of several lines": (LAUNCHER.partition("\n\n")[0], "RuntimeError: CUDA error: device-side assert"),
    "a launcher": (LAUNCHER, "RuntimeError: CUDA error: device-side assert"),
    "a rank": (
        "[rank1]: Traceback (most recent call last):\n[rank1]:   File x\n[rank1]: ValueError: no\n",
        "ValueError",
    ),
    "survived": (
        "Traceback (most recent call last):\n  File x\nOSError: tried again\n11:00:02 INFO Step 2 of 9: loss 2.0\n",
        "Step 2 of 9",
    ),
    "a crash": (
        'Fatal Python error: Bus error\n\nCurrent thread 0x00007f10 (most recent call first):\n  File "x.py", line 1\n'
        "\nExtension modules: numpy._core, torch._C (total: 2)\n",
        "Fatal Python error: Bus error",
    ),
}


@pytest.mark.parametrize(("text", "said"), CASES.values(), ids=CASES.keys())
def test_the_line_that_says_most(tmp_path: Path, text: str, said: str) -> None:
    log = tmp_path / "output.log"
    log.write_text(text)
    found = last_line(log)
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("{}['missing']", "KeyError: 'missing'"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("print('doing this'); import os; os.kill(os.getpid(), 9)", "doing this"),
        ("import ctypes; ctypes.string_at(0)", "Fatal Python error: Segmentation fault"),
        (
            "try:\n  {}['a']\nexcept KeyError as e:\n  raise ValueError('told\\nin two lines') from e",
            "ValueError: told",
        ),
        ("raise SystemExit('no such folder')", "no such folder"),
    ],
)
def test_the_reason_of_a_real_process_is_found(tmp_path: Path, program: str, said: str) -> None:
    log = tmp_path / "output.log"
    with log.open("wb") as output:
        subprocess.run(
            [sys.executable, "-X", "faulthandler", "-u", "-c", program], stdout=output, stderr=output, check=False
        )
    assert last_line(log) == said
    assert said.rpartition(": ")[2] in log_tail(log)


def test_a_crash_that_is_deep_in_the_code_leaves_room_for_what_was_said_before_it(tmp_path: Path) -> None:
    deep = "import os\ndef f(n):\n  f(n - 1) if n else os.abort()\nprint('Building the model', flush=True)\nf(90)"
    log = tmp_path / "output.log"
    with log.open("wb") as output:
        program = [sys.executable, "-X", "faulthandler", "-c", f"import torch\n{deep}"]
        subprocess.run(program, stdout=output, stderr=output, check=False)
    assert log.stat().st_size > 2 * len(tail := log_tail(log))
    assert tail.startswith("Building the model")
    assert "Current thread" in tail
    assert tail.count("in f") == NEAREST_FRAMES


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none.log") == log_tail(tmp_path / "none.log") == ""


def test_the_tail_has_no_bars_and_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_log")
    log = tmp_path / "output.log"
    log.write_text("a line\nX:  50%|##  | 1/2\rX: 100%|####| 2/2\nbad header hf_secret_of_the_log\n" * 5000)
    tail = log_tail(log)
    assert len(tail) < 7000
    assert tail.endswith("bad header [secret]")
    assert "%|" not in tail
    assert "hf_secret" not in last_line(log)
