"""The arithmetic of the X-ray: lengths, suggestions and packing, on numbers that can be checked by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gemma_ft.engine.xray import BINS, histogram, packing_gain, suggest_length


def test_the_bars_cover_every_length_once() -> None:
    lengths = [1, 1, 5, 29, 30, 600]
    bars = histogram(lengths)
    assert len(bars) <= BINS + 1
    assert bars[0][0] == 0
    assert all(end == begin for (_, end, _), (begin, _, _) in pairwise(bars))
    assert all(count == sum(begin <= length < end for length in lengths) for begin, end, count in bars)
    assert sum(count for *_, count in bars) == len(lengths)
    assert histogram([]) == []


@pytest.mark.parametrize(
    ("lengths", "context", "suggested"),
    [
        ([10, 20, 60], None, 64),
        ([10, 20, 64], None, 64),
        ([10, 20, 65], None, 128),
        ([100] * 999 + [5000], None, 128),
        ([100] * 999 + [150], None, 192),
        ([3000], 2048, 2048),
        ([], None, 64),
    ],
)
def test_the_suggested_length_cuts_no_row_but_a_few_that_stand_out(
    lengths: list[int], context: int | None, suggested: int
) -> None:
    assert suggest_length(lengths, context) == suggested


def test_packing_is_compared_with_padding_in_batches() -> None:
    assert packing_gain([50, 50, 50, 50], limit=100, batch_size=2) == 1.0
    assert packing_gain([100, 10, 100, 10, 100, 10], limit=100, batch_size=2) == 1.5
    assert packing_gain([60, 40, 60, 40], limit=100, batch_size=4) == 1.2
    assert packing_gain([], limit=100, batch_size=4) == 1.0
