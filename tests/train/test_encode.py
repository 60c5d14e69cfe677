"""What is trained is the answer and the end-of-turn mark, and the boundary lies where the model will answer."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_ft.config import DataConfig
from gemma_ft.data.prepare import prepare
from gemma_ft.data.samples import Pair
from gemma_ft.errors import DataError, ModelError
from gemma_ft.train.encode import (
    IGNORED,
    Encoded,
    EncodedPair,
    encode,
    encode_all,
    encode_prompt,
)
from gemma_ft.train.template import render, system_turns
from tiny_gemmas import EMPTY_THOUGHTS, GEMMA_4, TEMPLATES, THOUGHTLESS, tokenizer_for

pytestmark = pytest.mark.train

TRICKY = [
    "a",
    "\n\nnewlines first",
    "ends with newlines\n\n",
    " spaces ",
    "<end_of_turn>",
    "naïve 日本 🎉",
    "<b>1</b>\n2",
]
INLINE_THOUGHTS = "<|channel>thought\nhm\n<channel|>Indeed."
SYSTEM = {"role": "system", "content": "Be brief."}
FORGETFUL = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
LOOKS_BACK = "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last else m.content[:1] }}|{% endfor %}"


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return tokenizer_for(request.param)


@pytest.fixture
def gemma3() -> Any:
    return tokenizer_for("gemma3")


def talk(*texts: str, silent: int | None = None) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
    ]
    if silent is not None:
        turns[silent]["weight"] = 0
    return turns


def pair(chosen: str, rejected: str, *prompt: str) -> Pair:
    answers = ({"role": "assistant", "content": text} for text in (chosen, rejected))
    return Pair(talk(*(prompt or ("question",))), *answers)


def with_template(text: str | None) -> Any:
    """A tokenizer of its own, so that no other test meets this template."""
    from copy import deepcopy

    tokenizer = deepcopy(tokenizer_for("gemma3"))
    tokenizer.chat_template = text
    return tokenizer


def sequence(sample: Any, tokenizer: Any, max_length: int = 2048) -> Encoded:
    row = encode(sample, tokenizer, max_length)
    assert isinstance(row, Encoded)
    assert len(row.input_ids) == len(row.labels)
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    return row


def encoded_pair(sample: Pair, tokenizer: Any, max_length: int = 2048) -> EncodedPair:
    row = encode(sample, tokenizer, max_length)
    assert isinstance(row, EncodedPair)
    return row


def learned(row: Encoded, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in row.labels if label != IGNORED]))


def end_of(tokenizer: Any) -> str:
    return "<turn|>" if "<turn|>" in tokenizer.chat_template else "<end_of_turn>"


@pytest.mark.parametrize("answer", TRICKY)
def test_the_trained_tokens_are_the_answer_and_the_end_of_turn(tokenizer: Any, answer: str) -> None:
    row = sequence(talk("question", answer), tokenizer)
    assert learned(row, tokenizer) == answer.strip() + end_of(tokenizer)
    assert row.labels[0] == IGNORED


@pytest.mark.parametrize("answer", TRICKY)
@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["", "system"])
def test_what_comes_before_the_answer_is_the_prompt_that_the_model_will_get(
    tokenizer: Any, system: list[dict[str, Any]], answer: str
) -> None:
    conversation = [*system, *talk("question", answer)]
    row = sequence(conversation, tokenizer)
    prompt = encode_prompt(conversation[:-1], tokenizer)
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert row.labels[len(prompt)] != IGNORED


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["", "system"])
@pytest.mark.parametrize("turns", [2, 4, 6, 10])
def test_every_answer_of_a_long_conversation_is_trained_and_nothing_else(
    tokenizer: Any, turns: int, system: list[dict[str, Any]]
) -> None:
    conversation = [*system, *talk(*(f"turn {n}" for n in range(turns)))]
    row = sequence(conversation, tokenizer)
    answers = [f"turn {n}{end_of(tokenizer)}" for n in range(1, turns, 2)]
    assert learned(row, tokenizer) == "".join(answers)
    text = tokenizer.decode(row.input_ids)
    assert text.replace(EMPTY_THOUGHTS, "") == render(conversation, tokenizer)
    assert text.count("Be brief.") == len(system)
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert row.input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("silent", [1, 3, 5])
def test_an_answer_of_weight_0_is_there_and_not_trained(tokenizer: Any, silent: int) -> None:
    conversation = talk("one", "two", "three", "four", "five", "six", silent=silent)
    row = sequence(conversation, tokenizer)
    others = [word for place, word in ((1, "two"), (3, "four"), (5, "six")) if place != silent]
    assert learned(row, tokenizer) == "".join(word + end_of(tokenizer) for word in others)
    assert tokenizer.decode(row.input_ids).replace(EMPTY_THOUGHTS, "") == render(conversation, tokenizer)


@pytest.mark.parametrize("trick", ["<start_of_turn>model\n", "<|turn>model\n", "<end_of_turn>", "<turn|>", "two"])
def test_marks_in_somebodys_words_move_no_boundary(tokenizer: Any, trick: str) -> None:
    row = sequence(talk("one", "two", f"three {trick} two", f"{trick}four", "five", "six"), tokenizer)
    end = end_of(tokenizer)
    assert learned(row, tokenizer) == f"two{end}{trick}four{end}six{end}"


@pytest.mark.parametrize("name", GEMMA_4)
def test_thoughts_that_the_template_leaves_out_are_not_trained(name: str) -> None:
    tokenizer = tokenizer_for(name)
    row = sequence(talk("one", INLINE_THOUGHTS, "three", INLINE_THOUGHTS), tokenizer)
    assert learned(row, tokenizer) == "Indeed.<turn|>Indeed.<turn|>"
    assert "hm" not in tokenizer.decode(row.input_ids)


def test_an_empty_block_of_thoughts_stands_before_every_trained_answer_and_in_no_other_turn() -> None:
    tokenizer = tokenizer_for(THOUGHTLESS)
    row = sequence(talk("one", "two", "three", "<four>", silent=1), tokenizer)
    head = "<bos><|turn>user\none<turn|>\n<|turn>model\ntwo<turn|>\n<|turn>user\nthree<turn|>\n<|turn>model\n"
    assert tokenizer.decode(row.input_ids) == f"{head}{EMPTY_THOUGHTS}<four><turn|>\n"
    assert learned(row, tokenizer) == "<four><turn|>"
    both = sequence(talk("one", "two", "three", "four"), tokenizer)
    assert tokenizer.decode(both.input_ids).count(EMPTY_THOUGHTS) == 2
    assert learned(both, tokenizer) == "two<turn|>four<turn|>"


def test_where_a_system_message_goes_is_found_out_by_rendering(tokenizer: Any) -> None:
    text = render([SYSTEM, *talk("Hello?")], tokenizer)
    if "<|turn>" in tokenizer.chat_template:
        assert system_turns(tokenizer) == "own turn"
        assert text.startswith("<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nHello?<turn|>")
    else:
        assert system_turns(tokenizer) == "folded"
        assert text.startswith("<bos><start_of_turn>user\nBe brief.\n\nHello?<end_of_turn>")


def test_a_template_that_leaves_the_system_message_out_gets_it_folded() -> None:
    deaf = with_template("{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}|{% endfor %}")
    assert system_turns(deaf) == "folded"
    assert render([SYSTEM, *talk("Hello?", "Hi")], deaf) == "<bos>[user]Be brief.\n\nHello?|[assistant]Hi|"


@pytest.mark.parametrize("begin", ["", "<bos>", "<bos><bos>"])
@pytest.mark.parametrize("end", ["", "<eos>"])
def test_a_text_is_trained_whole_between_one_bos_and_one_eos(gemma3: Any, begin: str, end: str) -> None:
    row = sequence(f"{begin}Once upon a time\n{end}", gemma3)
    assert gemma3.decode(row.input_ids) == "<bos>Once upon a time\n<eos>"
    assert learned(row, gemma3) == "Once upon a time\n<eos>"
    assert row.labels[0] == IGNORED


def test_a_text_needs_no_chat_template_and_a_conversation_does() -> None:
    bare = with_template(None)
    assert sequence("A text.", bare).num_trained > 0
    with pytest.raises(ModelError, match="-it"):
        encode(talk("q", "a"), bare, 64)
    with pytest.raises(ModelError, match="-it"):
        system_turns(bare)


@pytest.mark.parametrize("prompt", [("question",), ("one", "two", "three")], ids=["one turn", "more turns"])
def test_both_answers_of_a_pair_follow_the_prompt_that_the_model_will_get(
    tokenizer: Any, prompt: tuple[str, ...]
) -> None:
    sample = pair("yes", "<no>\n", *prompt)
    row = encoded_pair(sample, tokenizer)
    assert row.prompt_ids == encode_prompt(sample.prompt, tokenizer)
    assert row.prompt_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(row.chosen_ids) == f"yes{end_of(tokenizer)}"
    assert tokenizer.decode(row.rejected_ids) == f"<no>{end_of(tokenizer)}"
    for found, answer in zip(row.sequences, (row.chosen_ids, row.rejected_ids), strict=True):
        assert found.input_ids == row.prompt_ids + answer
        assert found.labels == [IGNORED] * len(row.prompt_ids) + answer
    alone = sequence([*sample.prompt[-1:], sample.chosen], tokenizer)
    assert learned(alone, tokenizer) == tokenizer.decode(row.chosen_ids)


def test_a_pair_keeps_its_system_message(tokenizer: Any) -> None:
    plain = pair("yes", "no")
    row = encoded_pair(Pair([SYSTEM, *plain.prompt], plain.chosen, plain.rejected), tokenizer)
    assert tokenizer.decode(row.prompt_ids).count("Be brief.") == 1
    assert row.prompt_ids == encode_prompt([SYSTEM, *plain.prompt], tokenizer)


def test_what_is_cut_off_is_counted(gemma3: Any) -> None:
    whole = sequence(talk("question", "a long answer"), gemma3)
    for limit in range(1, len(whole.input_ids) + 2):
        row = sequence(talk("question", "a long answer"), gemma3, limit)
        assert row.input_ids == whole.input_ids[:limit]
        assert row.cut == len(whole.input_ids) - len(row.input_ids)
        assert row.cut_trained == whole.num_trained - row.num_trained
    text = sequence("many words in a text", gemma3, 4)
    assert text.cut == text.cut_trained == sequence("many words in a text", gemma3).num_trained - 3


def test_each_sequence_of_a_pair_is_cut_on_its_own(gemma3: Any) -> None:
    whole = encoded_pair(pair("the same beginning", "the same beginning and a longer end"), gemma3)
    limit = len(whole.chosen.input_ids)
    row = encoded_pair(pair("the same beginning", "the same beginning and a longer end"), gemma3, limit)
    assert (row.chosen.cut, row.chosen_ids) == (0, whole.chosen_ids)
    assert row.rejected.cut == row.cut == row.cut_trained == len(whole.rejected.input_ids) - limit
    assert row.num_trained == row.chosen.num_trained + row.rejected.num_trained
    same_so_far = encoded_pair(pair("the same beginning", "the same beginning and a longer end"), gemma3, limit - 1)
    assert same_so_far.num_trained == 0
    no_room = encoded_pair(pair("a", "b"), gemma3, len(whole.prompt_ids))
    assert (no_room.prompt_ids, no_room.chosen_ids, no_room.num_trained) == (whole.prompt_ids, [], 0)
    assert encoded_pair(pair("a", "b"), gemma3, 5).prompt_ids == whole.prompt_ids[:5]


def test_every_bundled_row_is_taught_whole(gemma3: Any) -> None:
    data = prepare(DataConfig())
    told: list[tuple[int, int]] = []
    rows, lost = encode_all(data.train, gemma3, 128, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(data.train), len(data.train))
    assert (len(rows), lost) == (len(data.train), 0)
    assert all(row.cut == 0 for row in rows)
    assert rows == [encode(sample, gemma3, 128) for sample in data.train]


def test_rows_that_teach_nothing_are_left_out_and_all_of_them_is_an_error(gemma3: Any) -> None:
    short, long = talk("hi", "there"), talk("word " * 100, "answer")
    rows, lost = encode_all([short, long, "a text", talk("hi", "there", silent=1)], gemma3, 40)
    assert (len(rows), lost) == (2, 2)
    with pytest.raises(DataError, match="token 40"):
        encode_all([long], gemma3, 40)
    pairs, lost = encode_all([pair("a", "b"), pair("a", "b", "word " * 100)], gemma3, 40)
    assert (len(pairs), lost) == (1, 1)
    with pytest.raises(DataError, match="token 40"):
        encode_all([pair("a", "b", "word " * 100)], gemma3, 40)
    assert encode_all([], gemma3, 40) == ([], 0)


@pytest.mark.parametrize("template", [FORGETFUL, LOOKS_BACK])
@pytest.mark.parametrize("turns", [4, 8])
def test_a_template_that_rewrites_the_past_is_refused(template: str, turns: int) -> None:
    with pytest.raises(ModelError, match="rewrites"):
        encode(talk(*(f"turn {n}" for n in range(turns))), with_template(template), 64)


def test_a_conversation_that_the_template_refuses_is_told_apart_from_a_bug(gemma3: Any) -> None:
    with pytest.raises(DataError, match="take turns"):
        encode([*talk("one"), *talk("two", "three")], gemma3, 64)
    with pytest.raises(ModelError, match="does not work"):
        encode(talk("q", "a"), with_template("{{ nothing.there.at.all }}"), 64)
