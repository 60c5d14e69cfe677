"""What the Data step says of data and its X-ray: the right words, and no markup from the data."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_ft.ui.data_step import MOST_PARTS, mapping_inputs, verdict
from gemma_ft.ui.xray_view import figures_html, lengths_html, raw_html, rows_html, summary

EVIL = "<script>alert(1)</script>"
FIGURES: dict[str, Any] = {
    "rows": 90,
    "of": 100,
    "sequences": 90,
    "max_length": 64,
    "tokens": 5000,
    "supervised_tokens": 2000,
    "supervised_fraction": 0.4,
    "zero_supervised_rows": 2,
    "truncated_rows": 7,
    "lost_answer_tokens": 31,
    "bos_once_rows": 90,
    "end_trained_rows": 83,
    "packing_gain": 2.0,
    "system_turns": "folded",
    "lengths": {"shortest": 3, "longest": 99, "mean": 40.0, "p50": 38, "p95": 90, "p99": 98},
    "histogram": [(0, 50, 80), (50, 100, 10)],
}
DATA: dict[str, Any] = {
    "format": "prompt_completion",
    "columns": ["q", "a", EVIL],
    "mapping": {"prompt": "q", "completion": EVIL},
    "rows": 1000,
    "looked_at": 1000,
    "expected": [78_839, 8_584],
    "kept": 998,
    "dropped": 2,
    "train_rows": 900,
    "validation_rows": 98,
    "complete": False,
    "total": 87_599,
    "notes": ["Read as *something*."],
    "counts": {"empty_text": 2},
}


def test_what_needs_attention_is_marked_and_what_is_well_is_not() -> None:
    tiles = figures_html(FIGURES).split('<div class="figure')[1:]
    marked = [tile.split("<dt>")[1].split("</dt>")[0] for tile in tiles if tile.startswith(" attention")]
    assert marked == ["Rows cut", "Nothing to learn", "End of answer trained"]
    assert "31 answer tokens lost" in figures_html(FIGURES)
    assert "this model has no system turn" in figures_html(FIGURES)
    assert "attention" not in figures_html(
        {**FIGURES, "truncated_rows": 0, "zero_supervised_rows": 0, "end_trained_rows": 90}
    )


@pytest.mark.parametrize(("limit", "drawn"), [(64, True), (100, True), (1000, False)])
def test_the_line_of_the_maximum_length_is_drawn_where_it_can_be(limit: int, drawn: bool) -> None:
    picture = lengths_html({**FIGURES, "max_length": limit})
    assert ('class="limit"' in picture) == drawn
    assert ("far to the right" in picture) != drawn
    assert picture.count("<rect") == 2


def test_the_summary_says_on_how_many_rows_it_was_measured() -> None:
    assert summary(FIGURES) == (
        "40% of 5,000 tokens are trained (measured on the first 90 of 100 rows); 7 rows cut at 64 tokens, with "
        "31 answer tokens lost; 2 rows left out, with nothing to learn."
    )


def test_one_row_is_a_row() -> None:
    assert summary({**FIGURES, "rows": 1, "of": 1, "truncated_rows": 1}).count("1 row") == 2
    assert "1 rows" not in summary({**FIGURES, "rows": 1, "of": 1, "truncated_rows": 1}) + figures_html(
        {**FIGURES, "rows": 1}
    )


def test_nothing_from_the_data_becomes_markup() -> None:
    view = {"title": EVIL, "pieces": [(EVIL, True, False, [7]), ("\n", False, True, [8])], "cut": 3, "tokens": 2}
    page = rows_html([{"raw": {EVIL: EVIL}, "views": [view]}], first=4)
    assert "<script" not in page + raw_html([{EVIL: EVIL}])
    assert page.count("&lt;script&gt;") == 4
    assert "Row 5" in page
    assert "3 tokens cut off" in page
    assert 'class="tok trained" title="7"' in page


def test_the_verdict_says_what_was_found_and_what_is_not_known_yet() -> None:
    problem = {"severity": "error", "kind": "empty_text", "row": 4, "message": "'a' is empty", "fix": "Fill it in."}
    words = verdict({"data": DATA, "problems": [problem]})
    assert words.startswith("✗ The first 1,000 rows of 87,599 with prompt and completion")
    assert "about 78,839 to train on, 8,584 held out, **2 cannot be used**" in words
    assert "Found: 2 empty text." in words
    assert "Row 4" in words
    assert "checked when the run starts" in words
    assert "<script" not in words


def test_every_part_of_a_format_gets_an_input_and_its_column() -> None:
    names, inputs = mapping_inputs(DATA)
    assert names == ["prompt", "completion", "context", "system"]
    assert [box["visible"] for box in inputs] == [True] * 4 + [False] * (MOST_PARTS - 4)
    assert inputs[0]["value"] == "q"
    assert "(none)" in inputs[2]["choices"]
    assert "(none)" not in inputs[0]["choices"]
