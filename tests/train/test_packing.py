"""Packed rows are learned as they would be alone, by every family of Gemma; and none is lost, cut or divided."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from gemma_families import FAMILIES
from gemma_ft.train.encode import IGNORED, Encoded
from gemma_ft.train.packing import Packed, PackingCollator, pack

WORDS = 300
WINDOW = 16
"""The sliding window of the small models; the rows are up to three times as long, and the sequences six times."""


HERE = [name for name, family in FAMILIES.items() if family.available]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on models this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_rows(lengths: list[int], *, text: bool = False) -> list[Encoded]:
    """Return rows of these lengths: an untrained question and an answer, or a text of which all is trained."""
    draw = random.Random(0)
    rows = []
    for length in lengths:
        ids = [2, *(draw.randrange(3, WORDS) for _ in range(length - 1))]
        asked = 0 if text else length // 2
        rows.append(Encoded(ids, [IGNORED] * asked + ids[asked:]))
    return rows


def lengths_of(sequences: list[Packed]) -> list[list[int]]:
    return [sequence.columns()["seq_lengths"] for sequence in sequences]


def test_the_longest_row_is_placed_first_and_each_where_it_fits_best() -> None:
    assert lengths_of(pack(make_rows([3, 7, 5, 2, 10, 4, 3]), 10)) == [[10], [7, 3], [5, 4], [3, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_lost_cut_or_divided_and_little_room_is_left(seed: int) -> None:
    draw = random.Random(seed)
    rows = make_rows([draw.randint(1, 100) for _ in range(500)])
    sequences = pack(rows, 100)
    assert sequences == pack(rows, 100)
    packed = [row for sequence in sequences for row in sequence.rows]
    assert sorted(map(id, packed)) == sorted(map(id, rows))
    assert all(len(sequence.columns()["input_ids"]) <= 100 for sequence in sequences)
    total = sum(len(row.input_ids) for row in rows)
    assert len(sequences) <= 1.06 * (total / 100)


def test_a_row_that_is_too_long_stays_alone_and_nothing_makes_nothing() -> None:
    assert lengths_of(pack(make_rows([12, 3, 3]), 10)) == [[12], [3, 3]]
    assert pack([], 10) == []


def test_a_batch_has_positions_for_each_row_and_no_label_where_a_row_begins() -> None:
    long, short = pack([Encoded([2, 5, 6], [2, 5, 6]), Encoded([2, 7], [2, 7]), Encoded([2, 8], [2, 8])], 5)
    batch = PackingCollator(pad_token_id=0)([long.columns(), short.columns()])
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[2, 5, 6, 2, 7], [2, 8, 0, 0, 0]],
        "labels": [[-100, 5, 6, -100, 7], [-100, 8, -100, -100, -100]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]],
    }


def test_rows_that_are_not_packed_can_be_collated_too() -> None:
    row = Encoded([2, 5, 6], [-100, -100, 6])
    batch = PackingCollator(pad_token_id=0)([row.columns()])
    assert batch["position_ids"].tolist() == [[0, 1, 2]]
    assert batch["labels"].tolist() == [row.labels]


def summed_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of a batch as a sum over its trained tokens, from transformers' own logits."""
    return model(**batch, use_cache=False, num_items_in_batch=torch.tensor(1)).loss


@pytest.mark.parametrize("text", [False, True], ids=["conversations", "texts"])
@pytest.mark.parametrize("family", HERE)
def test_a_packed_row_is_learned_as_it_would_be_alone(family: str, text: bool) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family].make(WORDS).train()
    assert model.config.get_text_config().sliding_window == WINDOW
    rows = make_rows([48, 40, 33, 20, 17, 9, 5, 30], text=text)
    sequences = pack(rows, 6 * WINDOW)
    assert max(len(lengths) for lengths in lengths_of(sequences)) > 2

    alone = sum(summed_loss(model, {name: torch.tensor([ids]) for name, ids in row.columns().items()}) for row in rows)
    alone.backward()
    wanted = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    together = summed_loss(model, PackingCollator(pad_token_id=0)([sequence.columns() for sequence in sequences]))
    together.backward()

    torch.testing.assert_close(together, alone, atol=0, rtol=1e-6)
    for name, gradient in wanted.items():
        found = model.get_parameter(name).grad
        assert (found - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name
