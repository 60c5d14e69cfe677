"""The Playground tab: the base and the tuned model answer the same question, side by side.

Promises that the answer called tuned was given with the tuned weights of the run that is chosen, and that leaving or
stopping ends the answer in the engine too. Needs a run with a finished model and no training going on (it needs the
memory).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from gemma_ft.data.prepare import prepare
from gemma_ft.engine.client import ChatOptions, Side
from gemma_ft.errors import EngineError
from gemma_ft.rundir import ACTIVE, RunDir
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUIET, shows_errors

FLUSH_SECONDS = 0.05
NO_RUNS = "No finished run yet: tune a model first."
Turns = list[dict[str, Any]]


def build_playground(
    services: Services, tab: gr.Tab, shown_run: gr.State, to_playground: gr.Button, tabs: gr.Tabs
) -> None:
    """Lay out the tab and tie it to the engine."""
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown(
            [], label="Tuned model", info=NO_RUNS, elem_id="playground-run", allow_custom_value=False, scale=3
        )
        surprise = gr.Button("A question from its training data", scale=1, min_width=180)
    with gr.Row():
        base = gr.Chatbot(label="Base model", elem_id="chat-base", height=340, buttons=["copy"], feedback_options=None)
        tuned = gr.Chatbot(
            label="Tuned model", elem_id="chat-tuned", height=340, buttons=["copy"], feedback_options=None
        )
    with gr.Row(equal_height=True):
        question = gr.Textbox(
            label="Question", placeholder="Ask both models the same question", elem_id="question", scale=5, lines=1
        )
        ask = gr.Button("Ask", variant="primary", elem_id="ask-button", min_width=90)
        halt = gr.Button("Stop", elem_id="stop-answer-button", min_width=90)
        clear = gr.Button("Clear", min_width=90)
    with gr.Accordion("How the answers are made", open=False), gr.Row():
        longest = gr.Slider(8, 2048, value=128, step=8, label="Longest answer", info="Tokens of each answer.")
        temperature = gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 gives the likeliest answer.")
        top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top p", info="Draw from the likeliest share of words.")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="The same seed draws the same answer.")
        system = gr.Textbox(label="System message", info="Said before the first question.", lines=1)

    def choices(selected: str | None) -> Any:
        names = runs_to_chat_with(services)
        value = selected if selected in [run_id for _, run_id in names] else (names[0][1] if names else None)
        return gr.update(choices=names, value=value, info="Newest first." if names else NO_RUNS)

    @shows_errors
    def pick_question(run_id: str | None) -> str:
        if not run_id:
            raise EngineError(NO_RUNS, "Press Try it on the Create tab.", title="Nothing to ask yet")
        rows = prepare(services.manager.open(run_id).config().data).train
        return next(turn["content"] for turn in random.choice(rows) if turn["role"] == "user")

    @shows_errors
    def compare(
        run_id: str | None, text: str, said_base: Turns, said_tuned: Turns, *knobs: Any
    ) -> Iterator[tuple[Turns, Turns, str]]:
        run = ready_run(services, run_id, text)
        *chance, system_text = knobs
        options = ChatOptions(
            max_new_tokens=int(chance[0]),
            temperature=float(chance[1]),
            top_p=float(chance[2]),
            seed=int(chance[3] or 0),
        )
        sides: dict[Side, Turns] = {
            "base": [*said_base, {"role": "user", "content": text}],
            "tuned": [*said_tuned, {"role": "user", "content": text}],
        }
        waiting = {"role": "assistant", "content": "", "metadata": {"title": "Loading the model"}}
        yield [*sides["base"], waiting], [*sides["tuned"], waiting], ""
        for side in ("base", "tuned"):
            asked = with_system(sides[side], system_text)
            for so_far in stream(services, run, side, asked, options):
                shown = [*sides[side], {"role": "assistant", "content": so_far}]
                other = [*sides["tuned"], {"role": "assistant", "content": "..."}] if side == "base" else sides["base"]
                yield (shown, other, "") if side == "base" else (other, shown, "")
            sides[side] = shown

    inputs = [chosen, question, base, tuned, longest, temperature, top_p, seed, system]
    answering = [
        trigger(compare, inputs, [base, tuned, question], api_visibility="private", concurrency_limit=None)
        for trigger in (ask.click, question.submit)
    ]
    halt.click(None, None, None, cancels=answering, api_visibility="private")
    clear.click(lambda: ([], []), None, [base, tuned], **QUIET)
    chosen.change(lambda: ([], []), None, [base, tuned], **QUIET)
    surprise.click(pick_question, chosen, question, **QUIET)
    tab.select(choices, chosen, chosen, **QUIET)
    to_playground.click(
        lambda run_id: (choices(run_id), gr.Tabs(selected="playground")), shown_run, [chosen, tabs], **QUIET
    )


def runs_to_chat_with(services: Services) -> list[tuple[str, str]]:
    """Return (label, id) of the runs that have a finished model, newest first."""
    found = []
    for run in services.manager.runs():
        if run.model.is_dir():
            found.append((f"{run.config().name} · {run.run_id}", run.run_id))
    return found


def ready_run(services: Services, run_id: str | None, text: str) -> RunDir:
    """Return the run to ask. Raises `EngineError` when there is none, no question, or a training needs the machine."""
    if not run_id:
        raise EngineError(NO_RUNS, "Press Try it on the Create tab.", title="Nothing to ask yet")
    if not text.strip():
        raise EngineError("The question is empty.", "Type one, or take one from the training data.")
    if active := services.manager.active():
        status = services.manager.state(active).status
        if status in ACTIVE:
            message = f"The run {active.run_id} is {status} and needs this machine's memory."
            raise EngineError(message, "Ask when it has ended, or stop it.", title="A training is going on")
    return services.manager.open(run_id)


def stream(
    services: Services, run: RunDir, side: Side, messages: list[dict[str, str]], options: ChatOptions
) -> Iterator[str]:
    """Yield the answer so far, at most every `FLUSH_SECONDS`, and at last the whole answer."""
    so_far, shown_at = "", 0.0
    for answer in services.engine.chat(run, side, messages, options):
        so_far = answer["text"] if answer["event"] == "end" else so_far + answer.get("text", "")
        if answer["event"] == "end" or time.monotonic() - shown_at > FLUSH_SECONDS:
            shown_at = time.monotonic()
            yield so_far


def with_system(turns: Turns, system: str | None) -> list[dict[str, str]]:
    """Return the turns as plain text messages, the system message first if there is one."""
    plain = [{"role": str(turn["role"]), "content": plain_text(turn["content"])} for turn in turns]
    return [{"role": "system", "content": system.strip()}, *plain] if system and system.strip() else plain


def plain_text(content: Any) -> str:
    """Return the text of a chatbot's message, which arrives as text or as a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
