"""Lists of messages, as the many tools write them, become one plain conversation.

Promises roles system, user and assistant only, content that is text, a system turn at most first, user and assistant in
turn, and an assistant's answer at the end. Understands `role`/`content`, `from`/`value`, Gemini's `parts`, lists of
text parts, JSON (or Python) text in a cell, OpenAI's tools and weights. Tool calls and their results are written out as
text. Nothing else is turned into text that was not text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from gemma_ft.data.problems import BadRow, listed, shown
from gemma_ft.data.samples import Conversation, Message

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "model", "gpt", "bot", "chatgpt", "ai", "chatbot", "function_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "ipython"), "tool"),
}
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "parts", "text", "message")
LONGEST_CELL = 2_000_000
LONGEST_PYTHON = 200_000
"""Characters of a cell that are read as Python writes a list; reading it takes some 300 times their memory."""
PYTHON_TURNS = re.compile(r"\s*\[\s*\{")
TOOLS_NOTE = "Tool calls, their results and the tools' descriptions are written out as text."
ADD_ANSWER = "Add the answer to learn, as the last message."


def is_turns(value: Any) -> bool:
    """Tell whether a value looks like a list of messages."""
    return bool(role_keys(value))


def role_keys(value: Any) -> set[str]:
    """Return the names under which a list of messages says who speaks; none for what is no such list."""
    turns = _unpacked(value)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return set()
    keys = [next((key for key in ROLE_KEYS if key in turn), "") for turn in turns]
    return set(keys) if all(keys) else set()


def read_turns(value: Any, column: str, notes: set[str]) -> Conversation:
    """Return a list of messages as a conversation that is not yet checked as a whole. Raises `BadRow`.

    What had to be rewritten is said in `notes`.
    """
    value = _unpacked(value)
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        message = f"{column!r} is {shown(value)}, not a list of messages."
        raise BadRow("not_messages", column, message, 'Write [{"role": "user", "content": "..."}, ...].')
    conversation: Conversation = []
    for place, turn in enumerate(value, start=1):
        said, is_tool = _read_turn(turn, f"{column}[{place}]", notes)
        follows_tool = bool(conversation) and conversation[-1].get("tool") and said["role"] == "user"
        if follows_tool or (is_tool and conversation and conversation[-1]["role"] == "user"):
            conversation[-1]["content"] += f"\n\n{said['content']}"
        else:
            conversation.append({**said, "tool": True} if is_tool else said)
    return [{key: inner for key, inner in message.items() if key != "tool"} for message in conversation]


def check_turns(turns: Conversation, column: str) -> Conversation:
    """Return the conversation if it can be learned from. Raises `BadRow`."""
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    roles = " ".join(turn["role"] for turn in turns) or "none"
    if not any(turn["role"] == "assistant" for turn in spoken):
        raise BadRow("no_answer", column, f"There is no assistant's answer; the roles are: {shown(roles)}.", ADD_ANSWER)
    for place, turn in enumerate(spoken):
        if turn["role"] != ("user", "assistant")[place % 2]:
            message = f"The roles do not alternate: {shown(roles)}."
            raise BadRow("roles", column, message, "Let user and assistant take turns, the user first.")
    if len(spoken) % 2:
        last = shown(spoken[-1]["content"])
        raise BadRow("no_answer", column, f"There is no assistant's answer to the last message {last}.", ADD_ANSWER)
    if all(turn.get("weight") == 0 for turn in spoken[1::2]):
        raise BadRow("no_answer", column, "Every answer has the weight 0, so nothing is learned.", "Give one weight 1.")
    return turns


def with_system(turns: Conversation, system: str | None) -> Conversation:
    """Return the conversation with a system turn before it, unless it has one or there is nothing to say."""
    if not system or (turns and turns[0]["role"] == "system"):
        return turns
    return [{"role": "system", "content": system}, *turns]


def text_of(value: Any, column: str) -> str:
    """Return a value that is text. Raises `BadRow` for what is not, or is empty."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise BadRow("not_text", column, f"{column!r} holds bytes that are no text.", "Save it as text.") from exc
    if value is None:
        raise BadRow("empty_text", column, f"{column!r} is empty (null).", "Fill it in or leave the row out.")
    if not isinstance(value, str):
        raise BadRow("not_text", column, f"{column!r} is {shown(value)}, not text.", "Write one text in quotes.")
    if not value.strip():
        message = f"{column!r} is empty ({shown(value)})."
        raise BadRow("empty_text", column, message, "Fill it in or leave the row out.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        message = f"{column!r} holds half a character (\\u{ord(value[exc.start]):04x})."
        raise BadRow("not_text", column, message, "Save the text again as UTF-8.") from exc
    return value


def _unpacked(value: Any) -> Any:
    """Return what a cell of text holds when it is JSON or Python's way to write a list; columns of lists as a list."""
    if isinstance(value, str) and len(value) <= LONGEST_CELL and value.lstrip()[:1] in ("[", "{"):
        parsers: list[Callable[[str], Any]] = [json.loads]
        if len(value) <= LONGEST_PYTHON and PYTHON_TURNS.match(value):
            parsers.append(ast.literal_eval)
        for parse in parsers:
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
    if isinstance(value, Mapping) and value and all(isinstance(inner, list) for inner in value.values()):
        return [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    return value


def _read_turn(turn: Mapping[str, Any], column: str, notes: set[str]) -> tuple[Message, bool]:
    """Return one message, and whether it is a tool's result."""
    given = next((turn[key] for key in ROLE_KEYS if key in turn), None)
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        known = "user, assistant, system or tool"
        message = f"The role of {column} is {shown(given)}." if given is not None else f"{column} has no role."
        raise BadRow("unknown_role", column, message, f"Use {known}.")
    keys = [key for key in CONTENT_KEYS if key in turn]
    key = next((key for key in keys if turn[key] is not None), [*keys, "content"][0])
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    content = turn.get(key)
    if key not in turn and not calls:
        message = f"{column} has no content; its keys are: {listed(turn)}."
        raise BadRow("missing_column", f"{column}.{key}", message, "Put what is said under `content`.")
    if calls:
        notes.add(TOOLS_NOTE)
        content = _calls_as_text(content, calls, f"{column}.tool_calls")
    elif isinstance(content, list):
        content = _parts_as_text(content, f"{column}.{key}")
    content = text_of(content, f"{column}.{key}")
    if role == "tool":
        notes.add(TOOLS_NOTE)
        return {"role": "user", "content": f"Tool result:\n{content}"}, True
    skipped = role == "assistant" and turn.get("weight") in (0, "0", False) and turn.get("weight") is not None
    return {"role": role, "content": content, **({"weight": 0} if skipped else {})}, False


def _parts_as_text(parts: list[Any], column: str) -> str:
    """Join a list of text parts; a part of another kind cannot be learned from."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            message = f"{column!r} holds a part that is no text: {shown(part)}."
            raise BadRow("not_text", column, message, "Leave pictures and other parts out.")
        texts.append(text)
    return "\n".join(texts)


def _calls_as_text(content: Any, calls: Any, column: str) -> str:
    lines = [content] if isinstance(content, str) and content.strip() else []
    for call in calls if isinstance(calls, list) else [calls]:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or "name" not in inner:
            raise BadRow(
                "not_messages", column, f"{column!r} holds {shown(call)}, no call.", 'Write {"name": "...", ...}.'
            )
        lines.append(_as_json({"name": inner["name"], "arguments": _arguments(inner.get("arguments"))}, column))
    return "\n".join(lines)


def _as_json(value: Any, column: str) -> str:
    try:
        return text_of(json.dumps(value, ensure_ascii=False, default=str), column)
    except RecursionError:
        message = f"{column!r} is nested too deeply to be read."
        raise BadRow("not_text", column, message, "Flatten it, or leave the row out.") from None


def _arguments(given: Any) -> Any:
    """Return a call's arguments as a value; OpenAI writes them as JSON text."""
    if not isinstance(given, str):
        return given or {}
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return given


def tools_as_text(tools: Any, column: str, notes: set[str]) -> str | None:
    """Return descriptions of tools as text for the system turn, or `None` when there are none. Raises `BadRow`."""
    tools = _unpacked(tools)
    if not isinstance(tools, list) or not tools:
        return None
    notes.add(TOOLS_NOTE)
    lines = [_as_json(tool, column) for tool in tools]
    return "\n".join(["You can call these tools:", *lines])
