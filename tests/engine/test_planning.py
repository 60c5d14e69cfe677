"""The plan of a run, its presets and its measurement, asked of the real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from gemma_ft.config import parse_config
from gemma_ft.engine.client import EngineClient
from gemma_ft.errors import EngineError
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.recipes import try_it
from gemma_ft.settings import Settings


def client_at(home: Path) -> EngineClient:
    # No Hub: what needs it has to say so and let the rest be.
    environment = own_environment() | {"GEMMA_FT_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9"}
    return EngineClient(home / "engine.log", environment, ROOT)


@pytest.fixture(scope="module")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    client = client_at(tmp_path_factory.mktemp("home"))
    yield client
    client.close()


def values(**changes: Any) -> dict[str, Any]:
    """The Try it recipe, with other values of some knobs."""
    config = try_it().model_dump(mode="json")
    for path, value in changes.items():
        section, _, name = path.partition("__")
        config[section][name] = value
    return config


def states(found: dict[str, Any]) -> dict[str, str]:
    return {line["name"]: line["state"] for line in found["doctor"]}


def test_the_plan_agrees_with_the_xray_and_says_where_it_runs(inspector: EngineClient) -> None:
    report = inspector.full_check(values())
    fit, figures = report["fit"], report["xray"]
    assert report["ok"]
    assert fit["measured_data"]
    assert fit["memory"]["fits"] == "fits"
    assert fit["memory"]["low"] == sum(term["low"] for term in fit["memory"]["terms"])
    assert fit["plan"]["steps"] == 150
    assert fit["plan"]["supervised_tokens"] == pytest.approx(figures["supervised_tokens"] * 150 * 16 / 135, rel=0.02)
    assert fit["remedies"] == []
    assert fit["prices"]["dated"] == "2026-08-22"
    assert fit["prices"]["cheapest"] == "cpu-basic"
    assert set(states(report).values()) == {"good"}


def test_what_the_doctor_calls_bad_is_a_problem_with_a_remedy(inspector: EngineClient) -> None:
    report = inspector.full_check(values(training__optimizer="adamw_8bit"))
    assert not report["ok"]
    assert [problem["kind"] for problem in report["problems"]] == ["doctor"]
    line = next(line for line in report["doctor"] if line["state"] == "bad")
    assert line["fix"] == {"training.optimizer": "adamw"}


def test_any_gemma_is_counted_from_its_configuration(inspector: EngineClient, tmp_path: Path) -> None:
    from transformers import Gemma3TextConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 512, "head_dim": 16}
    Gemma3TextConfig(**sizes, num_attention_heads=4, num_key_value_heads=1).save_pretrained(tmp_path)
    report = {"xray": None, "ok": True, "problems": [], "data": {"expected": [1000, 0]}}
    found = inspector.complete(values(model__id=str(tmp_path)), report)
    # Tables 512 x 64; a layer: q and o 64 x 64, k and v 64 x 16, three of 64 x 128, four norms and two of the heads.
    per_layer = 2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 128 + 4 * 64 + 2 * 16
    weights = next(term for term in found["fit"]["memory"]["terms"] if term["name"] == "weights")
    assert weights["low"] == 4 * (512 * 64 + 3 * per_layer + 64)
    assert not found["fit"]["measured_data"]


def test_what_is_no_gemma_has_a_reason_and_no_fit(inspector: EngineClient, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    found = inspector.full_check(values(model__id=str(tmp_path)))
    assert not found["ok"]
    assert found["fit"] is None
    assert [p["message"] for p in found["problems"]].count("This model is of the kind 'llama', not a Gemma.") == 1


def test_data_that_the_run_will_fetch_can_be_started_without_a_fit(inspector: EngineClient) -> None:
    found = inspector.full_check(values(data__source="tfds", data__id="xnli"))
    assert found["data"] is None
    assert found["ok"], found["problems"]
    assert found["fit"] is None
    assert found["doctor"]


@pytest.mark.parametrize("name", ["quick", "balanced", "best", "small"])
def test_a_preset_is_a_valid_config_that_keeps_what_is_not_its_own(inspector: EngineClient, name: str) -> None:
    before = values(data__max_rows=100)
    report = inspector.check(before)
    filled = inspector.preset(name, before, report)
    config = parse_config(filled)
    for kept in ("name", "model", "data", "evaluation", "publish", "compute"):
        assert filled[kept] == before[kept]
    assert config.training.max_length == 64
    assert config.training.gradient_checkpointing == ("on" if name == "small" else "auto")


def test_an_unknown_preset_is_refused(inspector: EngineClient) -> None:
    with pytest.raises(EngineError, match="no preset 'finest'"):
        inspector.preset("finest", values(), {"xray": None, "data": None})


@pytest.mark.train
def test_a_measurement_is_of_three_real_steps_and_leaves_nothing(tuned_settings: Settings) -> None:
    before = {path.name for path in tuned_settings.runs.iterdir()}
    client = client_at(tuned_settings.home)
    try:
        *progress, found = client.measuring(values(training__batch_size=4, training__accumulation=2))
        estimate = client.full_check(values(training__batch_size=4, training__accumulation=2))["fit"]["memory"]
    finally:
        client.close()
    assert [answer["rows"] for answer in progress if answer["rows"]] == [1, 2, 3]
    assert len(found["losses"]) == 3
    assert found["where"] == "RAM"
    assert estimate["low"] * 0.85 < found["peak"] < estimate["high"] * 1.15
    assert 0 < found["step_seconds"] < 60
    # Eight rows a step, the longest first; the longest row of the data has 29 tokens and none is shorter than 20.
    assert 8 * 20 < found["run_tokens"] < found["step_tokens"] <= 8 * 29
    assert {path.name for path in tuned_settings.runs.iterdir()} == before
