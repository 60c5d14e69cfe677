"""What goes wrong with the Hub, as a run tells it: real runs, the real client, a real server that fails on purpose.

Each case is a run from its start to its failure; what the person reads must name the cause and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_for_end
from gemma_ft.config import DataConfig, ModelConfig, RunConfig
from gemma_ft.errors import ErrorReport
from gemma_ft.jobs.manager import JobManager
from gemma_ft.settings import Settings
from gemma_ft.train.resolve import DEMO_FOLDER
from hub_server import HubServer

ADA, READER, UNKNOWN = "hf_ada_secret_token", "hf_reader", "hf_unknown"
GEMMA = {"config.json": b'{"model_type": "gemma3_text"}'}
ROWS = "\n".join(json.dumps({"prompt": f"question {n}", "completion": f"answer {n}"}) for n in range(200)).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_user("ada", ADA)
        server.add_user("eve", READER, role="read")
        for repo_type, files in (("model", GEMMA), ("dataset", {"rows.jsonl": ROWS})):
            server.add_repo("ada/gated", files, repo_type, gated=True)
            server.add_repo("ada/open", files, repo_type)
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def failure_of(settings: Settings, config: RunConfig, token: str | None) -> tuple[ErrorReport, int | None]:
    """Start a run, wait until it has failed, and return why and its exit code."""
    manager = JobManager(settings)
    run = manager.start(config, hub_token=token)
    state = wait_for_end(manager, run)
    assert state.status == "failed", run.log.read_text()
    assert state.error is not None
    assert all((state.error.title, state.error.what_happened, state.error.what_to_do))
    assert token is None or token not in run.state_file.read_text()
    return state.error, state.exit_code


def model(repo: str, **more: Any) -> RunConfig:
    return RunConfig(model=ModelConfig(id=repo, **more))


def data(repo: str, **more: Any) -> RunConfig:
    return RunConfig(data=DataConfig(source="hub", id=repo, **more))


REFUSED = [
    (model("ada/gated"), READER, "gated", "gated", "licence"),
    (model("ada/gated"), None, "gated", "gated", "licence"),
    (model("ada/missing"), ADA, "no_model", "no model", "spelling"),
    (model("ada/--bad--"), ADA, "no_model", "no model", "spelling"),
    (model("ada/open", revision="v9"), ADA, "no_model", "no such revision", "model.revision"),
    (model("ada/gated"), UNKNOWN, "token", "refused", "token"),
    (data("ada/gated"), READER, "gated", "gated", "licence"),
    (data("ada/missing"), ADA, "no_dataset", "no data set", "spelling"),
    (data("ada/gated"), UNKNOWN, "token", "refused", "token"),
]


@pytest.mark.parametrize(("config", "token", "kind", "said", "advice"), REFUSED, ids=lambda value: str(value)[:12])
def test_a_refusal_is_told_by_its_own_kind(
    hub: HubServer, settings: Settings, config: RunConfig, token: str | None, kind: str, said: str, advice: str
) -> None:
    error, exit_code = failure_of(settings, config, token)
    assert error.kind == kind, error
    assert said in error.what_happened
    assert advice in error.what_to_do
    assert exit_code == (2 if config.data.source == "hub" else 1)


def test_a_token_that_is_none_is_told_before_anything_starts(hub: HubServer, settings: Settings) -> None:
    error, _ = failure_of(settings, model("ada/open"), "two words")
    assert error.kind == "token"
    assert "Copy it again" in error.what_to_do
    assert hub.requests == []


@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limit"), (503, "hub_down"), (500, "hub_down")])
@pytest.mark.parametrize(("config", "path"), [(model("ada/open"), "models"), (data("ada/open"), "datasets")])
def test_a_hub_that_is_overloaded_or_broken_asks_to_come_back(
    hub: HubServer, settings: Settings, config: RunConfig, path: str, status: int, kind: str
) -> None:
    hub.fail_next(f"/api/{path}/ada/open", status, times=100)
    error, exit_code = failure_of(settings, config, ADA)
    assert error.kind == kind, error
    assert str(status) in error.what_happened
    assert "some minutes" in error.what_to_do
    assert exit_code == 1, "neither the configuration nor the data is at fault"


def test_a_connection_that_is_cut_in_the_middle_of_the_weights_is_a_lost_network(
    hub: HubServer, settings: Settings, demo_models: Path
) -> None:
    folder = demo_models / DEMO_FOLDER
    hub.add_repo("ada/tiny", {path.name: path.read_bytes() for path in folder.iterdir()})
    weights = next(path for path in hub.files("ada/tiny") if path.endswith(".safetensors"))
    hub.cut_next(f"/ada/tiny/resolve/{hub_head(hub, 'ada/tiny')}/{weights}", times=100)
    error, exit_code = failure_of(settings, model("ada/tiny"), ADA)
    assert error.kind == "network", error
    assert "could not be reached" in error.what_happened
    assert "network" in error.what_to_do
    assert exit_code == 1
    asked = [seen for seen in hub.requests if seen.path.endswith(weights) and seen.method == "GET"]
    assert len(asked) > 1, "the client did not try again"


def hub_head(hub: HubServer, repo: str) -> str:
    """Return the id of a model's newest commit."""
    from huggingface_hub import HfApi

    return str(HfApi(endpoint=hub.endpoint, token=ADA).model_info(repo).sha)


def test_a_connection_that_is_cut_in_the_middle_of_the_rows_is_a_lost_network(
    hub: HubServer, settings: Settings
) -> None:
    hub.cut_next("/datasets/ada/open/resolve", times=1000)
    error, exit_code = failure_of(settings, data("ada/open"), ADA)
    assert error.kind == "network", error
    assert "network" in error.what_to_do
    assert exit_code == 1


@pytest.mark.parametrize("config", [model("google/gemma-3-1b-it"), data("ada/any")], ids=["model", "data"])
def test_no_network_is_told_as_such(settings: Settings, monkeypatch: pytest.MonkeyPatch, config: RunConfig) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error, _ = failure_of(settings, config, None)
    assert error.kind == "network"
    assert "could not be reached" in error.what_happened


def test_a_download_that_fills_the_disk_says_so(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    """The folder of the cache cannot hold it: a file system of one page, if this account may make one."""
    import subprocess

    small = tmp_path / "hf"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "gemma-ft-test", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        hub.add_repo("ada/large", {**GEMMA, "model.safetensors": bytes(10**6)})
        error, _ = failure_of(settings, model("ada/large"), ADA)
        assert error.kind == "disk", error
        assert "Free some space" in error.what_to_do
    finally:
        subprocess.run(["umount", str(small)], check=True)
