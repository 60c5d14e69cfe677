"""What a model's own chat template writes: the text of a conversation, and where in it the assistant speaks.

Promises, for every template that writes each turn the same whatever comes later:

* The text before an answer is the text after which the model answers (its generation prompt), to the letter. Some
  Gemma 4 end that prompt with an empty block of thoughts which the finished conversation then leaves out. Such models
  were made to answer after the block, so it is put back, untrained, before every answer that is trained (and in no
  other turn): an answer that is learned without it is learned in a place where the model never speaks.
* There is exactly one BOS at the beginning, whether the template writes it or not.
* A system message is there in every model: where the template refuses one (Gemma 1 and 2) or leaves it out, its text
  and an empty line go in front of the first user's words.

How a template does these things is found out by rendering, once for each template, never by a model's name. Raises
`ModelError` for a model without a template and for one that rewrites earlier turns, and `DataError` for a conversation
that the template refuses. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2.exceptions import TemplateError

from gemma_ft.data.samples import Conversation, Message, Pair
from gemma_ft.errors import DataError, ModelError

SystemTurns = Literal["own turn", "folded"]
Piece = tuple[str, bool]
"""A part of a text, and whether it is trained."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a template writes: who puts a system message where, and what stands around an answer.

    `opening` is what begins an answer in a conversation, `unsaid` what the generation prompt has after that, and
    `closing` is the end-of-turn mark.
    """

    system: Literal["own turn", "folded by the template", "folded here"]
    opening: str
    unsaid: str
    closing: str


def system_turns(tokenizer: Any) -> SystemTurns:
    """Return what becomes of a system message: a turn of its own, or the beginning of the first user's turn."""
    return "own turn" if style_of(tokenizer).system == "own turn" else "folded"


