"""The demo model: an ordinary, small Gemma 3 folder whose tokens behave at turn borders.

These builds use very few steps, so nothing here says that the model speaks well.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.train.demo_model import build_demo_model

pytestmark = pytest.mark.train

TRICKY = [
    "The capital of France is Paris.",
    "two\nlines\n\nand a gap\n",
    "  spaces   kept  ",
    "\ttab\r\nwindows",
    "naïve Ελλάδα 日本語 العربية",
    "🙂👩‍👩‍👧 e\u0301 \u2581 \x00",
    "12345 + 6.78",
]
CHAT = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
]


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "model"
    build_demo_model(path, seed=0, steps=2)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _chat_ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    return list(ids)


def test_it_is_a_small_gemma(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == [1, 106]


def test_special_tokens_have_gemmas_ids(tokenizer: Any) -> None:
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 105, 106]


@pytest.mark.parametrize("text", TRICKY)
def test_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_the_prompt_is_a_prefix_of_the_conversation(tokenizer: Any) -> None:
    for answer in TRICKY:
        chat = [CHAT[0], {"role": "assistant", "content": answer}]
        prompt = _chat_ids(tokenizer, chat[:1], add_generation_prompt=True)
        assert _chat_ids(tokenizer, chat)[: len(prompt)] == prompt


def test_a_conversation_has_one_bos(tokenizer: Any) -> None:
    assert _chat_ids(tokenizer, CHAT * 2).count(tokenizer.bos_token_id) == 1


def test_a_system_message_joins_the_first_user_turn(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, CHAT[0]]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos><start_of_turn>user\nBe brief.\n\nWhat is the capital of France?<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize("messages", [[CHAT[0], CHAT[0]], [CHAT[1]], [*CHAT, CHAT[1]]])
def test_roles_must_alternate(tokenizer: Any, messages: list[dict[str, str]]) -> None:
    with pytest.raises(Exception, match="alternate"):
        tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(99)
    before = torch.get_rng_state()
    build_demo_model(tmp_path / "same", seed=0, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    build_demo_model(tmp_path / "other", seed=1, steps=2)
    assert _digest(tmp_path / "same") == _digest(folder)
    assert _digest(tmp_path / "other") != _digest(folder)


def test_progress_is_reported_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_demo_model(tmp_path / "m", steps=6, report=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 6), (5, 6), (6, 6)]


@pytest.mark.parametrize("at", [0, 2])
def test_an_exception_from_report_cancels(tmp_path: Path, at: int) -> None:
    import torch

    def stop(done: int, total: int) -> None:
        if done >= at:
            raise KeyError("stop")

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="stop"):
        build_demo_model(tmp_path / "m", steps=2, report=stop)
    assert not (tmp_path / "m").exists()
    assert torch.equal(torch.get_rng_state(), before)


def test_no_capital_is_told_in_the_pretraining_text() -> None:
    import json
    from importlib.resources import files

    folder = files("gemma_ft.data").joinpath("bundled")
    rows = folder.joinpath("capitals.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {json.loads(row)["messages"][1]["content"] for row in rows}
    pairs = [a.removeprefix("The capital of ").rstrip(".").split(" is ") for a in answers]
    assert len(pairs) == 50
    for block in folder.joinpath("pretraining.txt").read_text(encoding="utf-8").split("\n\n"):
        countries = [country for country, _ in pairs if country in block]
        assert not (countries and [city for _, city in pairs if city in block]), block
