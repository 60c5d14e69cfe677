"""The page's API for programs (`gradio_client`): start, watch, stop and ask, by name.

Promises plain JSON in and out, and our errors as the message of the client's exception. The names are a contract.
"""

from __future__ import annotations

import gradio as gr

from gemma_ft.check import refused
from gemma_ft.config import parse_config
from gemma_ft.engine.client import Side
from gemma_ft.errors import ConfigError
from gemma_ft.monitor.summary import summarise
from gemma_ft.sampling import Sampling
from gemma_ft.ui.playground import ready_run
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import shows_errors


def add_api(services: Services) -> None:
    """Add the named endpoints to the page that is being built."""
    manager = services.manager

    @shows_errors
    def check_run(config: dict) -> dict:  # type: ignore[type-arg]
        try:
            values = services.admitted(config)
        except ConfigError as exc:
            return {**refused(exc), "xray": None, "fit": None, "doctor": []}
        return services.inspector.full_check(values, services.settings.hub_token)

    @shows_errors
    def start_run(config: dict, request_id: str = "") -> str:  # type: ignore[type-arg]
        return services.start(parse_config(config), services.settings.hub_token, request_id or None).run_id

    @shows_errors
    def runs() -> list:  # type: ignore[type-arg]
        return [summarise(run, manager.state(run)) for run in manager.runs()]

    @shows_errors
    def run(run_id: str) -> dict:  # type: ignore[type-arg]
        found = manager.open(run_id)
        return summarise(found, manager.state(found))

    @shows_errors
    def stop_run(run_id: str, save: bool = True) -> dict:  # type: ignore[type-arg]
        services.require_control()
        found = manager.stop(run_id, save=save)
        return summarise(found, manager.state(found))

    @shows_errors
    def resume_run(run_id: str) -> dict:  # type: ignore[type-arg]
        found = services.resume(run_id, services.settings.hub_token)
        return summarise(found, manager.state(found))

    @shows_errors
    def chat(
        run_id: str, message: str, side: str = "tuned", max_new_tokens: int = 256, temperature: float = 0.0
    ) -> str:
        if side not in ("base", "tuned"):
            raise ConfigError(f"There is no side {side!r}.", "Ask `base` or `tuned`.")
        chosen: Side = "base" if side == "base" else "tuned"
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        messages = [{"role": "user", "content": message}]
        *_, last = services.engine.chat(ready_run(services, run_id, message), chosen, messages, sampling)
        return str(last["text"])

    for endpoint in (check_run, start_run, runs, run, stop_run, resume_run, chat):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=None)
