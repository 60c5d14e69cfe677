"""The named endpoints, called by the real client on the real page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gradio_client import Client

from conftest import App, wait_for_end, wait_until
from gemma_ft import recipes

pytestmark = pytest.mark.train
NAMES = {"/check_run", "/start_run", "/runs", "/run", "/stop_run", "/resume_run", "/chat"}


def loaded_libraries(pid: int) -> str:
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:  # noqa: PTH123
        return maps.read()


def test_a_program_starts_watches_stops_resumes_and_asks(start_app: Callable[[], App]) -> None:
    app = start_app()
    assert "libtorch" not in loaded_libraries(app.process.pid)
    client = Client(app.url, verbose=False)
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == NAMES
    config = recipes.try_it().model_dump(mode="json")

    report = client.predict(config, api_name="/check_run")
    assert report["ok"]
    assert report["data"]["train_rows"] == 135

    run_id = client.predict(config, api_name="/start_run")
    wait_until(lambda: client.predict(run_id, api_name="/run")["step"] > 3, timeout=120, what="a few steps")
    queued = client.predict(config, "one press", api_name="/start_run")
    assert client.predict(config, "one press", api_name="/start_run") == queued
    assert client.predict(queued, api_name="/run")["status"] == "queued"
    client.predict(queued, api_name="/stop_run")
    with pytest.raises(Exception, match="is going on"):
        client.predict(run_id, "hello", api_name="/chat")
    client.predict(run_id, True, api_name="/stop_run")
    run = app.manager.open(run_id)
    assert wait_for_end(app.manager, run).status == "stopped"

    client.predict(run_id, api_name="/resume_run")
    assert wait_for_end(app.manager, run).status == "finished"
    summary = client.predict(run_id, api_name="/run")
    assert (summary["status"], summary["step"]) == ("finished", 150)
    assert [listed["run_id"] for listed in client.predict(api_name="/runs")] == [queued, run_id]

    question = "What is the capital of France?"
    assert client.predict(run_id, question, "tuned", api_name="/chat") == "The capital of France is Paris."
    assert client.predict(run_id, question, "base", api_name="/chat") != "The capital of France is Paris."
    assert "libtorch" not in loaded_libraries(app.process.pid)


def test_wrong_calls_are_answered_in_words(start_app: Callable[[], App]) -> None:
    client = Client(start_app().url, verbose=False)
    with pytest.raises(Exception, match="no run 'x'"):
        client.predict("x", api_name="/run")
    with pytest.raises(Exception, match="learning_rate"):
        client.predict({"training": {"learning_rat": 1}}, api_name="/start_run")
    report = client.predict({"training": {"epochs": 0}}, api_name="/check_run")
    assert not report["ok"]
    assert "more than 0" in report["problems"][0]["message"]
    assert client.predict(api_name="/runs") == []
