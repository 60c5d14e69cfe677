"""What a run writes for certain: never more than it probably needs, and by the checkpoints that really come to be."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_ft.catalog import CATALOG, find
from gemma_ft.config import RunConfig, parse_config
from gemma_ft.estimate.disk import SMALL_FILES, certain_bytes
from gemma_ft.estimate.plan import plan_run
from gemma_ft.estimate.workload import Workload
from gemma_ft.hardware import Machine

MACHINE = Machine(name="here", gpus=(), cores=2, memory=2**36, memory_free=2**36, disk_free=2**40)
ROWS = Workload(train_rows=800, longest=100, mean_tokens=50.0, mean_supervised=25.0, measured=True)
STEPS = 100
"""Of one epoch of those rows in batches of 8."""


def config(adapter: str = "lora", **training: Any) -> RunConfig:
    given = {"epochs": 1, "batch_size": 8, "save_every": 10, "keep_checkpoints": 2, "eval_every": 10, **training}
    return parse_config({"model": {"id": "google/gemma-3-1b-it"}, "method": {"adapter": adapter}, "training": given})


def units(wanted: RunConfig, workload: Workload | None = ROWS, **before: int) -> tuple[int, int]:
    """The certain need in whole checkpoints, and in results beside them."""
    known = find(wanted.model.id)
    assert known is not None
    plan = plan_run(wanted, known.shape, ROWS, MACHINE)
    result = plan.disk_bytes - plan.checkpoint_bytes * (wanted.training.keep_checkpoints + 1)
    need = certain_bytes(wanted, known.shape, MACHINE, workload, **before) - SMALL_FILES
    found = divmod(need, plan.checkpoint_bytes)
    assert found[1] in (0, result)
    return found[0], found[1] // result


@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize(
    ("training", "before", "need"),
    [
        pytest.param({}, {}, (3, 0), id="two are kept and one is written aside"),
        pytest.param({"keep_checkpoints": 1}, {}, (2, 0), id="one is kept and one is written aside"),
        pytest.param({"keep_checkpoints": 50}, {}, (10, 1), id="all are kept, then the result"),
        pytest.param({"save_every": 60}, {}, (2, 1), id="one on the way, one at the end, the result"),
        pytest.param({"save_every": 0}, {}, (0, 1), id="the result alone"),
        pytest.param({"max_steps": 5}, {}, (1, 1), id="one at the end, the result"),
        pytest.param({"early_stopping": 2}, {}, (2, 1), id="no more than before the earliest end"),
        pytest.param({}, {"done": 50, "have": 2}, (1, 0), id="resumed, with two that are replaced"),
        pytest.param({}, {"done": 100, "have": 2}, (0, 1), id="resumed after the last step"),
        pytest.param({}, {"done": 99, "have": 1}, (1, 1), id="resumed before the last step"),
        pytest.param({"keep_checkpoints": 1}, {"done": 50, "have": 2}, (1, 0), id="resumed with more than are kept"),
    ],
)
def test_the_need_is_that_of_the_checkpoints_that_come_to_be(
    adapter: str, training: dict[str, Any], before: dict[str, int], need: tuple[int, int]
) -> None:
    assert units(config(adapter, **training), **before) == need


def test_of_unknown_rows_only_one_checkpoint_and_the_result_are_certain() -> None:
    assert units(config(), None) == (1, 1)
    assert units(config(max_steps=100), None) == (3, 0)
    assert units(config(save_every=0), None) == (0, 1)
    guessed = Workload.assumed(config(packing=True), 800)
    assert units(config(packing=True), guessed) == (1, 1)


def test_it_is_never_more_than_what_is_probable() -> None:
    for model in CATALOG:
        for adapter in ("lora", "none"):
            for training in ({}, {"save_every": 0}, {"keep_checkpoints": 1}, {"keep_checkpoints": 50}):
                wanted = config(adapter, **training).changed({"model.id": model.id})
                probable = plan_run(wanted, model.shape, ROWS, MACHINE).disk_bytes
                assert certain_bytes(wanted, model.shape, MACHINE, ROWS) <= probable + SMALL_FILES
