"""The Playground tab: the base and the tuned model answer the same question, side by side.

Promises that the answer called tuned was given with the tuned weights of the run that is chosen, and that leaving or
stopping ends the answer in the engine too. Needs a run with a finished model, and no training going on (it needs the
memory).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from gemma_ft.engine.client import Answer
from gemma_ft.errors import EngineError
from gemma_ft.monitor.summary import describe_run
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling
from gemma_ft.ui.dashboard import Dashboard
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUIET, shows_errors

FLUSH_SECONDS = 0.05
NO_RUNS = "No finished run yet: tune a model first."
EMPTY_CHAT = "Ask a question below."
LOADING = {"role": "assistant", "content": "", "metadata": {"title": "Loading the model"}}
WAITING = {"role": "assistant", "content": "..."}
Turns = list[dict[str, Any]]


class PlaygroundTab:
    """The tab's components, laid out when this is made inside the tab."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="bottom-row"):
            self.run = gr.Dropdown([], label="Tuned model", info=NO_RUNS, elem_id="playground-run", scale=4)
            self.surprise = gr.Button(
                "A question from its training data", elem_id="surprise-button", min_width=290, scale=0
            )
        with gr.Row():
            self.base = _chat("Base model", "chat-base")
            self.tuned = _chat("Tuned model", "chat-tuned")
        with gr.Row(elem_classes="bottom-row"):
            placeholder = "Ask both models the same question"
            self.question = gr.Textbox(label="Question", placeholder=placeholder, elem_id="question", scale=5, lines=1)
            self.ask = gr.Button("Ask", variant="primary", elem_id="ask-button", min_width=90, scale=0)
            self.halt = gr.Button("Stop", elem_id="stop-answer-button", min_width=90, scale=0)
            self.clear = gr.Button("Clear", elem_id="clear-button", min_width=90, scale=0)
        with gr.Accordion("How the answers are made", open=False):
            with gr.Row():
                self.longest = gr.Slider(8, 2048, 128, step=8, label="Longest answer", info="Tokens of each answer.")
                self.temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is the likeliest answer.")
                self.top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top p", info="Draw from this likeliest share.")
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="The same seed, the same answer.")
            self.system = gr.Textbox(label="System message", info="Said before the first question.", lines=1)

    @property
    def inputs(self) -> list[Any]:
        """What `compare` is given, in order."""
        knobs = [self.longest, self.temperature, self.top_p, self.seed, self.system]
        return [self.run, self.question, self.base, self.tuned, *knobs]


def build_playground(services: Services, tab: gr.Tab, dashboard: Dashboard, token: gr.Textbox, tabs: gr.Tabs) -> None:
    """Lay out the tab and tie it to the engine; the token is for a base model that is gated."""
    page = PlaygroundTab()

    @shows_errors
    def ask_both(token_typed: str, *held: Any) -> Iterator[tuple[Turns, Turns, str]]:
        yield from compare(services, services.token(token_typed), *held)

    @shows_errors
    def pick_question(run_id: str | None) -> str:
        return training_question(services, run_id)

    def choices(selected: str | None) -> Any:
        names = runs_to_chat_with(services)
        value = selected if selected in [run_id for _, run_id in names] else (names[0][1] if names else None)
        return gr.update(choices=names, value=value, info="Newest first." if names else NO_RUNS)

    def opened(selected: str | None) -> Any:
        if runs_to_chat_with(services) and services.manager.active() is None:
            services.engine.warm()  # so that the first answer need not wait for PyTorch
        return choices(selected)

    def open_with(run_id: str) -> tuple[Any, Any]:
        return choices(run_id), gr.Tabs(selected="playground")

    answering = [
        trigger(
            ask_both,
            [token, *page.inputs],
            [page.base, page.tuned, page.question],
            api_visibility="private",
            concurrency_limit=None,
            show_progress="hidden",
        )
        for trigger in (page.ask.click, page.question.submit)
    ]
    page.halt.click(None, None, None, cancels=answering, api_visibility="private")
    for forget in (page.clear.click, page.run.change):
        forget(lambda: ([], []), None, [page.base, page.tuned], **QUIET)
    page.surprise.click(pick_question, page.run, page.question, **QUIET)
    tab.select(opened, page.run, page.run, **QUIET)
    dashboard.to_playground.click(open_with, dashboard.shown_run, [page.run, tabs], **QUIET)


