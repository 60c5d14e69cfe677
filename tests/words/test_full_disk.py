"""Small files on a full disk: facts wait, samples are left out, a state is replaced whole or not at all, and output
ends no process. And a torn last line in each file that is only appended to."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT, wait_until
from gemma_ft.config import RunConfig
from gemma_ft.errors import DiskError
from gemma_ft.events import FactWriter, read_facts
from gemma_ft.full_disk import is_full_disk
from gemma_ft.jobs.room import require_room
from gemma_ft.monitor.disk import disk_warning, how_full
from gemma_ft.monitor.log import read_log
from gemma_ft.rundir import RunDir, create_run, list_runs
from gemma_ft.settings import Settings
from small_disk import SmallDisk

TEXT = "x" * 700


def steps(path: Path) -> list[int]:
    return [fact["step"] for fact in read_facts(path)[0] if fact["event"] == "step"]


def append_steps(writer: FactWriter, first: int, beyond: int) -> None:
    for step in range(first, beyond):
        writer.append("step", step=step, text=TEXT)


@pytest.mark.parametrize("leave", [0, 4096, 20_000])
def test_facts_that_find_no_room_follow_in_order_once_there_is_some(small_disk: SmallDisk, leave: int) -> None:
    path = small_disk.path / "events.jsonl"
    writer = FactWriter(path)
    append_steps(writer, 0, 3)
    small_disk.fill(leave=leave)
    append_steps(writer, 3, 100)
    on_disk = steps(path)
    assert 3 <= len(on_disk) < 100
    assert not writer.write_held()
    small_disk.empty()
    append_steps(writer, 100, 101)
    assert steps(path) == list(range(101))
    assert writer.write_held()


def test_a_line_that_was_torn_by_a_full_disk_is_closed_and_written_again(small_disk: SmallDisk) -> None:
    path = small_disk.path / "events.jsonl"
    writer = FactWriter(path)
    small_disk.fill(leave=4096)
    append_steps(writer, 0, 20)
    torn = path.read_bytes()
    assert not torn.endswith(b"\n"), "the full disk has torn no line"
    seen, offset = read_facts(path)
    small_disk.empty()
    append_steps(writer, 20, 21)
    later, _ = read_facts(path, offset)
    assert [fact["step"] for fact in seen + later] == list(range(21))
    assert path.read_bytes().startswith(torn + b"\n")


def test_the_first_fact_of_all_may_find_the_disk_full(small_disk: SmallDisk) -> None:
    folder = small_disk.path / "run"
    folder.mkdir()
    small_disk.fill()
    writer = FactWriter(folder / "events.jsonl")
    writer.append("result", sync=True, outcome="finished")
    small_disk.empty()
    writer.close()
    assert [fact["outcome"] for fact in read_facts(folder / "events.jsonl")[0]] == ["finished"]


def test_what_waits_is_bounded_and_what_is_dropped_is_told(small_disk: SmallDisk) -> None:
    path = small_disk.path / "events.jsonl"
    writer = FactWriter(path, held_bytes=10_000)
    small_disk.fill()
    append_steps(writer, 0, 100)
    small_disk.empty()
    append_steps(writer, 100, 101)
    kept = steps(path)
    assert 10 <= len(kept) <= 14
    assert kept == list(range(101 - len(kept), 101))
    assert f"{101 - len(kept)} facts before this one are missing" in read_facts(path)[0][0]["message"]


def test_samples_of_the_machine_are_left_out_while_the_disk_is_full(small_disk: SmallDisk) -> None:
    path = small_disk.path / "system.jsonl"
    writer = FactWriter(path, held_bytes=0)
    append_steps(writer, 0, 2)
    small_disk.fill()
    append_steps(writer, 2, 50)
    small_disk.empty()
    append_steps(writer, 50, 52)
    assert steps(path)[:2] == [0, 1]
    assert steps(path)[-2:] == [50, 51]
    assert len(steps(path)) < 20


def test_another_failure_than_a_full_disk_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        FactWriter(tmp_path)
    assert not is_full_disk(OSError(errno.EIO, os.strerror(errno.EIO)))


def test_a_state_that_cannot_be_written_leaves_the_old_one_and_nothing_else(small_disk: SmallDisk) -> None:
    run = create_run(small_disk.path, RunConfig())
    before = run.state()
    small_disk.fill()
    with pytest.raises(OSError, match="No space left"):
        run.write_state(before.model_copy(update={"last_line": TEXT * 10}))
    assert run.state() == before
    assert list(run.path.glob(".state*")) == []
    small_disk.empty()
    run.write_state(before.model_copy(update={"phase": "training"}))
    assert run.state().phase == "training"


CHATTER = """
import logging, sys
from pathlib import Path
from gemma_ft.redaction import redact_output
redact_output(sys.argv[2] or None)
logging.basicConfig(level=logging.INFO, format="%(message)s")
go_on = Path(sys.argv[1])
print("begin"), sys.stdout.flush()
number = 0
while not go_on.exists():
    number += 1
    print("print", number, "x" * 50)
    logging.info("log %d %s", number, "x" * 50)
