"""A configuration round-trips, refuses what is wrong in words, and every knob says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_types import Ge, Gt, Le

from gemma_ft import recipes
from gemma_ft.config import RunConfig, config_from_json, knobs, load_config, parse_config
from gemma_ft.errors import ConfigError
from gemma_ft.reference import reference

ROOT = Path(__file__).resolve().parents[2]
KNOBS = dict(knobs())


def nested(path: str, value: object) -> dict[str, object]:
    section, _, name = path.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def test_round_trips_through_json_and_yaml() -> None:
    config = recipes.try_it()
    assert config_from_json(config.model_dump_json()) == config
    assert parse_config(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize("path", KNOBS)
def test_every_knob_has_help_and_a_default_that_is_valid(path: str) -> None:
    declared = KNOBS[path]
    assert declared.description
    assert declared.description[0].isupper()
    assert declared.description.endswith(".")
    parse_config(nested(path, declared.default))


LIMITED = [
    (path, limit) for path, declared in KNOBS.items() for limit in declared.metadata if isinstance(limit, Ge | Gt | Le)
]


@pytest.mark.parametrize(("path", "limit"), LIMITED, ids=lambda value: str(value))
def test_a_value_beyond_its_limit_names_the_knob_the_bound_and_the_value(path: str, limit: Ge | Gt | Le) -> None:
    beyond = {Ge: lambda b: b - 1, Gt: lambda b: b, Le: lambda b: b + 1}
    bound = getattr(limit, type(limit).__name__.lower())
    value = beyond[type(limit)](bound)
    with pytest.raises(ConfigError) as caught:
        parse_config(nested(path, value))
    assert path in str(caught.value)
    assert str(bound) in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "suggestion"),
    [
        ({"training": {"learning_rat": 1e-4}}, "'learning_rate'"),
        ({"trainning": {}}, "'training'"),
        ({"training": {"rank": 8}}, "'method.rank'"),
        ({"learning_rate": 1e-4}, "'training.learning_rate'"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_one(values: dict[str, object], suggestion: str) -> None:
    with pytest.raises(ConfigError, match=suggestion):
        parse_config(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data": {"source": "file"}}, "path is missing"),
        ({"publish": {"repo": "not a name"}}, "no repository name"),
        ({"publish": {"repo": "../escape"}}, "no repository name"),
        ({"method": {"adapter": "qlora2"}}, "method.adapter"),
        ({"training": "fast"}, "training"),
        ({"training": {"epochs": "many"}}, "training.epochs"),
        ({"name": ""}, "name"),
        ({"training": {"max_grad_norm": float("inf")}}, "finite"),
        ({"data": {"source": "file", "path": "~nobody-here/x.json"}}, "does not know"),
        ({"model": {"id": "a\0b"}}, "zero byte"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(values)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"training": {"epochs": -1, "batch_size": 0}, "nonsense": 1})
    assert len(caught.value.report.what_happened.splitlines()) == 3


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_loads_yaml_and_json_with_the_data_beside_the_file(tmp_path: Path, suffix: str) -> None:
    values = {"data": {"source": "file", "path": "rows.jsonl"}}
    file = tmp_path / f"run.{suffix}"
    file.write_text(json.dumps(values) if suffix == "json" else yaml.safe_dump(values))
    assert load_config(file).data.path == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("values", [None, [], "text", 5])
def test_what_is_no_object_is_a_config_error(values: object) -> None:
    with pytest.raises(ConfigError, match="object"):
        parse_config(values)  # type: ignore[arg-type]


def test_paths_in_a_file_count_from_that_file_and_from_the_persons_home(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: file, path: ~/rows.jsonl}\nmodel: {id: ./model}")
    config = load_config(file)
    assert config.data.path == str(Path.home() / "rows.jsonl")
    assert config.model.id == str(tmp_path / "model")
    assert config.model.public_id == "model"


@pytest.mark.parametrize(
    "text", ["", "just words", "- 1", "a: [", "\x00", "training: {epochs: 0}", "name: 2020-99-99", "[" * 5000]
)
def test_a_file_that_is_no_config_is_a_config_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file)


def test_a_missing_file_and_a_folder_are_config_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError):
            load_config(path)


def test_the_shipped_example_is_the_try_it_recipe() -> None:
    assert load_config(ROOT / "examples" / "try_it.yaml") == recipes.try_it()


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().name = "other"  # type: ignore[misc]


def test_the_documented_knobs_are_the_knobs() -> None:
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == reference()
    assert all(f"`{path}`" in reference() for path in KNOBS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": "hub", "id": None}, "id is missing: the source `hub`"),
        ({"source": "tfds", "id": None}, "id is missing: the source `tfds`"),
        ({"source": "file", "path": "x.csv", "validation_split": "test"}, "has no splits"),
        ({"source": "hub", "id": "a/b", "validation_path": "x.csv"}, "use validation_split"),
        ({"columns": {"prompt": 3}}, "data.columns.prompt"),
        ({"format": "json"}, "data.format"),
    ],
)
def test_settings_of_data_that_do_not_go_together_are_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"data": data})


def test_paths_of_both_files_count_from_the_config(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("data: {source: file, path: a.csv, validation_path: sub/b.csv}")
    data = load_config(config).data
    assert (data.path, data.validation_path) == (str(tmp_path / "a.csv"), str(tmp_path / "sub" / "b.csv"))
