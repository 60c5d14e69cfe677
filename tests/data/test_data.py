"""Rows become conversations or problems that name the row, the column and the remedy; splits never leak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.config import DataConfig
from gemma_ft.data.prepare import prepare, split
from gemma_ft.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def conversation(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "completion": f"answer {number}"}


def file_with(tmp_path: Path, rows: list[Any], name: str = "rows.jsonl") -> DataConfig:
    path = tmp_path / name
    text = json.dumps(rows, indent=1) if name.endswith(".json") else "\n".join(json.dumps(row) for row in rows)
    path.write_text(text, encoding="utf-8")
    return DataConfig(source="file", path=str(path))


def test_the_bundled_example_is_sound() -> None:
    data = prepare(DataConfig())
    assert data.format == "messages"
    assert data.problems == []
    assert 50 <= data.rows <= 200
    assert data.kept == data.rows


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_reads_arrays_and_lines(tmp_path: Path, name: str) -> None:
    data = prepare(file_with(tmp_path, [conversation(n) for n in range(10)], name))
    assert (data.format, data.kept) == ("prompt_completion", 10)
    turns = data.train[0]
    assert [turn["role"] for turn in turns] == ["user", "assistant"]


def test_reads_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(json.dumps(conversation(n)) for n in range(3)).encode())
    assert prepare(DataConfig(source="file", path=str(path))).kept == 3


def test_line_separators_inside_a_text_do_not_end_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"q{n}\u2028\x85", "completion": "a\u2029b"} for n in range(3)]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8", newline="")
    assert prepare(DataConfig(source="file", path=str(path))).kept == 3


def test_columns_are_mapped(tmp_path: Path) -> None:
    rows = [{"q": f"q{n}", "a": f"a{n}"} for n in range(4)]
    mapped = file_with(tmp_path, rows).model_copy(update={"columns": {"prompt": "q", "completion": "a"}})
    assert prepare(mapped).kept == 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, "no assistant's answer"),
        ({"messages": "hello"}, "not a list of messages"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no assistant's answer"),
        ({"messages": [{"role": "robot", "content": "q"}]}, "'robot'"),
        ({"messages": [*GOOD["messages"], {"role": "assistant", "content": "b"}]}, "do not alternate"),
        ({"messages": [{"role": "user", "content": 5}, GOOD["messages"][1]]}, "int"),
        ({"messages": [{"role": "user", "content": " "}, GOOD["messages"][1]]}, "empty"),
        ({"other": 1}, "missing"),
    ],
)
def test_a_bad_row_is_named_with_its_number_and_what_is_wrong(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare(file_with(tmp_path, [GOOD, row]))
    assert "Row 2" in str(caught.value)
    assert said in str(caught.value)


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    rows = [*(conversation(n) for n in range(5)), {"prompt": "", "completion": "x"}, {"prompt": "y"}]
    data = prepare(file_with(tmp_path, rows).model_copy(update={"drop_bad_rows": True}))
    assert (data.rows, data.kept) == (7, 5)
    assert [(problem.row, problem.kind) for problem in data.problems] == [(6, "empty_text"), (7, "missing_column")]


def test_when_every_row_is_bad_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepare(file_with(tmp_path, [{"prompt": "", "completion": ""}]).model_copy(update={"drop_bad_rows": True}))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", b"{not json}", "Line 1"),
        ("rows.jsonl", b'{"prompt": "a", "completion": "b"}\n[1]', "Line 2"),
        ("rows.json", b'{"a": 1}', "not an array"),
        ("rows.json", b"[1]", "Row 1"),
        ("rows.jsonl", b"", "no rows"),
        ("rows.jsonl", b"\xff\xfe\x00", "UTF-8"),
        ("rows.txt", b"x", ".jsonl"),
        ("rows.json", b"[" * 100_000, "not valid JSON"),
        ("rows.jsonl", b'{"x": 1}', "fit no known format"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        prepare(DataConfig(source="file", path=str(path)))


def test_a_missing_file_and_an_unknown_example_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        prepare(DataConfig(source="file", path=str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match="capitals"):
        prepare(DataConfig(source="example", id="nothing"))


def test_equal_rows_never_stand_on_both_sides(tmp_path: Path) -> None:
    rows = [conversation(n % 10) for n in range(100)]
    data = prepare(file_with(tmp_path, rows))
    held_out = {turns[0]["content"] for turns in data.validation}
    assert held_out
    assert held_out.isdisjoint(turns[0]["content"] for turns in data.train)


def test_max_rows_and_no_validation_are_kept_to() -> None:
    conversations = [[{"role": "user", "content": str(n)}, {"role": "assistant", "content": "a"}] for n in range(20)]
    train, validation = split(conversations, DataConfig(max_rows=8, validation_fraction=0))
    assert (len(train), len(validation)) == (8, 0)
    train, validation = split(conversations, DataConfig(max_rows=8, validation_fraction=0.25, shuffle=False))
    assert (len(train), len(validation)) == (6, 2)
    assert train == conversations[:6]


def test_the_split_is_the_same_in_another_process() -> None:
    imports = "from gemma_ft.config import DataConfig; from gemma_ft.data.prepare import prepare"
    code = f"{imports}; print(prepare(DataConfig()))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
