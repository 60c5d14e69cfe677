"""The Dashboard's panel about the disk: what the run on the screen takes, what all take, and deleting.

Promises that nothing is deleted without a yes to a question that names the run, and that a run which is going on or is
loaded in the Playground is refused. Looks at the disk only when it is opened or something was deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from gemma_ft.jobs.storage import sweep
from gemma_ft.monitor.disk import disk_use, disk_warning, run_size, size_in_words
from gemma_ft.ui.present import escape
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUEUED, QUIET, shows_errors

DECLINED = ""


def add_disk_panel(services: Services, shown_run: gr.Textbox) -> None:
    """Lay out the panel and tie it to the run on the screen."""
    with gr.Accordion("Disk", open=False, elem_id="disk-panel") as panel:
        said = gr.Markdown(elem_id="disk-use")
        with gr.Row(elem_classes="button-row"):
            checkpoints = gr.Button("Delete the checkpoints of this run", elem_id="delete-checkpoints-button")
            whole = gr.Button("Delete this run", elem_id="delete-run-button", variant="stop")

    def look(run_id: str) -> str:
        return disk_in_words(services, run_id)

    panel.expand(look, shown_run, said, **QUIET)
    shown_run.change(look, shown_run, said, **QUIET)
    for button, only, question in (
        (checkpoints, True, "Delete the checkpoints of this run for good? It cannot be resumed or continued then.\n"),
        (whole, False, "Delete this run with its model, its checkpoints and its log for good?\n"),
    ):
        button.click(
            _deleting(services, only_checkpoints=only),
            shown_run,
            said,
            js=f"(run) => run && confirm({json.dumps(question)} + run) ? run : '{DECLINED}'",
            **QUEUED,
        )


def disk_in_words(services: Services, run_id: str) -> str:
    """Return what a run takes and what all take, as Markdown; an id that is empty or gone is no run."""
    runs = services.settings.runs
    use = disk_use(runs)
    lines = [f"All {len(use.runs):,} runs: **{size_in_words(use.total)}**; {size_in_words(use.free)} free."]
    if run_id in (size.run_id for size in use.runs):
        size = run_size(services.manager.open(run_id))
        parts = {"checkpoints": size.checkpoints, "model": size.model, "log, facts and the rest": size.rest}
        told = ", ".join(f"{name} {size_in_words(part)}" for name, part in parts.items())
        lines.insert(0, f"This run: **{size_in_words(size.total)}** ({told}).")
    if warning := disk_warning(runs):
        lines.append(escape(warning))
    return "\n\n".join(lines)


def _deleting(services: Services, *, only_checkpoints: bool) -> Callable[[str], Any]:
    """Return a handler that deletes and says what is left; who declined sees what stood there before."""

    @shows_errors
    def delete(run_id: str) -> Any:
        if run_id == DECLINED:
            return gr.skip()
        freed = services.delete(run_id, only_checkpoints=only_checkpoints)
        sweep(services.settings.runs)
        gr.Info(f"{size_in_words(freed)} are free again.", title="Deleted")
        return disk_in_words(services, run_id)

    return delete
