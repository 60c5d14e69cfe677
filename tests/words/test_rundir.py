"""The run folder: safe ids, states that are never torn, facts that survive crashes."""

from __future__ import annotations

import math
import multiprocessing
import time
from pathlib import Path

import pytest

from gemma_ft.config import RunConfig
from gemma_ft.errors import RunNotFound
from gemma_ft.events import FactWriter, read_facts
from gemma_ft.rundir import RunDir, RunState, create_run, list_runs, new_run_id, open_run, replace_file


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b", "  ", "émilie", "日本", "x" * 80, "$(rm -rf)", "a\nb", ".", "CON"]
)
def test_a_run_id_is_one_safe_folder_name_whatever_the_label(tmp_path: Path, name: str) -> None:
    run = create_run(tmp_path, RunConfig(name=name))
    assert run.path.parent == tmp_path
    assert run.run_id.replace("-", "").isalnum()
    assert run.config().name == name
    assert open_run(tmp_path, run.run_id) == run


def test_run_ids_are_unique_within_a_second() -> None:
    assert len({new_run_id(RunConfig()) for _ in range(50)}) > 45


@pytest.mark.parametrize("run_id", ["", "..", "../x", "/etc", "nope", ".hidden", "a/b"])
def test_an_id_that_is_no_run_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(RunNotFound):
        open_run(tmp_path, run_id)


def test_runs_are_listed_newest_first_and_other_folders_are_not_runs(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("20260101-000000-a-lora-0000", "20260102-000000-b-lora-0000"):
        run = RunDir(tmp_path / name)
        run.path.mkdir()
        run.write_state(RunState(created_at=0))
    assert [run.run_id[:8] for run in list_runs(tmp_path)] == ["20260102", "20260101"]
    assert list_runs(tmp_path / "missing") == []


def test_cancel_is_the_stronger_wish_and_wishes_can_be_cleared(tmp_path: Path) -> None:
    run = create_run(tmp_path, RunConfig())
    assert run.wished() is None
    run.wish("stop")
    run.wish("stop")
    assert run.wished() == "stop"
    run.wish("cancel")
    assert run.wished() == "cancel"
    run.clear_wishes()
    assert run.wished() is None


def write_states(path: str, count: int) -> None:
    run = RunDir(Path(path))
    for number in range(count):
        run.write_state(RunState(created_at=number, phase="x" * (number % 500)))


def test_a_state_that_is_being_replaced_is_never_read_torn(tmp_path: Path) -> None:
    run = create_run(tmp_path, RunConfig())
    writer = multiprocessing.get_context("spawn").Process(target=write_states, args=(str(run.path), 1500))
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(run.state().created_at)
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 5


def write_facts(path: str, count: int) -> None:
    writer = FactWriter(Path(path))
    for number in range(count):
        writer.append("step", step=number, text="é" * (number % 70))
    writer.close()


def test_facts_are_read_in_order_and_whole_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = multiprocessing.get_context("spawn").Process(target=write_facts, args=(str(path), 5000))
    writer.start()
    steps: list[int] = []
    offset = 0
    deadline = time.monotonic() + 60
    while len(steps) < 5000 and time.monotonic() < deadline:
        facts, offset = read_facts(path, offset)
        steps += [fact["step"] for fact in facts]
    writer.join()
    assert steps == list(range(5000))


def test_a_torn_line_is_skipped_and_never_joined_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_facts(str(path), 2)
    with path.open("ab") as file:
        file.write(b'{"t":1,"event":"st')
    assert len(read_facts(path)[0]) == 2
    write_facts(str(path), 1)
    assert [fact["step"] for fact in read_facts(path)[0]] == [0, 1, 0]


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = FactWriter(path)
    writer.append("step", loss=float("nan"), more=[float("inf"), {"x": -math.inf}])
    writer.close()
    (fact,), _ = read_facts(path)
    assert math.isnan(float(fact["loss"]))
    assert float(fact["more"][0]) == math.inf
    assert float(fact["more"][1]["x"]) == -math.inf


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path / "state.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