print("end")
"""


@pytest.mark.parametrize("secret", ["", "hf_secret"])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_ends_no_process_that_prints(
    small_disk: SmallDisk, tmp_path: Path, secret: str, buffered: bool
) -> None:
    log, go_on = small_disk.path / "output.log", tmp_path / "go on"
    small_disk.fill(leave=100_000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({} if buffered else {"PYTHONUNBUFFERED": "1"})
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", CHATTER, str(go_on), secret], stdout=output, stderr=output, env=environment
        )
    try:
        wait_until(lambda: small_disk.free == 0 or child.poll() is not None, what="a full disk")
        assert child.poll() is None
        small_disk.empty()
        grown = log.stat().st_size + 10_000
        wait_until(lambda: log.stat().st_size > grown or child.poll() is not None, what="the log to go on")
    finally:
        go_on.touch()
        assert child.wait(30) == 0
    text = log.read_text()
    assert "[Lines are missing here: the disk was full.]\n" in text
    assert text.endswith("end\n")


def append_fact(run: RunDir) -> list[str]:
    writer = FactWriter(run.events)
    writer.append("step", step=2)
    return [str(fact["step"]) for fact in read_facts(run.events)[0]]


def append_sample(run: RunDir) -> list[str]:
    writer = FactWriter(run.system, held_bytes=0)
    writer.append("sample", step=2)
    return [str(fact["step"]) for fact in read_facts(run.system)[0]]


def append_line(run: RunDir) -> list[str]:
    text, offset = read_log(run.log)
    with run.log.open("ab") as file:
        file.write(b"er\n2\n")
    return [*text.split(), *read_log(run.log, offset)[0].split()]


@pytest.mark.parametrize(
    ("name", "torn", "go_on", "found"),
    [
        ("events.jsonl", b'{"step":1}\n{"step":', append_fact, ["1", "2"]),
        ("system.jsonl", b'{"step":1}\n{"step":', append_sample, ["1", "2"]),
        ("output.log", b"1\noth", append_line, ["1", "other", "2"]),
    ],
)
def test_a_torn_last_line_is_never_read_and_spoils_no_other(
    tmp_path: Path, name: str, torn: bytes, go_on: Callable[[RunDir], list[str]], found: list[str]
) -> None:
    run = create_run(tmp_path, RunConfig())
    (run.path / name).write_bytes(torn)
    assert go_on(run) == found


def test_a_start_on_a_full_disk_is_refused_and_says_what_could_go(small_disk: SmallDisk) -> None:
    settings = Settings(home=small_disk.path / "home")
    old = create_run(settings.runs, RunConfig(name="old"))
    old.write_state(old.state().model_copy(update={"status": "finished"}))
    checkpoint = old.checkpoints / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes(3_000_000))
    assert how_full(settings.runs) == "low"
    require_room(settings, RunConfig())
    small_disk.fill(leave=500_000)
    assert how_full(settings.runs) == "full"
    assert "waits where it has to save" in disk_warning(settings.runs)
    with pytest.raises(DiskError, match=f"are free.*{old.run_id} .3.0 MB") as refused:
        require_room(settings, RunConfig())
    assert refused.value.report.kind == "disk"
    assert [run.run_id for run in list_runs(settings.runs)] == [old.run_id]
