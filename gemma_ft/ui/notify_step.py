"""The part of the Review where a person says who is told when the run ends, and tries it.

Promises that the test is really sent and that what came back is said in words, without the address.
"""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from gemma_ft.errors import GemmaFtError
from gemma_ft.jobs.notify import try_address
from gemma_ft.ui.form import Form
from gemma_ft.ui.present import escape
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUEUED

KNOBS = ("notify.url", "notify.when")
HINT = """This machine sends it, so it works with the page closed. The address is kept with the run and shown nowhere;
whoever has it can write to you."""
OF_THIS_MACHINE = "If it is empty, the address of this machine is told (`GEMMA_FT_NOTIFY_URL`)."


class NotifyStep:
    """The part's components, laid out when this is made."""

    def __init__(self, form: Form, services: Services) -> None:
        settings = services.settings
        with gr.Accordion("Be told when it ends (optional)", open=False):
            gr.Markdown(f"{HINT} {OF_THIS_MACHINE if settings.notify_url else ''}", elem_classes="about")
            with gr.Row():
                for name in KNOBS:
                    form[name].render()
            with gr.Row(elem_classes="button-row"):
                said = gr.Markdown(elem_id="notify-test-said")
                send = gr.Button("Send a test", elem_id="notify-test-button")

        def send_test(url: str | None) -> Iterator[str]:
            yield "Sending …"
            try:
                yield escape(try_address((url or "").strip() or None, settings))
            except GemmaFtError as exc:
                yield escape(f"{exc.report.what_happened} {exc.report.what_to_do}")

        send.click(send_test, form["notify.url"], said, **QUEUED)
