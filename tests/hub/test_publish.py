"""The trainer and the Hub: real runs, the real client, a small real server in place of huggingface.co."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import ModelConfig, PublishConfig, RunConfig
from gemma_ft.errors import EngineError
from gemma_ft.events import read_facts
from gemma_ft.jobs.manager import JobManager
from gemma_ft.rundir import RunDir, RunState
from gemma_ft.sampling import Sampling
from gemma_ft.settings import Settings
from gemma_ft.train.resolve import DEMO_FOLDER
from gemma_ft.ui.services import Services
from hub_server import HubServer

TOKEN = "hf_writer_secret_token"
SHORT = {"max_steps": 4, "eval_every": 0, "save_every": 0}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub on this machine; children started by the test talk to it."""
    with HubServer() as server:
        server.add_user("ada", TOKEN)
        server.add_user("eve", "hf_reader", role="read")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def short_run(*, repo: str | None = None, model: str | None = None) -> RunConfig:
    base = recipes.try_it()
    return base.model_copy(
        update={
            "training": base.training.model_copy(update=SHORT),
            "publish": PublishConfig(repo=repo),
            "model": ModelConfig(id=model) if model else base.model,
        }
    )


def run_to_end(settings: Settings, config: RunConfig, token: str | None) -> tuple[RunDir, RunState]:
    manager = JobManager(settings)
    run = manager.start(config, hub_token=token)
    return run, wait_for_end(manager, run)


@pytest.mark.train
def test_the_finished_adapter_is_pushed_with_a_card_and_nothing_else(hub: HubServer, demo_settings: Settings) -> None:
    run, state = run_to_end(demo_settings, short_run(repo="capitals"), TOKEN)
    assert (state.status, state.error) == ("finished", None)
    files = hub.files("ada/capitals")
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".log"))]
    assert files["adapter_model.safetensors"] == (run.model / "adapter_model.safetensors").read_bytes()
    metadata = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert metadata["base_model"] == "demo/gemma-3-tiny"
    assert metadata["library_name"] == "peft"
    assert hub.repo("ada/capitals")["private"]
    assert b"ada/capitals" in files["README.md"]


@pytest.mark.train
def test_the_token_is_in_no_file_of_the_home_and_on_no_command_line(hub: HubServer, demo_settings: Settings) -> None:
    manager = JobManager(demo_settings)
    run = manager.start(short_run(repo="ada/secret"), hub_token=TOKEN)
    wait_until(lambda: manager.state(run).trainer, what="the trainer")
    state = manager.state(run)
    for process in (state.supervisor, state.trainer):
        assert process is not None
        assert TOKEN not in " ".join(psutil.Process(process.pid).cmdline())
    assert wait_for_end(manager, run).status == "finished"
    holding = [path for path in demo_settings.home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert holding == []
    assert all(TOKEN.encode() not in content for content in hub.files("ada/secret").values())


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("ada/x", "hf_unknown", "refused"),
        ("someone-else/x", TOKEN, "refused"),
        ("eve/x", "hf_reader", "refused"),
        ("ada/x", None, "token"),
    ],
)
def test_a_push_that_cannot_work_is_told_before_anything_is_trained(
    hub: HubServer, settings: Settings, repo: str, token: str | None, said: str
) -> None:
    _, state = run_to_end(settings, short_run(repo=repo), token)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "token"
    assert said in state.error.what_happened
    assert not settings.models.exists()


@pytest.mark.train
def test_a_push_that_fails_at_the_end_keeps_the_model_and_says_so(hub: HubServer, demo_settings: Settings) -> None:
    hub.fail_next("/api/models/ada/late/preupload", 403, times=5)
    run, state = run_to_end(demo_settings, short_run(repo="ada/late"), TOKEN)
    assert state.status == "finished"
    assert state.error is not None
    assert state.error.title == "Trained, but not published"
    assert (run.model / "adapter_model.safetensors").exists()
    (alert,) = read_facts(run.alerts)[0]
    assert alert["rule"] == "hub_unreachable"
    assert "status 403" in alert["message"]


@pytest.mark.train
def test_a_model_from_the_hub_is_downloaded_and_tuned(hub: HubServer, settings: Settings, demo_models: Path) -> None:
    folder = demo_models / DEMO_FOLDER
    hub.add_repo("ada/tiny-gemma", {path.name: path.read_bytes() for path in folder.iterdir()}, gated=True)
    hub.grant("ada/tiny-gemma", "ada")
    run, state = run_to_end(settings, short_run(model="ada/tiny-gemma"), TOKEN)
    assert state.status == "finished", state.error
    assert json.loads((run.model / "adapter_config.json").read_text())["base_model_name_or_path"] == "ada/tiny-gemma"


@pytest.mark.train
def test_an_upload_whose_files_fail_keeps_the_model_and_says_so(hub: HubServer, demo_settings: Settings) -> None:
    hub.fail_next("/ada/lfs.git/info/lfs/objects/batch", 400, times=5)
    run, state = run_to_end(demo_settings, short_run(repo="ada/lfs"), TOKEN)
    assert state.status == "finished"
    assert state.error is not None
    assert state.error.title == "Trained, but not published"
    assert (run.model / "adapter_model.safetensors").exists()


@pytest.mark.train
def test_a_local_model_is_published_without_its_path(
    hub: HubServer, settings: Settings, demo_models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "private-place" / "my-gemma"
    shutil.copytree(demo_models / DEMO_FOLDER, folder)
    _, state = run_to_end(settings, short_run(model=str(folder), repo="ada/local"), TOKEN)
    assert (state.status, state.error) == ("finished", None)
    files = hub.files("ada/local")
    assert b"my-gemma" in files["README.md"]
    assert all(b"private-place" not in content for content in files.values())


@pytest.mark.train
def test_a_gated_model_can_be_talked_to_with_the_token_that_was_given_for_it(
    hub: HubServer, settings: Settings, demo_models: Path
) -> None:
    folder = demo_models / DEMO_FOLDER
    hub.add_repo("ada/gated", {path.name: path.read_bytes() for path in folder.iterdir()}, gated=True)
    hub.grant("ada/gated", "ada")
    run, state = run_to_end(settings, short_run(model="ada/gated"), TOKEN)
    assert state.status == "finished", state.error
    services = Services(settings)
    try:
        question = [{"role": "user", "content": "hello"}]
        with pytest.raises(EngineError, match="gated"):
            list(services.engine.chat(run, "base", question, Sampling(max_new_tokens=4)))
        *_, end = services.engine.chat(run, "base", question, Sampling(max_new_tokens=4), TOKEN)
        assert end["event"] == "end"
    finally:
        services.engine.close()
