"""A large file costs time, not memory, and nothing in it is miscounted."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_MEGABYTES = 120
FILLER = "The ferry leaves at ten past six, before the tide has quite made up its mind — says Zoë. " * 4
BAD_EVERY, AGAIN_EVERY = 9_973, 5_003
SURVEY = """
import json, resource, sys
from pathlib import Path
from gemma_ft.config import DataConfig
from gemma_ft.data.prepare import survey

def peak_megabytes():
    # What getrusage says begins with the parent's peak on Linux, the kernel's own count of this process does not.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)

small, large = sys.argv[1:]
survey(DataConfig(source="file", path=small))
before = peak_megabytes()
found = survey(DataConfig(source="file", path=large))
print(json.dumps({
    "grown": peak_megabytes() - before, "rows": found.rows, "kept": found.kept, "counts": found.counts,
    "train": found.train_rows, "validation": found.validation_rows, "first": found.preview[0][-1]["content"],
    "problems": [[problem.row, problem.kind] for problem in found.problems],
}))
"""


def planted(number: int) -> str:
    """What is wrong with the row of this number, counted from 1."""
    if number % BAD_EVERY == 0:
        return "bad"
    return "again" if number % AGAIN_EVERY == 0 else ""


def row(number: int) -> tuple[str, str]:
    """A question and an answer; a planted copy repeats the row before."""
    number -= planted(number) == "again"
    return f"What does note {number} say?", f"{number}: {FILLER}"


def write_lines(path: Path, size: int) -> int:
    """Write JSON Lines of at least this many bytes; return the number of rows."""
    number = 0
    with path.open("w", encoding="utf-8") as file:
        while file.buffer.tell() < size:
            lines = []
            for number in range(number + 1, number + 1001):  # noqa: B020
                question, answer = row(number)
                line = json.dumps({"prompt": question, "completion": answer}, ensure_ascii=False)
                lines.append(line[:-1] if planted(number) == "bad" else line)
            file.write("\n".join(lines) + "\n")
            file.flush()
    return number


def write_table(path: Path, size: int) -> int:
    """Write a CSV of at least this many bytes; return the number of rows."""
    number = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "completion"])
        while file.buffer.tell() < size:
            for number in range(number + 1, number + 1001):  # noqa: B020
                table.writerow(row(number)[: 1 if planted(number) == "bad" else 2])
            file.flush()
    return number


def survey_in_a_child(tmp_path: Path, large: Path) -> dict[str, Any]:
    small = tmp_path / f"small{large.suffix}"
    small.write_text(
        "prompt,completion\na,b\nc,d\n" if large.suffix == ".csv" else '{"prompt": "a", "completion": "b"}\n' * 2
    )
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", SURVEY, str(small), str(large)], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert child.returncode == 0, child.stderr
    result: dict[str, Any] = json.loads(child.stdout)
    megabytes = large.stat().st_size / 1e6
    print(f"{large.name}: {megabytes:.0f} MB in {time.monotonic() - began:.1f} s, {result['grown']:.0f} MB more memory")
    return result


def assert_exact(result: dict[str, Any], rows: int, kind: str) -> None:
    bad = [number for number in range(1, rows + 1) if planted(number) == "bad"]
    again = [number for number in range(1, rows + 1) if planted(number) == "again"]
    assert bad
    assert again
    assert (result["rows"], result["kept"]) == (rows, rows - len(bad))
    assert result["counts"] == {kind: len(bad), "duplicate": len(again)}
    assert result["problems"] == [[n, kind] for n in bad[:20]] + [[n, "duplicate"] for n in again[:20]]
    assert result["train"] + result["validation"] == result["kept"]
    assert result["validation"] == pytest.approx(result["kept"] / 10, rel=0.01)
    assert result["first"] == f"1: {FILLER}"


@pytest.mark.parametrize("megabytes", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_json_lines_cost_no_memory(tmp_path: Path, megabytes: int) -> None:
    path = tmp_path / "large.jsonl"
    rows = write_lines(path, megabytes * 1_000_000)
    result = survey_in_a_child(tmp_path, path)
    assert_exact(result, rows, "not_json")
    assert result["grown"] < min(MOST_MEGABYTES, 2 * megabytes)


def test_a_table_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    rows = write_table(path, 20_000_000)
    result = survey_in_a_child(tmp_path, path)
    assert_exact(result, rows, "fields")
    assert result["grown"] < 40
