"""From a configuration to what is trained on: mappings are obeyed, splits never leak and are the same everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.config import DataConfig
from gemma_ft.data.prepare import prepare, survey
from gemma_ft.data.problems import KEPT_PER_KIND, Problem, Tally
from gemma_ft.data.samples import Pair, digest
from gemma_ft.data.split import split
from gemma_ft.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


def exchange(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "completion": f"answer {number}"}


def file_with(tmp_path: Path, rows: list[Any], name: str = "rows.jsonl", **settings: Any) -> DataConfig:
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return DataConfig(source="file", path=str(path), **settings)


def questions(samples: list[Any]) -> list[str]:
    return [sample[0]["content"] for sample in samples]


def test_the_bundled_example_is_sound() -> None:
    data = prepare(DataConfig())
    assert data.survey.format == "messages"
    assert data.survey.problems == []
    assert 50 <= data.survey.rows <= 200
    assert len(data.train) + len(data.validation) == data.survey.kept == data.survey.rows


def test_line_separators_inside_a_text_do_not_end_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"q{n}\u2028\x85", "completion": "a\u2029b"} for n in range(3)]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8", newline="")
    assert survey(DataConfig(source="file", path=str(path))).kept == 3


def test_a_mapping_is_obeyed_also_against_the_names(tmp_path: Path) -> None:
    rows = [{"prompt": "not this", "question": f"q{n}", "answer": "not this", "completion": f"a{n}"} for n in range(4)]
    mapped = file_with(tmp_path, rows, columns={"prompt": "question"}, validation_fraction=0, shuffle=False)
    data = prepare(mapped)
    assert data.survey.mapping == {"prompt": "question", "completion": "completion"}
    assert questions(data.train) == ["q0", "q1", "q2", "q3"]


def test_a_mapping_chooses_the_format_that_has_these_parts(tmp_path: Path) -> None:
    rows = [{"good": f"g{n}", "bad": f"b{n}", "asked": f"q{n}"} for n in range(4)]
    mapped = file_with(tmp_path, rows, columns={"chosen": "good", "rejected": "bad", "prompt": "asked"})
    assert survey(mapped, "dpo").format == "preference"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"columns": {"promt": "prompt"}}, "no part 'promt'"),
        ({"columns": {"prompt": "promt"}}, "Did you mean 'prompt'"),
        ({"format": "preference"}, "needs chosen and rejected"),
        ({"format": "alpaca", "columns": {"instruction": "prompt", "output": "nowhere"}}, "'nowhere'"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        survey(file_with(tmp_path, [exchange(1), exchange(2)], **settings))


def test_bad_rows_stop_a_run_unless_they_may_be_left_out(tmp_path: Path) -> None:
    rows = [*(exchange(n) for n in range(5)), {"prompt": "", "completion": "x"}, {"prompt": "y"}]
    with pytest.raises(DataError, match="2 of 7 rows cannot be used") as caught:
        prepare(file_with(tmp_path, rows))
    assert "Row 6" in str(caught.value)
    data = prepare(file_with(tmp_path, rows, drop_bad_rows=True))
    found = data.survey
    assert (found.rows, found.kept, len(data.train) + len(data.validation)) == (7, 5, 5)
    assert [(problem.row, problem.kind) for problem in found.problems] == [(6, "empty_text"), (7, "missing_column")]


def test_when_every_row_is_bad_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 rows"):
        prepare(file_with(tmp_path, [{"prompt": "", "completion": ""}], drop_bad_rows=True))


def test_a_missing_file_and_an_unknown_example_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        prepare(DataConfig(source="file", path=str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match="capitals"):
        prepare(DataConfig(source="example", id="nothing"))


def test_equal_rows_never_stand_on_both_sides_and_are_told(tmp_path: Path) -> None:
    data = prepare(file_with(tmp_path, [exchange(n % 10) for n in range(100)]))
    held_out = set(questions(data.validation))
    assert held_out
    assert held_out.isdisjoint(questions(data.train))
    assert data.survey.counts == {"duplicate": 90}
    assert len(data.survey.problems) == KEPT_PER_KIND
    assert (data.survey.problems[0].row, data.survey.problems[0].severity) == (11, "warning")


def test_a_second_file_measures_and_what_it_holds_is_not_trained_on(tmp_path: Path) -> None:
    measured = file_with(tmp_path, [exchange(n) for n in (3, 4, 100)], "measured.jsonl")
    config = file_with(tmp_path, [exchange(n) for n in range(10)], validation_path=measured.path, max_rows=8)
    data = prepare(config)
    assert set(questions(data.validation)) == {"question 3", "question 4", "question 100"}
    assert {"question 3", "question 4"}.isdisjoint(questions(data.train))
    assert data.survey.counts == {"in_both": 2}
    assert (data.survey.rows, data.survey.kept) == (13, 13)


def test_a_bad_row_of_the_second_file_is_told_with_the_files_name(tmp_path: Path) -> None:
    measured = file_with(tmp_path, [exchange(1), {"prompt": "q", "completion": ""}], "measured.jsonl")
    config = file_with(tmp_path, [exchange(n) for n in range(10)], validation_path=measured.path)
    (problem,) = (problem for problem in survey(config).problems if problem.severity == "error")
    assert problem.message.startswith("measured.jsonl: ")
    assert problem.row == 2


def test_max_rows_and_no_validation_are_kept_to() -> None:
    numbers, digests = array("L", range(20)), array("Q", range(100, 120))
    train, validation = split(numbers, digests, DataConfig(max_rows=8, validation_fraction=0))
    assert (len(train), len(validation)) == (8, 0)
    train, validation = split(numbers, digests, DataConfig(max_rows=8, validation_fraction=0.25, shuffle=False))
    assert (list(train), list(validation)) == (list(range(6)), [6, 7])


@pytest.mark.parametrize(
    ("copies", "trained", "held_out"),
    [
        ([1] * 100, 90, 10),
        ([20] * 50, 900, 100),
        ([100] * 10, 900, 100),
        ([900, *[1] * 100], 900, 100),
        ([5], 5, 0),
        ([5, 4], 5, 4),
    ],
)
def test_whole_groups_of_equal_rows_are_held_out_and_never_more_than_asked_for(
    tmp_path: Path, copies: list[int], trained: int, held_out: int
) -> None:
    rows = [exchange(number) for number, times in enumerate(copies) for _ in range(times)]
    found = survey(file_with(tmp_path, rows))
    assert (found.train_rows, found.validation_rows) == (trained, held_out)


def test_a_part_that_is_mapped_to_nothing_stays_out(tmp_path: Path) -> None:
    rows = [{**exchange(n), "context": f"context {n}"} for n in range(4)]
    assert "context" in survey(file_with(tmp_path, rows)).mapping
    assert "context" not in survey(file_with(tmp_path, rows, columns={"context": ""})).mapping


PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}


def test_pairs_are_pairs_for_dpo_and_answers_for_supervised_tuning(tmp_path: Path) -> None:
    config = file_with(tmp_path, [{**PAIR, "prompt": f"q{n}"} for n in range(3)], validation_fraction=0, shuffle=False)
    (first, *_) = prepare(config, "dpo").train
    assert first == Pair(
        [{"role": "user", "content": "q0"}],
        {"role": "assistant", "content": "good"},
        {"role": "assistant", "content": "bad"},
    )
    data = prepare(config, "sft")
    assert [turn["content"] for turn in data.train[0]] == ["q0", "good"]  # type: ignore[union-attr]
    assert any("chosen" in note for note in data.survey.notes)


LONG = "k" * 100_000


@pytest.mark.parametrize(
    "settings", [{}, {"columns": {"prompt": LONG}}, {"columns": {LONG: "prompt"}}, {"format": "alpaca"}]
)
def test_a_message_stays_short_whatever_the_names_are(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        survey(file_with(tmp_path, [{f"{LONG}{n}": "word" for n in range(5)}], **settings))
    assert len(str(caught.value)) < 1000


def test_numbers_behind_the_only_text_may_be_the_answers_and_are_not_dropped_in_silence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fit no known format"):
        survey(file_with(tmp_path, [{"Frage": "Wie viele?", "Anzahl": "12"}, {"Frage": "Und hier?", "Anzahl": "7"}]))


def test_the_place_a_text_comes_from_does_not_make_a_translation(tmp_path: Path) -> None:
    rows = [{"source": "book 1", "target": "pupils", **exchange(n)} for n in range(3)]
    assert survey(file_with(tmp_path, rows)).mapping == {"prompt": "prompt", "completion": "completion"}


def test_a_long_cell_that_only_begins_like_a_list_is_read_as_text_at_once(tmp_path: Path) -> None:
    cell = "[1, " * 450_000
    config = file_with(tmp_path, [{"prompt": cell, "completion": "a"}])
    began = time.monotonic()
    assert survey(config).kept == 1
    assert time.monotonic() - began < 2


def test_calls_nested_too_deeply_are_a_bad_row_and_not_the_end(tmp_path: Path) -> None:
    deep = "[" * 900 + "]" * 900
    call = {"function": {"name": "f", "arguments": deep}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    found = survey(file_with(tmp_path, [{"messages": turns}, {"messages": turns, "tools": json.loads(f"[{deep}]")}]))
    assert found.rows == 2
    assert {problem.kind for problem in found.problems} <= {"not_text", "duplicate"}


def test_the_parts_of_a_pair_may_have_other_names(tmp_path: Path) -> None:
    pair = {"winner": "Name one. Yes.", "loser": ""}
    (problem,) = survey(file_with(tmp_path, [pair])).problems
    assert problem.column == "loser"


def test_a_file_to_measure_with_of_which_no_row_can_be_used_is_refused(tmp_path: Path) -> None:
    measured = file_with(tmp_path, [{"prompt": "q", "completion": ""}], "measured.jsonl")
    config = file_with(tmp_path, [exchange(1)], validation_path=measured.path, drop_bad_rows=True)
    with pytest.raises(DataError, match=r"No row of measured\.jsonl"):
        prepare(config)


def test_when_only_the_rows_to_measure_with_can_be_used_it_says_so(tmp_path: Path) -> None:
    measured = file_with(tmp_path, [exchange(1)], "measured.jsonl")
    rows = [{"prompt": "q", "completion": ""}]
    config = file_with(tmp_path, rows, validation_path=measured.path, drop_bad_rows=True)
    with pytest.raises(DataError, match=r"No row of rows\.jsonl"):
        prepare(config)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("the same beginning ", "the same beginning and more"),
        ("\n\nHuman: q\n\nAssistant: ", "\n\nHuman: q\n\nAssistant: a"),
    ],
)
def test_an_answer_that_says_nothing_is_no_answer(tmp_path: Path, chosen: str, rejected: str) -> None:
    found = survey(
        file_with(tmp_path, [{"chosen": chosen, "rejected": rejected}, PAIR | {"chosen": "q a", "rejected": "q b"}])
    )
    assert [(problem.row, problem.kind) for problem in found.problems] == [(1, "empty_text")]


def test_dpo_needs_pairs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pairs of a better and a worse answer"):
        prepare(file_with(tmp_path, [exchange(1), exchange(2)]), "dpo")


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    config = file_with(tmp_path, [exchange(n) for n in range(10)])
    found = survey(config)
    file_with(tmp_path, [exchange(n) for n in range(5)])
    with pytest.raises(DataError, match="has changed"):
        found.samples("train")


def test_problems_are_all_counted_and_only_the_first_kept() -> None:
    tally = Tally()
    for row in range(1000):
        tally.add(Problem(severity="error", kind="empty_text", message="m", fix="f", row=row))
    assert tally.counts == {"empty_text": 1000}
    assert [problem.row for problem in tally.kept] == list(range(KEPT_PER_KIND))


def test_equal_samples_share_a_digest_and_different_ones_do_not() -> None:
    one = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    same = [{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}]
    assert digest(one) == digest(same)
    assert len({digest(one), digest(one[::-1]), digest("q"), digest("a")}) == 4


def test_the_split_is_the_same_in_another_process() -> None:
    imports = "from gemma_ft.config import DataConfig; from gemma_ft.data.prepare import prepare"
    code = f"{imports}; data = prepare(DataConfig()); print(data.train, data.validation)"
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
    assert "capital" in outputs.pop()
