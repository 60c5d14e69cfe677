"""Every file of the corpus comes to what `corpus/expected.yaml` says: read to the last letter, or refused in words."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemma_ft.config import DataConfig
from gemma_ft.data.prepare import Survey, prepare, survey
from gemma_ft.data.problems import Problem
from gemma_ft.data.samples import Pair, Sample
from gemma_ft.errors import DataError

CORPUS = Path(__file__).parent / "corpus"
EXPECTED: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load((CORPUS / "expected.yaml").read_text(encoding="utf-8"))
GOOD, BROKEN = EXPECTED["good"], EXPECTED["broken"]
UNREADABLE = [name for name, entry in BROKEN.items() if "error" in entry]
BAD_ROWS = [name for name, entry in BROKEN.items() if "problems" in entry]
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\x1f\x8b", b"PAR1")
ONE_CORPUS_BYTES = 300_000
LONGEST_MESSAGE = 600
FOR_PROGRAMMERS = re.compile(
    r"Traceback|\w+(Error|Exception|Invalid)\b|NoneType|<class|0x[0-9a-f]{6}|\bcodec\b|pyarrow"
    r"|\bis (a |an )?(str|int|float|bool|dict|list|bytes)\b|\bat at\b"
)


def config_of(folder: str, name: str, tmp_path: Path, **changes: Any) -> DataConfig:
    """The configuration of one entry; makes what a repository cannot hold."""
    entry = EXPECTED[folder][name]
    made = entry.get("made")
    path = (tmp_path if made else CORPUS / folder) / name
    if made == "dangling symlink":
        path.symlink_to(tmp_path / "gone.jsonl")
    elif made == "fifo":
        os.mkfifo(path)
    options = dict(entry.get("options", {}))
    if "validation_path" in options:
        options["validation_path"] = str(CORPUS / options["validation_path"])
    return DataConfig(source="file", path=str(path), **options, **changes)


def objective_of(format_name: str) -> Any:
    return "dpo" if format_name == "preference" else "sft"


def last_answer(sample: Sample) -> str:
    if isinstance(sample, Pair):
        return sample.chosen["content"]
    return sample if isinstance(sample, str) else sample[-1]["content"]


def everything_before(sample: Sample) -> str:
    turns = sample.prompt if isinstance(sample, Pair) else sample
    return "" if isinstance(turns, str) else "\n".join(turn["content"] for turn in turns)


def errors_of(found: Survey) -> list[Problem]:
    return [problem for problem in found.problems if problem.severity == "error"]


def without_names(message: str, config: DataConfig) -> str:
    """What is said of a file, apart from what it is called."""
    path = Path(config.path or "")
    return message.replace(str(path), "FILE").replace(path.name, "FILE")


def assert_meant_for_a_person(what_happened: str, what_to_do: str) -> None:
    for text in (what_happened, what_to_do):
        assert text.strip() == text
        assert text
        assert len(text) < LONGEST_MESSAGE
        assert not FOR_PROGRAMMERS.search(text)
        text.encode("utf-8")


def test_the_corpus_is_large_and_small_enough() -> None:
    assert len(GOOD) >= 40
    assert len(BROKEN) >= 60
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < ONE_CORPUS_BYTES


@pytest.mark.parametrize("folder", ["good", "broken"])
def test_the_table_names_every_file_and_nothing_else(folder: str) -> None:
    stored = {path.name for path in (CORPUS / folder).iterdir()}
    assert stored == {name for name, entry in EXPECTED[folder].items() if not entry.get("made")}


def test_the_corpus_covers_every_format_container_and_encoding() -> None:
    formats = {entry["format"] for entry in GOOD.values()}
    assert formats == {
        "messages",
        "sharegpt",
        "alpaca",
        "prompt_completion",
        "text",
        "translation",
        "preference",
    }
    endings = {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt"}
    assert {"".join(Path(name).suffixes) for name in GOOD} == endings | {f"{ending}.gz" for ending in endings}
    starts = {mark for name in GOOD for mark in MARKS if (CORPUS / "good" / name).read_bytes().startswith(mark)}
    assert starts == set(MARKS)
    assert {entry.get("notes") for entry in GOOD.values()} >= {None, "Windows-1252"}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_read_to_the_last_character(name: str, tmp_path: Path) -> None:
    entry = GOOD[name]
    found = survey(config_of("good", name, tmp_path), objective_of(entry["format"]))
    assert errors_of(found) == []
    assert (found.format, found.rows, found.kept) == (entry["format"], entry["rows"], entry["kept"])
    assert entry.get("mapping", {}).items() <= found.mapping.items()
    first = found.preview[0]
    assert last_answer(first) == entry["answer"]
    if "rejected" in entry:
        assert isinstance(first, Pair)
        assert first.rejected["content"] == entry["rejected"]
    if "first" in entry:
        assert [{"role": turn["role"], "content": turn["content"]} for turn in first] == entry["first"]
    assert entry.get("first_has", "") in everything_before(first)
    assert {kind: n for kind, n in found.counts.items() if n} == entry.get("warnings", {})
    if "notes" in entry:
        assert any(entry["notes"] in note for note in found.notes)


@pytest.mark.parametrize("name", [name for name, entry in GOOD.items() if entry["kept"] > 1])
def test_a_good_file_is_prepared_as_it_was_surveyed(name: str, tmp_path: Path) -> None:
    config = config_of("good", name, tmp_path)
    objective = objective_of(GOOD[name]["format"])
    found = survey(config, objective)
    data = prepare(config, objective)
    assert (len(data.train), len(data.validation)) == (found.train_rows, found.validation_rows)
    assert len(data.train) >= 1
    assert any(last_answer(sample) == GOOD[name]["answer"] for sample in [*data.train, *data.validation])


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_says_why_and_what_to_do(name: str, tmp_path: Path) -> None:
    config = config_of("broken", name, tmp_path)
    with pytest.raises(DataError) as caught:
        survey(config)
    report = caught.value.report
    assert_meant_for_a_person(report.what_happened, report.what_to_do)
    said = without_names(f"{report.what_happened} {report.what_to_do}", config)
    assert [part for part in BROKEN[name]["error"] if part.lower() not in said.lower()] == [], said
    with pytest.raises(DataError) as again:
        prepare(config, "sft")
    assert again.value.report == report


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_with_its_number_its_column_and_its_value(name: str, tmp_path: Path) -> None:
    entry = BROKEN[name]
    found = survey(config_of("broken", name, tmp_path))
    problems = errors_of(found)
    planted = entry["problems"]
    assert [(p.row, p.kind, p.column) for p in problems] == [(p["row"], p["kind"], p["column"]) for p in planted]
    assert (found.rows, found.kept) == (entry["rows"], entry["kept"])
    assert found.format == entry.get("format", found.format)
    for problem, expected in zip(problems, planted, strict=True):
        assert_meant_for_a_person(problem.message, problem.fix)
        assert expected["says"] in problem.message
    assert sum(found.counts.values()) >= len(planted)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_stop_the_start_unless_they_are_left_out(name: str, tmp_path: Path) -> None:
    entry = BROKEN[name]
    with pytest.raises(DataError) as caught:
        prepare(config_of("broken", name, tmp_path), objective_of(survey(config_of("broken", name, tmp_path)).format))
    assert f"Row {entry['problems'][0]['row']}" in str(caught.value)
    assert "drop_bad_rows" in str(caught.value)
    config = config_of("broken", name, tmp_path, drop_bad_rows=True)
    data = prepare(config, objective_of(survey(config).format))
    assert len(data.train) + len(data.validation) == entry["kept"]


def test_no_two_broken_files_are_told_the_same(tmp_path: Path) -> None:
    """Apart from names of files, and from files with `like`, which have the same cause as another one."""
    told: dict[str, set[str]] = defaultdict(set)
    for number, (name, entry) in enumerate(BROKEN.items()):
        place = tmp_path / str(number)
        place.mkdir()
        config = config_of("broken", name, place)
        try:
            messages = [problem.message for problem in errors_of(survey(config))]
        except DataError as exc:
            messages = [exc.report.what_happened]
        for message in messages:
            told[without_names(message, config)].add(entry.get("like", name))
    assert {message: names for message, names in told.items() if len(names) > 1} == {}


def test_when_all_rows_are_measured_with_none_is_left_to_train_on() -> None:
    path = str(CORPUS / "good" / "validation_for_it.jsonl")
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(source="file", path=path, validation_path=path))
    assert "measure" in str(caught.value)
    assert "say the same" not in str(caught.value)
