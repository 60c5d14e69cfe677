"""What is trained is the answer and the end-of-turn mark, and the boundary lies where the model will answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemma_ft.config import DataConfig
from gemma_ft.data.prepare import prepare
from gemma_ft.errors import DataError, ModelError
from gemma_ft.train.encode import IGNORED, encode, encode_all, encode_prompt, render
from gemma_ft.train.resolve import DEMO_FOLDER

pytestmark = pytest.mark.train

TRICKY = ["a", "\n\nnewlines first", "ends with newlines\n\n", " spaces ", "<end_of_turn>", "naïve 日本 🎉", "1\n2\n3"]


@pytest.fixture(scope="module")
def tokenizer(demo_models: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_models / DEMO_FOLDER)


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


@pytest.mark.parametrize("answer", TRICKY)
def test_the_trained_tokens_are_the_answer_and_the_end_of_turn(tokenizer: Any, answer: str) -> None:
    row = encode(talk("question", answer), tokenizer, 512)
    trained = [label for label in row.labels if label != IGNORED]
    assert tokenizer.decode(trained) == f"{answer.strip()}<end_of_turn>"
    assert len(row.input_ids) == len(row.labels)
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))


@pytest.mark.parametrize("answer", TRICKY)
def test_what_comes_before_the_answer_is_the_prompt_that_the_model_will_get(tokenizer: Any, answer: str) -> None:
    conversation = talk("question", answer)
    row = encode(conversation, tokenizer, 512)
    prompt = encode_prompt(conversation[:1], tokenizer)
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert row.labels[len(prompt)] != IGNORED


def test_the_row_reads_as_the_chat_template_writes_it_with_one_bos(tokenizer: Any) -> None:
    conversation = [{"role": "system", "content": "Be brief."}, *talk("one", "two", "three", "four")]
    row = encode(conversation, tokenizer, 512)
    assert tokenizer.decode(row.input_ids) == render(conversation, tokenizer)
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    trained = tokenizer.decode([label for label in row.labels if label != IGNORED])
    assert trained == "two<end_of_turn>four<end_of_turn>"


def test_every_bundled_row_is_taught_whole(tokenizer: Any) -> None:
    data = prepare(DataConfig())
    rows, lost = encode_all(data.train, tokenizer, 128)
    assert (len(rows), lost) == (len(data.train), 0)
    assert all(row.cut == 0 for row in rows)


def test_rows_whose_answer_is_cut_off_are_left_out_and_all_of_them_is_an_error(tokenizer: Any) -> None:
    short, long = talk("hi", "there"), talk("word " * 100, "answer")
    rows, lost = encode_all([short, long], tokenizer, 40)
    assert (len(rows), lost) == (1, 1)
    with pytest.raises(DataError, match="token 40"):
        encode_all([long], tokenizer, 40)
    assert encode(long, tokenizer, 40).cut > 0


def test_a_model_without_a_chat_template_is_refused_with_advice(tokenizer: Any, demo_models: Path) -> None:
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(demo_models / DEMO_FOLDER)
    bare.chat_template = None
    with pytest.raises(ModelError, match="-it"):
        encode(talk("q", "a"), bare, 64)


def test_a_template_that_rewrites_the_past_is_refused(tokenizer: Any, demo_models: Path) -> None:
    from transformers import AutoTokenizer

    forgetful = AutoTokenizer.from_pretrained(demo_models / DEMO_FOLDER)
    forgetful.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelError, match="rewrites"):
        encode(talk("q", "a", "b", "c"), forgetful, 64)
