"""The command line as a person types it, in processes of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, wait_for_end, wait_until
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.settings import Settings


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemma_ft", *arguments],
        cwd=ROOT,
        env={"GEMMA_FT_HOME": str(settings.home), "PATH": "/usr/bin:/bin", "HOME": str(settings.home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def config_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.train
def test_the_first_run_from_a_terminal_then_its_list_its_page_and_its_export(
    demo_settings: Settings, tmp_path: Path
) -> None:
    done = command(demo_settings, "train", "examples/try_it.yaml")
    assert done.returncode == 0, done.stderr
    assert "Step 150 of 150" in done.stdout
    (listed,) = json.loads(command(demo_settings, "runs", "--json").stdout)
    assert (listed["status"], listed["step"], listed["max_steps"]) == ("finished", 150, 150)
    assert listed["run_id"] in command(demo_settings, "runs").stdout
    shown = json.loads(command(demo_settings, "show", "last", "--json").stdout)
    assert shown["run_id"] == listed["run_id"]
    assert shown["metrics"]["loss"] < 0.2

    merged = command(demo_settings, "export", "last", str(tmp_path / "merged"), "--merge")
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    again = command(demo_settings, "export", "last", str(tmp_path / "merged"))
    assert (again.returncode, "exists already" in again.stderr) == (1, True)


@pytest.mark.train
def test_ctrl_c_stops_and_saves_and_resume_goes_on(demo_settings: Settings, tmp_path: Path) -> None:
    text = (ROOT / "examples" / "try_it.yaml").read_text().replace("max_steps: 150", "max_steps: 120")
    follower = subprocess.Popen(
        [sys.executable, "-m", "gemma_ft", "train", config_file(tmp_path, text)],
        cwd=ROOT,
        env={"GEMMA_FT_HOME": str(demo_settings.home), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    manager = JobManager(demo_settings)
    wait_until(
        lambda: any(len(RunFacts(run.events).refresh().steps) > 3 for run in manager.runs()), timeout=120, what="steps"
    )
    follower.send_signal(signal.SIGINT)
    output, _ = follower.communicate(timeout=60)
    assert follower.returncode == 3, output
    assert "has stopped" in output
    resumed = command(demo_settings, "resume", "last")
    assert resumed.returncode == 0, resumed.stderr
    assert "Step 120 of 120" in resumed.stdout
    assert "Step 2 of 120" not in resumed.stdout


def test_detach_returns_at_once_and_stop_ends_it(settings: Settings) -> None:
    started = command(settings, "train", "examples/try_it.yaml", "--detach")
    assert started.returncode == 0, started.stderr
    manager = JobManager(settings)
    (run,) = manager.runs()
    assert command(settings, "train", "examples/try_it.yaml", "--detach").returncode == 0
    (second,) = (other for other in manager.runs() if other.run_id != run.run_id)
    assert manager.waiting() == [second]
    for each in (second, run):
        assert command(settings, "stop", each.run_id, "--cancel").returncode == 0
        assert wait_for_end(manager, each, timeout=30).status == "stopped"
        assert command(settings, "stop", each.run_id).returncode == 1


def test_check_says_everything_and_nothing_is_started(settings: Settings) -> None:
    done = command(settings, "check", "examples/try_it.yaml", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["ok"]
    figures = {"format": "messages", "rows": 150, "kept": 150, "dropped": 0, "train_rows": 135, "validation_rows": 15}
    assert {name: report["data"][name] for name in figures} == figures
    assert report["xray"]["rows"] == 135
    assert 0.2 < report["xray"]["supervised_fraction"] < 0.5
    assert (report["xray"]["truncated_rows"], report["xray"]["zero_supervised_rows"]) == (0, 0)
    assert not settings.runs.exists()


@pytest.mark.parametrize("verb", ["check", "train"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {learning_rat: 1}", "learning_rate"),
        ("training: {epochs: 0}", "more than 0"),
        ("data: {source: file, path: none.jsonl}", "no file"),
        ("publish: {repo: me/x}", "token"),
        ("model: {id: /no/folder}", "no folder"),
    ],
)
def test_a_bad_config_is_told_with_exit_code_two_and_no_traceback(
    settings: Settings, tmp_path: Path, verb: str, text: str, said: str
) -> None:
    done = command(settings, verb, config_file(tmp_path, text))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not settings.runs.exists()


def test_a_run_that_does_not_exist_is_told_with_exit_code_two(settings: Settings) -> None:
    for verb in ("show", "stop", "resume"):
        done = command(settings, verb, "nothing")
        assert done.returncode == 2
        assert "There is no run 'nothing'" in done.stderr
    assert "No runs yet" in command(settings, "runs").stdout
    assert json.loads(command(settings, "runs", "--json").stdout) == []


@pytest.mark.parametrize("verb", ["check", "train"])
def test_a_model_that_is_no_gemma_is_told_before_a_run_is_made(settings: Settings, tmp_path: Path, verb: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    done = command(settings, verb, config_file(tmp_path, f"model: {{id: {tmp_path}}}"))
    assert done.returncode == 2
    assert "not a Gemma" in done.stderr
    assert not settings.runs.exists()


@pytest.mark.train
def test_a_failed_run_is_told_in_the_terminal_with_its_remedy(settings: Settings, tmp_path: Path) -> None:
    from gemma_ft.train.demo_model import build_demo_tokenizer

    build_demo_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    done = command(settings, "train", config_file(tmp_path, f"model: {{id: {tmp_path}}}"))
    assert done.returncode == 1
    assert "weights cannot be loaded" in done.stderr
    assert "What to do" in done.stderr
    assert "What to do" in command(settings, "show", "last").stderr
