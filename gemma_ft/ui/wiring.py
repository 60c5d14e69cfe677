"""How handlers are tied to the page: private by default, and our errors shown in one place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar

import gradio as gr

from gemma_ft.errors import GemmaFtError

P = ParamSpec("P")
R = TypeVar("R")


class EventOptions(TypedDict):
    """The options that every event of the page shares."""

    queue: bool
    show_progress: Literal["hidden"]
    api_visibility: Literal["private"]


QUIET: EventOptions = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""A quick handler of the page: no queue, no spinner, not part of the API."""

PRESSES = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-changes]");
  if (button) trigger("pressed", { changes: button.dataset.changes });
});
"""
"""For `gr.HTML(js_on_load=...)`: a press of a button inside that carries changes (JSON: knobs and values) becomes the
event `pressed`."""

REQUEST_ID = """(request, ...rest) => {
  window.gemmaRequest ??= Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("");
  return [window.gemmaRequest, ...rest];
}"""
"""For the first input of a button that makes a run: the name of this request. A second press before the answer has the
same one, so it makes no second run."""

SHOW_RUN = """(run) => {
  window.gemmaRequest = undefined;
  window.gemmaWantedRun = run;
  window.gemmaDashboard?.show(run);
}"""
"""For what follows such a button: show the run that was made; the next press is another request."""

QUEUED: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""A handler of the page that yields, or says something with `gr.Info`: both need Gradio's queue."""


def shows_errors(handler: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into a message on the screen, also those of a handler that yields; let bugs surface as bugs."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def streamed(*args: P.args, **kwargs: P.kwargs) -> Any:
            with _errors_shown():
                yield from handler(*args, **kwargs)

        return streamed

    @functools.wraps(handler)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _errors_shown():
            return handler(*args, **kwargs)

    return wrapped


@contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except GemmaFtError as exc:
        raise gr.Error(str(exc), title=exc.report.title, duration=20, print_exception=False) from exc
