"""The engine as a real process: both sides answer, deaths are told, memory is given back, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, wait_until
from gemma_ft import recipes
from gemma_ft.engine.client import EngineClient
from gemma_ft.errors import EngineError
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.monitor.identity import identify
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.sampling import Sampling
from gemma_ft.settings import Settings

pytestmark = pytest.mark.train

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
SHORT = Sampling(max_new_tokens=24)


@pytest.fixture
def engine(tuned_settings: Settings, tmp_path: Path) -> Iterator[EngineClient]:
    environment = own_environment() | {"GEMMA_FT_HOME": str(tuned_settings.home)}
    client = EngineClient(tmp_path / "engine.log", environment, ROOT)
    yield client
    client.close()


@pytest.fixture
def run(tuned_settings: Settings) -> RunDir:
    return JobManager(tuned_settings).runs()[0]


def pid_of(client: EngineClient) -> int:
    assert client.pid is not None
    return client.pid


def last(answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
    *_, end = answers
    return end


def test_base_and_tuned_answer_differently_and_the_pieces_add_up(engine: EngineClient, run: RunDir) -> None:
    for side, expected in (("tuned", "The capital of France is Paris."), ("base", None)):
        answers = list(engine.chat(run, side, FRANCE, SHORT))
        assert answers[0]["event"] == "loaded"
        end = answers[-1]
        assert "".join(answer.get("text", "") for answer in answers[1:-1]).strip() == end["text"].strip()
        assert end["tokens"] > 0
        assert (end["text"] == expected) == (side == "tuned")


def test_the_same_seed_draws_the_same_answer(engine: EngineClient, run: RunDir) -> None:
    hot = Sampling(max_new_tokens=24, temperature=1.5, seed=7)
    first, second = (last(engine.chat(run, "base", FRANCE, hot))["text"] for _ in range(2))
    other = last(engine.chat(run, "base", FRANCE, Sampling(max_new_tokens=24, temperature=1.5, seed=8)))["text"]
    assert first == second
    assert first != other


def test_a_run_without_a_model_is_an_error_and_the_engine_lives_on(
    engine: EngineClient, run: RunDir, tmp_path: Path
) -> None:
    unfinished = create_run(tmp_path, run.config())
    with pytest.raises(EngineError, match="no finished model"):
        last(engine.chat(unfinished, "tuned", FRANCE, SHORT))
    before = pid_of(engine)
    assert last(engine.chat(run, "tuned", FRANCE, SHORT))["event"] == "end"
    assert pid_of(engine) == before


def test_an_engine_that_is_killed_is_told_and_the_next_question_starts_a_new_one(
    engine: EngineClient, run: RunDir
) -> None:
    long = Sampling(max_new_tokens=2000, temperature=2.0)
    answers = engine.chat(run, "base", FRANCE, long)
    assert next(answers)["event"] == "loaded"
    first = pid_of(engine)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(EngineError, match="ended"):
        last(answers)
    assert last(engine.chat(run, "tuned", FRANCE, SHORT))["event"] == "end"
    assert pid_of(engine) != first


def test_an_engine_that_is_halted_is_given_up_and_the_next_question_is_answered(engine: EngineClient) -> None:
    config = recipes.try_it().model_dump(mode="json")
    assert engine.look(config)["report"]["ok"]
    halted = pid_of(engine)
    os.kill(halted, signal.SIGSTOP)
    with pytest.raises(EngineError, match="ended with code -9"):
        engine.look(config)
    assert engine.look(config)["report"]["ok"]
    assert pid_of(engine) != halted


def test_leaving_an_answer_early_frees_the_engine_for_the_next(engine: EngineClient, run: RunDir) -> None:
    long = Sampling(max_new_tokens=1000, temperature=2.0)
    answers = engine.chat(run, "base", FRANCE, long)
    assert next(answers)["event"] == "loaded"
    assert next(answers)["event"] in ("text", "end")
    answers.close()
    end = last(engine.chat(run, "tuned", FRANCE, SHORT))
    assert end["text"] == "The capital of France is Paris."


def test_close_gives_the_memory_back_before_it_returns(engine: EngineClient) -> None:
    engine.warm()
    pid = pid_of(engine)
    engine.close()
    assert identify(pid) is None
    assert engine.pid is None
    engine.close()


def test_a_question_asked_while_the_engine_is_closed_is_answered_by_the_next_one(
    engine: EngineClient, run: RunDir
) -> None:
    answers = engine.chat(run, "base", FRANCE, Sampling(max_new_tokens=1000, temperature=2.0))
    assert next(answers)["event"] == "loaded"
    engine.close()
    other = engine.chat(run, "tuned", FRANCE, SHORT)
    with pytest.raises(EngineError, match="ended"):
        last(answers)
    assert last(other)["text"] == "The capital of France is Paris."


def test_the_engine_does_not_outlive_the_page(tmp_path: Path) -> None:
    """A page that is killed takes the engine along, because the engine's input ends."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from gemma_ft.engine.client import EngineClient\n"
        "client = EngineClient(Path(sys.argv[1]), dict(os.environ), Path('.'))\n"
        "client.warm()\n"
        "print(client.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    page = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], cwd=ROOT, env=own_environment(), stdout=subprocess.PIPE
    )
    assert page.stdout is not None
    pid = int(page.stdout.readline())
    page.kill()
    page.wait()
    page.stdout.close()
    wait_until(lambda: identify(pid) is None, timeout=30, what="the engine's end")
