"""What TensorBoard is shown of the runs: their event files, and nothing that only pretends to be one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gemma_ft import recipes
from gemma_ft.monitor.event_files import EventFiles
from gemma_ft.rundir import RunDir, create_run

NAME = "events.out.tfevents.1.host.2.0"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def files(runs: Path, tmp_path: Path) -> EventFiles:
    folder = tmp_path / "links"
    folder.mkdir()
    return EventFiles(runs, folder)


def new_run(runs: Path, name: str = NAME) -> RunDir:
    run = create_run(runs, recipes.try_it())
    run.tensorboard.mkdir()
    (run.tensorboard / name).write_bytes(b"curves")
    return run


def linked(files: EventFiles) -> dict[str, str]:
    """Return what can be read through the links, by path below their folder."""
    found = [path for path in files.folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(files.folder)): path.read_text() for path in found}


def test_each_run_is_a_folder_with_its_event_files_and_nothing_else(runs: Path, files: EventFiles) -> None:
    run = new_run(runs)
    (run.tensorboard / "projector_config.pbtxt").write_text("names other files")
    run.checkpoints.mkdir()
    (run.checkpoints / NAME).write_text("not a curve")
    files.renew()
    assert linked(files) == {f"{run.run_id}/{NAME}": "curves"}
    assert [path.name for path in files.folder.iterdir()] == [run.run_id]


def test_links_follow_runs_that_come_grow_and_go(runs: Path, files: EventFiles) -> None:
    files.renew()
    assert linked(files) == {}
    first, second = new_run(runs), new_run(runs)
    files.renew()
    assert linked(files).keys() == {f"{first.run_id}/{NAME}", f"{second.run_id}/{NAME}"}
    (first.tensorboard / f"{NAME}.resumed").write_text("more")
    shutil.rmtree(second.path)
    files.renew()
    assert linked(files) == {f"{first.run_id}/{NAME}": "curves", f"{first.run_id}/{NAME}.resumed": "more"}
    assert [path.name for path in files.folder.iterdir()] == [first.run_id]


def test_what_is_reached_by_a_symbolic_link_is_left_out(runs: Path, files: EventFiles, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    secret = elsewhere / NAME
    elsewhere.mkdir()
    secret.write_text("secret")
    by_file = new_run(runs)
    (by_file.tensorboard / f"{NAME}.linked").symlink_to(secret)
    by_folder = create_run(runs, recipes.try_it())
    by_folder.tensorboard.symlink_to(elsewhere)
    outside = new_run(tmp_path / "other runs")
    (runs / outside.run_id).symlink_to(outside.path)
    files.renew()
    assert linked(files) == {f"{by_file.run_id}/{NAME}": "curves"}


def test_a_file_that_becomes_a_link_later_is_dropped(runs: Path, files: EventFiles, tmp_path: Path) -> None:
    run = new_run(runs)
    files.renew()
    (tmp_path / "secret").write_text("secret")
    (run.tensorboard / NAME).unlink()
    (run.tensorboard / NAME).symlink_to(tmp_path / "secret")
    files.renew()
    assert linked(files) == {}


def test_a_pipe_that_nobody_writes_to_holds_nothing_up(runs: Path, files: EventFiles) -> None:
    run = new_run(runs)
    os.mkfifo(run.tensorboard / f"{NAME}.pipe")
    files.renew()
    assert linked(files) == {f"{run.run_id}/{NAME}": "curves"}


@pytest.mark.parametrize("name", ["..evil", "a,b:c", "<img src=x onerror=alert(1)>", "-rf", "with space", "ends\n"])
def test_folders_that_no_run_of_ours_is_called_are_left_out(runs: Path, files: EventFiles, name: str) -> None:
    run = new_run(runs)
    run.path.rename(runs / name)
    files.renew()
    assert linked(files) == {}


def test_runs_on_another_disk_by_one_link_are_seen(tmp_path: Path, files: EventFiles, runs: Path) -> None:
    run = new_run(tmp_path / "large disk")
    runs.symlink_to(tmp_path / "large disk")
    files.renew()
    assert linked(files) == {f"{run.run_id}/{NAME}": "curves"}