def render(conversation: Conversation, tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    """Return the text of a conversation, as the model's chat template writes it."""
    messages = _messages(conversation, style_of(tokenizer))
    return _render(messages, tokenizer, add_generation_prompt=add_generation_prompt)


def conversation_pieces(conversation: Conversation, tokenizer: Any) -> list[Piece]:
    """Return the text of a conversation cut where trained words begin and end.

    Trained is every assistant's turn, with its end-of-turn mark, whose `weight` is not 0.
    """
    style = style_of(tokenizer)
    learned = [turn["role"] == "assistant" and bool(turn.get("weight", 1)) for turn in conversation]
    messages = _messages(conversation, style)
    folded = len(conversation) - len(messages)
    places = [place - folded for place, is_learned in enumerate(learned) if is_learned]
    whole = _render(messages, tokenizer)
    pieces: list[Piece] = []
    at = 0
    for begin, end in _spans(messages, places, whole, tokenizer, style):
        pieces += [(whole[at:begin] + style.unsaid, False), (whole[begin:end], True)]
        at = end
    return [*pieces, (whole[at:], False)] if at < len(whole) else pieces


def pair_pieces(pair: Pair, tokenizer: Any) -> tuple[str, str, str]:
    """Return the generation prompt of a pair, its better and its worse answer, each with its end-of-turn mark."""
    style = style_of(tokenizer)
    prompt = _messages(pair.prompt, style)
    before = _render(prompt, tokenizer, add_generation_prompt=True)
    answers = []
    for answer in (pair.chosen, pair.rejected):
        whole = _render([*prompt, *_messages([answer], style)], tokenizer)
        begin, end = _span(before.removesuffix(style.unsaid), whole, whole)
        answers.append(whole[begin:end])
    return before, answers[0], answers[1]


def style_of(tokenizer: Any) -> Style:
    """Return how the model's chat template writes. Raises `ModelError` when there is none or it fails."""
    if not tokenizer.chat_template:
        raise ModelError(
            "This model has no chat template, so it is not known how a question and its answer are written for it.",
            "Choose the instruction-tuned variant of this model (its name ends in -it), or train on plain text.",
        )
    key = f"{tokenizer.bos_token}\0{tokenizer.chat_template}"
    if key not in _STYLES:
        try:
            _STYLES[key] = _find_style(tokenizer)
        except TemplateError as exc:
            raise ModelError(f"This model's chat template does not work: {exc}.", "Choose another model.") from exc
    return _STYLES[key]


_STYLES: dict[str, Style] = {}


def _find_style(tokenizer: Any) -> Style:
    """Learn from a question and two different answers what surrounds an answer."""
    asked = [_turn("user", "question")]
    plain, prompt = _apply(asked, tokenizer), _apply(asked, tokenizer, add_generation_prompt=True)
    one, two = (_apply([*asked, _turn("assistant", letter)], tokenizer) for letter in "xy")
    differ = (place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    before = one[: next(differ, len(one))]
    known = before.startswith(plain) and prompt.startswith(before)
    return Style(
        system=_find_system(tokenizer),
        opening=before[len(plain) :] if known else "",
        unsaid=prompt[len(before) :] if known else "",
        closing=one[len(before) + 1 :].rstrip() if known else "",
    )


def _find_system(tokenizer: Any) -> Literal["own turn", "folded by the template", "folded here"]:
    try:
        text = _apply([_turn("system", "instruction"), _turn("user", "question")], tokenizer)
    except TemplateError:
        return "folded here"
    _, found, after = text.partition("instruction")
    between, asked, _ = after.partition("question")
    if not (found and asked):
        return "folded here"
    return "own turn" if between.strip() else "folded by the template"


def _spans(
    messages: Conversation, places: Sequence[int], whole: str, tokenizer: Any, style: Style
) -> list[tuple[int, int]]:
    """Return where the answers at these places begin and end in the text, the end-of-turn mark included.

    What stands around an answer tells where all of them are without rendering the beginning of the conversation up to
    each, which would cost the square of its length. Only the first and the last are then rendered to make sure. Where
    that does not work (an answer is not written word for word, or such marks are in somebody's words), it is done.
    """

    def before(place: int) -> str:
        return _render(messages[:place], tokenizer, add_generation_prompt=True).removesuffix(style.unsaid)

    def after(place: int) -> str:
        return whole if place == len(messages) - 1 else _render(messages[: place + 1], tokenizer)

    found = _find_spans(messages, whole, style)
    if places and found:
        spans = [found[place] for place in places]
        last = _span(before(places[-1]), whole[: spans[-1][1]], whole)
        if last == spans[-1] and whole.startswith(after(places[0])):
            return spans
    return [_span(before(place), after(place), whole) for place in places]


def _find_spans(messages: Conversation, whole: str, style: Style) -> dict[int, tuple[int, int]] | None:
    """Return where each assistant's turn is in the text, if what it should read can be found there once."""
    answers = [place for place, turn in enumerate(messages) if turn["role"] == "assistant"]
    if not (style.opening and style.closing and whole.count(style.opening) == len(answers)):
        return None
    spans, at = {}, 0
    for place in answers:
        begin = whole.index(style.opening, at) + len(style.opening)
        at = begin + len(wanted := messages[place]["content"].strip() + style.closing)
        if not whole.startswith(wanted, begin):
            return None
        spans[place] = (begin, at)
    return spans


def _span(before: str, after: str, whole: str) -> tuple[int, int]:
    """Return where an answer begins and ends, from the texts before it and up to it; they must begin the whole text."""
    if not (whole.startswith(before) and whole.startswith(after) and len(after) > len(before)):
        raise ModelError(
            "This model's chat template rewrites earlier turns, so the trained words cannot be told apart.",
            "Use conversations with one question and one answer, or another model.",
        )
    return len(before), len(after.rstrip())


def _messages(conversation: Conversation, style: Style) -> Conversation:
    """Return the conversation as the template takes it: roles and words only, the system's words folded if need be."""
    messages = [_turn(turn["role"], turn["content"]) for turn in conversation]
    if style.system == "folded here" and [turn["role"] for turn in messages[:2]] == ["system", "user"]:
        system, user, *others = messages
        return [_turn("user", f"{system['content']}\n\n{user['content']}"), *others]
    return messages


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _render(messages: Conversation, tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    try:
        text = _apply(messages, tokenizer, add_generation_prompt=add_generation_prompt)
    except TemplateError as exc:
        roles = ", ".join(turn["role"] for turn in messages)
        raise DataError(
            f"This model's chat template refuses a conversation with the turns {roles}: {exc}",
            "Let user and assistant take turns, beginning with the user, or choose another model.",
        ) from exc
    bos = tokenizer.bos_token or ""
    return text if text.startswith(bos) else bos + text


def _apply(messages: Conversation, tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
