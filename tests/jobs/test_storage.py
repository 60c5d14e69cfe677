"""Sizes of runs as the system tells them, and deletions that touch nothing else, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from conftest import ROOT, wait_for_end, wait_until
from gemma_ft.config import ModelConfig, RunConfig
from gemma_ft.errors import DiskError, RunBusy, RunNotFound
from gemma_ft.jobs import storage
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.storage import delete_checkpoints, delete_run, sweep
from gemma_ft.monitor.disk import disk_use, run_size, saved, spare_checkpoints
from gemma_ft.rundir import ACTIVE, RunDir, Status, create_run, list_runs
from gemma_ft.settings import Settings

MEGA = 1_000_000


@pytest.fixture
def manager(settings: Settings) -> JobManager:
    return JobManager(settings)


def make_run(manager: JobManager, status: Status = "finished", name: str = "one") -> RunDir:
    """A run with two checkpoints of 3 and 4 MB and a model of 2 MB."""
    run = create_run(manager.settings.runs, RunConfig(name=name))
    run.write_state(run.state().model_copy(update={"status": status}))
    for folder, size in (("checkpoints/checkpoint-5", 3), ("checkpoints/checkpoint-10", 4), ("model", 2)):
        (run.path / folder).mkdir(parents=True)
        (run.path / folder / "weights").write_bytes(os.urandom(size * MEGA))
    return run


def du(*folders: Path) -> int:
    """What the system's own program says, each file once."""
    done = subprocess.run(
        ["du", "--block-size=1", "--summarize", "--total", *map(str, folders)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout.split()[-2])


def test_sizes_are_those_of_the_disk_by_kind(manager: JobManager) -> None:
    run = make_run(manager)
    size = run_size(run)
    assert size.checkpoints == pytest.approx(7 * MEGA, rel=0.01)
    assert size.model == pytest.approx(2 * MEGA, rel=0.01)
    assert 0 < size.rest < 100_000
    folders = sum(1 for path in [run.path, *run.path.rglob("*")] if path.is_dir())
    assert size.total == pytest.approx(du(run.path), abs=folders * 8192)
    assert saved(run) == (10, 2)


def test_a_file_with_two_names_counts_once_and_what_is_shared_is_not_spare(manager: JobManager) -> None:
    parent, child = make_run(manager), make_run(manager, name="two")
    for shared in ("checkpoints/checkpoint-10/weights", "model/again"):
        (child.path / shared).unlink(missing_ok=True)
        (child.path / shared).hardlink_to(parent.checkpoints / "checkpoint-10" / "weights")
    assert run_size(child).total == pytest.approx(9 * MEGA, rel=0.02)
    use = disk_use(manager.settings.runs)
    assert use.total == pytest.approx(14 * MEGA, rel=0.02)
    assert [size.run_id for size in use.runs] == [run.run_id for run in manager.runs()]
    assert dict(spare_checkpoints(manager.settings.runs)) == {
        run.run_id: pytest.approx(3 * MEGA, rel=0.02) for run in (parent, child)
    }


def test_only_ended_runs_have_something_to_spare(manager: JobManager) -> None:
    ended, active = make_run(manager), make_run(manager, "training")
    assert [run_id for run_id, _ in spare_checkpoints(manager.settings.runs)] == [ended.run_id]
    assert spare_checkpoints(manager.settings.runs, apart_from=ended.run_id) == []
    assert active.checkpoints.is_dir()


def test_a_deleted_run_is_gone_and_no_other(manager: JobManager) -> None:
    gone, kept = make_run(manager), make_run(manager)
    assert delete_run(manager, gone.run_id) == pytest.approx(9 * MEGA, rel=0.02)
    assert list(manager.settings.runs.iterdir()) == [kept.path]
    with pytest.raises(RunNotFound):
        manager.open(gone.run_id)
    assert run_size(kept).total > 9 * MEGA


def test_without_its_checkpoints_a_run_keeps_all_the_rest(manager: JobManager) -> None:
    run = make_run(manager, "stopped")
    (run.path / ".writing" / "checkpoint-15").mkdir(parents=True)
    (run.path / ".writing" / "checkpoint-15" / "weights").write_bytes(os.urandom(MEGA))
    before = {path.name for path in run.path.iterdir()}
    assert delete_checkpoints(manager, run.run_id) == pytest.approx(8 * MEGA, rel=0.02)
    assert {path.name for path in run.path.iterdir()} == before - {"checkpoints", ".writing"}
    assert run_size(run).checkpoints == 0
    assert delete_checkpoints(manager, run.run_id) == 0


def test_a_run_that_waits_is_not_touched(manager: JobManager) -> None:
    run = make_run(manager, "queued")
    for delete in (delete_run, delete_checkpoints):
        with pytest.raises(RunBusy, match="Stop it first"):
            delete(manager, run.run_id)
    assert saved(run) == (10, 2)


def test_a_run_whose_model_is_loaded_is_not_touched(manager: JobManager) -> None:
    used, other = make_run(manager), make_run(manager)
    for delete in (delete_run, delete_checkpoints):
        with pytest.raises(RunBusy, match="in use"):
            delete(manager, used.run_id, in_use={used.run_id})
    delete_run(manager, other.run_id, in_use={used.run_id})
    assert manager.runs() == [used]


def test_a_real_run_is_not_touched_until_it_has_ended(settings: Settings) -> None:
    manager = JobManager(settings)
    run = manager.start(RunConfig())
    refused = 0
    wait_until(lambda: manager.state(run).phase.startswith("building"), timeout=120, what="the trainer at work")
    for delete in (delete_run, delete_checkpoints):
        with pytest.raises(RunBusy, match="Stop it first"):
            delete(manager, run.run_id)
    manager.stop(run.run_id, save=False)
    while manager.state(run).status in ACTIVE:
        try:
            delete_run(manager, run.run_id)
        except RunBusy:
            refused += 1
        else:
            break
    assert refused
    if run.path.exists():
        delete_run(manager, run.run_id)
    assert manager.runs() == []
    failed = manager.start(RunConfig(model=ModelConfig(id="/no/such/folder")))
    assert wait_for_end(manager, failed, timeout=60).status == "failed"


@pytest.mark.parametrize("run_id", ["..", "../runs", ".", "", "/tmp", "a/../../b", ".deleted-x"])
def test_an_id_cannot_lead_out_of_the_folder(manager: JobManager, run_id: str) -> None:
    make_run(manager)
    for delete in (delete_run, delete_checkpoints):
        with pytest.raises(RunNotFound):
            delete(manager, run_id)
    assert len(manager.runs()) == 1


def test_links_are_not_followed(manager: JobManager, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(os.urandom(MEGA))
    run = make_run(manager)
    (run.path / "link").symlink_to(outside)
    (run.checkpoints / "checkpoint-5" / "link").symlink_to(outside / "precious")
    assert run_size(run).total == pytest.approx(9 * MEGA, rel=0.02)
    delete_checkpoints(manager, run.run_id)
    run.checkpoints.symlink_to(outside)
    with pytest.raises(DiskError, match="is a link"):
        delete_checkpoints(manager, run.run_id)
    delete_run(manager, run.run_id)
    assert not run.path.exists()
    assert (outside / "precious").stat().st_size == MEGA


DELETE = """
import shutil, sys
from pathlib import Path
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.storage import delete_run
from gemma_ft.settings import Settings
delete_run(JobManager(Settings(home=Path(sys.argv[1]))), sys.argv[2])
"""


def test_a_deletion_that_is_killed_leaves_no_half_run_and_is_swept(manager: JobManager) -> None:
    run, kept = make_run(manager), make_run(manager)
    for number in range(60_000):
        (run.model / str(number)).touch()
    command = [sys.executable, "-c", DELETE, str(manager.settings.home), run.run_id]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_until(lambda: not run.path.exists() or child.poll() is not None, what="the folder to be renamed")
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert list_runs(manager.settings.runs) == [kept]
    (left,) = manager.settings.runs.glob(".deleted-*")
    assert left.is_dir()
    cut_off = kept.path / f"{storage.DELETED}x"
    cut_off.mkdir()
    assert sweep(manager.settings.runs) == 2
    assert list(manager.settings.runs.iterdir()) == [kept.path]
    assert not cut_off.exists()
    assert sweep(manager.settings.runs) == 0


def test_nothing_is_deleted_while_a_run_is_being_started(manager: JobManager, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(manager)
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.1)
    with FileLock(manager.settings.home / "start.lock"), pytest.raises(RunBusy, match="being started"):
        delete_run(manager, run.run_id)
    assert saved(run) == (10, 2)
