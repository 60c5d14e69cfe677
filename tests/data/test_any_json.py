"""Whatever a file holds, a survey is a survey or a refusal in words, never another error, and its sums are right."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from gemma_ft.config import DataConfig
from gemma_ft.data.prepare import Survey, prepare, survey
from gemma_ft.errors import DataError

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")
WARNINGS = {"duplicate", "in_both"}
LONGEST_SAID = 2_000
FEW = settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)

KNOWN = (
    *("messages", "conversations", "contents", "systemInstruction", "system", "tools"),
    *("instruction", "input", "output", "context", "response"),
    *("prompt", "completion", "question", "answer", "answers", "q", "a", "query"),
    *("text", "source", "target", "src", "dst", "translation"),
    *("chosen", "rejected", "preferred_output", "non_preferred_output"),
)
TURN_KEYS = (
    "role",
    "content",
    "from",
    "value",
    "parts",
    "text",
    "weight",
    "tool_calls",
    "function_call",
    "tool_call_id",
)
ROLES = ("user", "assistant", "system", "human", "gpt", "model", "tool", "developer", "function", "User", "", "robot")
SURROGATES = st.text(st.characters(codec=None), max_size=8)
STRINGS = st.one_of(
    st.sampled_from(
        ["hello", "Grüße 🌍", " ", "", "\n\nHuman: a\n\nAssistant: b", "[", "{", "nan", "'from'", "\ud800", "\0"]
    ),
    SURROGATES,
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), STRINGS, st.sampled_from([10**400, -(2**70), 1e308, -0.0])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(TURN_KEYS) | STRINGS, inner, max_size=4)
    ),
    max_leaves=12,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(ROLES) | VALUES,
            "from": st.sampled_from(ROLES),
            "content": STRINGS | VALUES,
            "value": STRINGS,
            "parts": st.lists(st.fixed_dictionaries({"text": STRINGS}), max_size=3) | VALUES,
            "weight": SCALARS,
            "tool_calls": VALUES,
            "function_call": VALUES,
        },
    ),
    max_size=5,
)
GOOD_TURNS = st.just([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
HOSTILE = st.one_of(
    VALUES, TURNS, GOOD_TURNS, TURNS.map(json.dumps), TURNS.map(repr), st.dictionaries(STRINGS, STRINGS, max_size=3)
)
ROWS = st.lists(st.dictionaries(st.sampled_from(KNOWN), HOSTILE, min_size=1, max_size=5), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def assert_said(*texts: str) -> None:
    for text in texts:
        assert isinstance(text, str)
        assert text.strip()
        assert len(text) < LONGEST_SAID
        assert "thrift" not in text, "what pyarrow says is not meant for a person"
        text.encode("utf-8")


def assert_sound(found: Survey) -> None:
    assert found.rows == found.kept + found.bad_rows
    assert found.bad_rows == sum(count for kind, count in found.counts.items() if kind not in WARNINGS)
    assert found.train_rows + found.validation_rows <= found.kept
    assert len(found.preview) <= found.kept
    for problem in found.problems:
        assert_said(problem.message, problem.fix)
        assert problem.row is not None
        assert 1 <= problem.row <= found.rows
    kept_problems = {kind: sum(p.kind == kind for p in found.problems) for kind in found.counts}
    assert all(kept_problems[kind] == min(count, 20) for kind, count in found.counts.items())
    assert all(isinstance(note, str) for note in found.notes)


def look(path: Path, content: bytes, **options: Any) -> Survey | None:
    """Survey and prepare these bytes, and judge what comes of it."""
    path.write_bytes(content)
    config = DataConfig(source="file", path=str(path), drop_bad_rows=True, **options)
    try:
        found = survey(config)
    except DataError as exc:
        assert_said(exc.report.what_happened, exc.report.what_to_do)
        return None
    assert_sound(found)
    try:
        data = prepare(config, "dpo" if found.format == "preference" else "sft")
    except DataError as exc:
        assert_said(exc.report.what_happened)
    else:
        assert len(data.train) == found.train_rows
        json.dumps([str(sample) for sample in data.train]).encode("utf-8")
    return found


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8")


@FEW
@given(
    value=HOSTILE
    | ROWS
    | st.dictionaries(st.sampled_from(["data", "train", "x", "messages"]), ROWS | VALUES, max_size=3)
)
@example(value={"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})
@example(value=[{}])
@example(value=[{"": "", " ": " "}])
def test_any_value_as_json(folder: Path, value: Any) -> None:
    look(folder / "any.json", as_json(value))


@FEW
@given(values=st.lists(HOSTILE | ROWS, max_size=8))
@example(values=[{"\ud800": "a", "b": "c"}])
@example(values=[{"k" * 100_000: 1}])
@example(values=[{"prompt": "a", "completion": "b"}, {"k" * 100_000: 1}])
def test_any_values_as_lines(folder: Path, values: list[Any]) -> None:
    look(folder / "any.jsonl", b"\n".join(map(as_json, values)))


@FEW
@given(rows=ROWS)
@example(rows=[{"messages": [{"role": "\ud800", "content": "x"}]}])
@example(rows=[{"prompt": "a", "completion": "b"}, {"\udfff": "x"}])
@example(rows=[{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ["\udfff"]}])
@example(rows=[{"chosen": [], "rejected": []}])
@example(rows=[{"prompt": "[" + "-" * 3000 + "1]", "completion": "[" + "1," * 5000}])
def test_any_rows_of_known_columns(folder: Path, rows: list[dict[str, Any]]) -> None:
    look(folder / "known.jsonl", b"\n".join(map(as_json, rows)))


@FEW
@given(
    rows=ROWS,
    format_name=st.sampled_from(
        ["messages", "sharegpt", "alpaca", "prompt_completion", "text", "translation", "preference"]
    ),
)
def test_any_rows_in_a_format_that_is_set(folder: Path, rows: list[dict[str, Any]], format_name: Any) -> None:
    look(folder / "set.jsonl", b"\n".join(map(as_json, rows)), format=format_name)


@FEW
@given(
    rows=ROWS,
    columns=st.dictionaries(
        st.sampled_from(["prompt", "completion", "messages", "chosen", "rejected", "text", "nothing"]),
        st.sampled_from([*KNOWN, "messages.0.content", "answers.text.0", ".", "..", ""]) | STRINGS,
        max_size=3,
    ),
)
def test_any_mapping(folder: Path, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    look(folder / "mapped.jsonl", b"\n".join(map(as_json, rows)), columns=columns)


SIGNS = [bytes([sign]) for sign in b'"\n\r\0[]{},;\t| \x0b\x1a\xe9\x81']
MARKS = [b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"PAR1"]
WORDS = [b'{"prompt": "a", "completion": "b"}', b"prompt,completion", b"a,b", b"text", b"\r\n", b"NaN", b"1" * 5000]
LETTERS = [b"\xc3\xa9", b"\xf0\x9f\x9a\xb2", b"\xed\xa0\x80", b"\xe2\x80\xa8"]
PIECES = st.sampled_from([*SIGNS, *MARKS, *WORDS, *LETTERS])
BYTES = st.binary(max_size=200) | st.lists(PIECES | st.binary(max_size=3), max_size=30).map(b"".join)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.txt", "x.parquet", "x.jsonl.gz"])
@settings(FEW, max_examples=60)
@given(content=BYTES)
@example(content=b"prompt,completion\n" + b'"a' + b"\n" * 1000)
@example(content=b'"prompt\n",completion\na,b\n')
@example(content="a,b\nü,ß\n".encode("utf-16"))
@example(content=b"PAR1" + b"\0" * 40 + b"PAR1")
def test_any_bytes_under_any_name(folder: Path, name: str, content: bytes) -> None:
    look(folder / name, content)


@settings(FEW, max_examples=60)
@given(
    head=st.lists(st.sampled_from([*KNOWN, "", " ", "x", "id"]), min_size=1, max_size=4),
    cells=st.lists(st.lists(STRINGS.filter(lambda text: text.isprintable()), max_size=5), max_size=6),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_table(folder: Path, head: list[str], cells: list[list[str]], delimiter: str, newline: str) -> None:
    text = newline.join(delimiter.join(line) for line in [head, *cells])
    look(folder / "any.csv", text.encode("utf-8", "replace"))


@pytest.mark.parametrize("depth", range(940, 1001, 3))
@pytest.mark.parametrize("shape", ["element", "value", "role", "content"])
def test_nesting_of_any_depth(folder: Path, depth: int, shape: str) -> None:
    """Near the deepest nesting that can be read, what was read can also be quoted."""
    deep = "[" * depth + "]" * depth
    rows = {
        "element": deep,
        "value": f'{{"prompt": "q", "completion": {deep}}}',
        "role": f'{{"messages": [{{"role": {deep}, "content": "x"}}]}}',
        "content": f'{{"messages": [{{"role": "user", "content": {deep}}}]}}',
    }
    good = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "prompt": "p"}'
    look(folder / "deep.jsonl", f"{good}\n{rows[shape]}\n".encode())
    look(folder / "deep_first.jsonl", f"{rows[shape]}\n{good}\n".encode())


def test_a_parquet_with_a_bit_flipped_anywhere(folder: Path) -> None:
    """Each byte of a small file is spoiled once: it is read, or refused in words."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = folder / "whole.parquet"
    pq.write_table(pa.table({"question": ["How deep?", "Who dug?"], "answer": ["Eleven metres.", "Monks."]}), whole)
    content = whole.read_bytes()
    for place in range(0, len(content), 7):
        spoilt = bytearray(content)
        spoilt[place] ^= 0xFF
        look(folder / "spoilt.parquet", bytes(spoilt))


def test_columns_of_parquet_that_no_python_value_can_hold(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "odd.parquet"
    texts = {"question": pa.array(["q"]), "answer": pa.array(["a"])}
    odd = {
        "far": pa.array([10**15], pa.timestamp("s")),
        "nanoseconds": pa.array([1], pa.timestamp("ns")),
        "long": pa.array([2**62], pa.duration("s")),
        "elsewhere": pa.array([1], pa.timestamp("us", tz="Mars/Phobos")),
        "map": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
        "bytes": pa.array([b"\xff\x00"], pa.binary()),
    }
    for name, column in odd.items():
        pq.write_table(pa.table({**texts, name: column}), path)
        found = look(path, path.read_bytes())
        assert found is not None
        assert found.kept == 1, name
