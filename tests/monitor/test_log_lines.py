"""The log as lines: what counts as an error, what is folded, cut and made harmless; each byte read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_ft.monitor.levels import Levels
from gemma_ft.monitor.log_lines import LogLines

PHASES = frozenset({"reading the data", "training"})
TRACEBACK = """12:00:00 ERROR The training failed
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    x()
ValueError: bad

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 2, in <module>
    y()
gemma_ft.errors.DataError: what happened
12:00:01 INFO The run has failed
"""


def read(path: Path, log: LogLines | None = None) -> LogLines:
    log = log or LogLines(path)
    log.read_to(log.size(), PHASES)
    return log


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("12:00:00 ERROR The disk is full", "error"),
        ("2026-01-01 12:00:00,1 - lib - WARNING - slow", "warning"),
        ("[rank0]:[W1126 11:00] WARNING something", "warning"),
        ("WARNING:root:careful", "warning"),
        ("CRITICAL: stop", "error"),
        ("RuntimeError: CUDA out of memory", "error"),
        ("torch.cuda.OutOfMemoryError: 8 GB", "error"),
        ("Segmentation fault (core dumped)", "error"),
        ("/x/y.py:12: UserWarning: old", "warning"),
        ("12:00:00 INFO There was no error", "info"),
        ("no error", "info"),
        ("0 ERROR lines, no WARNING", "info"),
        ("error_rate 0.3, validation error falls", "info"),
        ("12:00:00 INFO Step 5 of 150: loss 1.2", "info"),
        ("the word ERRORS is no level", "info"),
    ],
)
def test_a_level_is_told_by_its_form_and_not_by_the_word(line: str, level: str) -> None:
    assert Levels().of(line)[0] == level


def test_a_failure_with_chained_tracebacks_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(TRACEBACK)
    log = read(tmp_path / "log")
    assert (log.errors, log.warnings) == (1, 0)
    levels = [line.level for line in log.since(0) if line.text]
    assert levels == ["error"] * (len(levels) - 1) + ["info"]


def test_two_failures_are_two_errors_also_when_the_second_follows_at_once(tmp_path: Path) -> None:
    plain = "Traceback (most recent call last):\n  File 'a'\nValueError: x\n"
    (tmp_path / "log").write_text(f"{plain}12:00:00 INFO on\n{plain}")
    assert read(tmp_path / "log").errors == 2


def test_a_progress_bar_is_the_line_it_came_to_and_lives_while_it_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin\n\r 0%|   |\r 50%|#  |")
    log = read(path)
    assert ([line.text for line in log.since(0)], log.open) == (["begin"], " 50%|#  |")
    with path.open("ab") as file:
        file.write(b"\r100%|###|\r\nend\n")
    read(path, log)
    assert ([line.text for line in log.since(0)], log.open) == (["begin", "100%|###|", "end"], "")


def test_a_bar_that_was_drawn_very_often_is_one_short_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"\r{n:4d}|{'#' * 50}" for n in range(2000)) + "\nend\n")
    assert [line.text for line in read(tmp_path / "log").since(0)] == ["1999|" + "#" * 50, "end"]


def test_hostile_bytes_become_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(
        b"\x1b[31mred\x1b[0m\n\x1b]0;title\x07plain\x00\x07\n<b onclick=x>${alert(1)}</b>\n\xff\xfe\xc3\nx"
        + b"y" * 2**20
        + b"\nend\n"
    )
    texts = [line.text for line in read(path).since(0)]
    assert texts[:3] == ["red", "plain", "<b onclick=x>${alert(1)}</b>"]
    assert texts[3] == "\ufffd\ufffd\ufffd"
    assert texts[4].startswith("xyyy")
    assert texts[4].endswith("the whole line is in the file)")
    assert len(texts[4]) < 2100
    assert texts[5] == "end"


def test_sections_begin_where_a_phase_was_entered_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("12:00:00 INFO Reading the data\nx\n12:00:01 INFO Training\n12:00:02 INFO Something else\n")
    assert read(path).sections == [(0, "Reading the data"), (2, "Training")]


def test_only_the_tail_is_kept_and_everything_is_counted_in_pieces_as_in_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"12:00:00 {'WARNING' if n % 10 == 0 else 'INFO'} line {n} é\n" for n in range(30_000)))
    whole, parts = read(path), LogLines(path)
    for end in range(0, parts.size(), 7919):
        parts.read_to(end, PHASES)
    read(path, parts)
    assert whole.since(0) == parts.since(0)
    assert (
        (whole.count, whole.warnings, len(whole.since(0)))
        == (30_000, 3000, 2000)
        == (parts.count, parts.warnings, 2000)
    )
    assert [line.number for line in whole.since(29_990)] == list(range(29_990, 30_000))