def compare(
    services: Services,
    hub_token: str | None,
    run_id: str | None,
    text: str,
    said_base: Turns,
    said_tuned: Turns,
    *knobs: Any,
) -> Iterator[tuple[Turns, Turns, str]]:
    """Yield both conversations as the two answers grow, and an empty question box. Raises `EngineError`."""
    run = ready_run(services, run_id, text)
    longest, temperature, top_p, seed, system = knobs
    sampling = Sampling(
        max_new_tokens=int(longest), temperature=float(temperature), top_p=float(top_p), seed=int(seed or 0)
    )
    question = {"role": "user", "content": text}
    base, tuned = [*said_base, question], [*said_tuned, question]
    yield [*base, LOADING], [*tuned, LOADING], ""
    answered = base
    for so_far in so_far_of(services.engine.chat(run, "base", with_system(base, system), sampling, hub_token)):
        answered = [*base, {"role": "assistant", "content": so_far}]
        yield answered, [*tuned, WAITING], ""
    for so_far in so_far_of(services.engine.chat(run, "tuned", with_system(tuned, system), sampling, hub_token)):
        yield answered, [*tuned, {"role": "assistant", "content": so_far}], ""


def runs_to_chat_with(services: Services) -> list[tuple[str, str]]:
    """Return (label, id) of the runs that have a finished model, newest first."""
    ready = [run for run in services.manager.runs() if run.model.is_dir()]
    return [(f"{describe_run(run)['name']} · {run.run_id}", run.run_id) for run in ready]


def training_question(services: Services, run_id: str | None) -> str:
    """Return a question of the run's data. Raises `EngineError`, also when its data is gone or asks nothing."""
    if not run_id:
        raise EngineError(NO_RUNS, "Press Try it on the Create tab.", title="Nothing to ask yet")
    config = services.manager.open(run_id).config()
    found = services.inspector.look(config.model_dump(mode="json"), services.settings.hub_token)
    if not found["questions"]:
        why = found["report"]["problems"][0]["message"] if not found["report"]["data"] else "Its data asks nothing."
        raise EngineError(why, "Type a question of your own.", title="There is no question to take")
    return str(random.choice(found["questions"]))


def ready_run(services: Services, run_id: str | None, text: str) -> RunDir:
    """Return the run to ask. Raises `EngineError` when there is none, no question, or a training needs the machine."""
    if not run_id:
        raise EngineError(NO_RUNS, "Press Try it on the Create tab.", title="Nothing to ask yet")
    if not text.strip():
        raise EngineError("The question is empty.", "Type one, or take one from the training data.")
    if active := services.manager.active():
        message = f"The run {active.run_id} is going on and needs this machine's memory."
        raise EngineError(message, "Ask when it has ended, or stop it.", title="A training is going on")
    return services.manager.open(run_id)


def so_far_of(answers: Iterator[Answer]) -> Iterator[str]:
    """Yield the text so far, at most every `FLUSH_SECONDS`, and at last the whole."""
    so_far, shown_at = "", 0.0
    for answer in answers:
        so_far = answer["text"] if answer["event"] == "end" else so_far + answer.get("text", "")
        if answer["event"] == "end" or (so_far and time.monotonic() - shown_at > FLUSH_SECONDS):
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


def _chat(label: str, elem_id: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=label, elem_id=elem_id, height=340, buttons=["copy"], feedback_options=None, placeholder=EMPTY_CHAT
    )
