"""`disk` and `delete` in a terminal: nothing goes without a yes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from gemma_ft.config import RunConfig
from gemma_ft.rundir import RunDir, Status, create_run
from gemma_ft.settings import Settings


def environment(settings: Settings) -> dict[str, str]:
    return {"GEMMA_FT_HOME": str(settings.home), "PATH": "/usr/bin:/bin", "HOME": str(settings.home)}


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemma_ft", *arguments],
        cwd=ROOT,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def typed(settings: Settings, answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal where somebody types an answer; return its exit code and what was asked."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "gemma_ft", *arguments],
        cwd=ROOT,
        env=environment(settings),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    said, _ = child.communicate(timeout=300)
    os.close(theirs)
    os.close(ours)
    return child.returncode, said


def make_run(settings: Settings, status: Status = "finished") -> RunDir:
    run = create_run(settings.runs, RunConfig())
    run.write_state(run.state().model_copy(update={"status": status}))
    for folder in ("checkpoints/checkpoint-7", "model"):
        (run.path / folder).mkdir(parents=True)
        (run.path / folder / "weights").write_bytes(bytes(3_000_000))
    return run


def test_disk_lists_what_the_runs_take(settings: Settings) -> None:
    assert "in 0 runs" in command(settings, "disk").stdout
    run = make_run(settings)
    shown = command(settings, "disk")
    assert shown.returncode == 0
    assert run.run_id in shown.stdout
    assert shown.stdout.count("3.0 MB") == 2
    found = json.loads(command(settings, "disk", "--json").stdout)
    (listed,) = found["runs"]
    assert (listed["run_id"], listed["status"]) == (run.run_id, "finished")
    assert listed["checkpoints"] + listed["model"] + listed["rest"] == listed["total"] == found["total"]
    assert found["free"] > 0


@pytest.mark.parametrize("more", [[], ["--checkpoints"]])
def test_without_a_terminal_nothing_is_deleted_unless_it_is_said_to_be_sure(
    settings: Settings, more: list[str]
) -> None:
    run = make_run(settings)
    refused = command(settings, "delete", run.run_id, *more)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert run.checkpoints.exists()
    done = command(settings, "delete", run.run_id, *more, "--yes")
    assert done.returncode == 0, done.stderr
    assert not run.checkpoints.exists()
    assert run.model.exists() == bool(more)


def test_a_terminal_asks_and_only_a_yes_deletes(settings: Settings) -> None:
    run = make_run(settings, "stopped")
    for answer in ("n", ""):
        code, said = typed(settings, answer, "delete", run.run_id, "--checkpoints")
        assert code == 1
        assert "only be resumed from the start" in said
        assert run.checkpoints.exists()
    code, said = typed(settings, "y", "delete", run.run_id)
    assert code == 0, said
    assert "with its model" in said
    assert not run.path.exists()


def test_what_cannot_be_deleted_is_told(settings: Settings, tmp_path: Path) -> None:
    active = make_run(settings, "queued")
    busy = command(settings, "delete", active.run_id, "--yes")
    assert (busy.returncode, "Stop it first" in busy.stderr) == (1, True)
    missing = command(settings, "delete", "../runs", "--yes")
    assert (missing.returncode, "There is no run" in missing.stderr) == (2, True)
    assert active.model.exists()
