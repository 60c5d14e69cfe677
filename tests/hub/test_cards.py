"""What a model card says of the data, and what it must not say: where files lie on somebody's machine."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_ft.config import DataConfig, MethodConfig, RunConfig
from gemma_ft.hub.cards import model_card


def card_of(objective: str = "sft", **data: Any) -> str:
    config = RunConfig(data=DataConfig(**data), method=MethodConfig(objective=objective))  # type: ignore[arg-type]
    return model_card(config, rows=48, figures={})


def test_a_card_names_a_data_set_of_the_hub_for_people_and_for_the_hub() -> None:
    card = card_of(source="hub", id="me/riddles")
    assert "48 examples" in card
    assert "datasets:\n- me/riddles" in card.split("---")[1]


@pytest.mark.parametrize(
    "data",
    [
        {"source": "file", "path": "/home/me/secret/rows.csv", "validation_path": "/home/me/secret/held.csv"},
        {"source": "tfds", "id": None, "path": "/home/me/secret/1.0.0"},
    ],
)
def test_a_card_does_not_tell_where_files_lie(data: dict[str, Any]) -> None:
    card = card_of(**data)
    assert "a private file" in card
    assert "/home/me" not in card


def test_a_card_of_dpo_says_so() -> None:
    card = card_of("dpo")
    assert "DPO and LoRA" in card
    assert "48 pairs" in card
