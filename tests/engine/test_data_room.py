"""A look at data and its X-ray, through the real process: what is found, what is told, and that it stays bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from gemma_ft.config import DataConfig, RunConfig
from gemma_ft.engine.client import EngineClient
from gemma_ft.errors import DataError, EngineError, ModelError
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.recipes import try_it
from hub_server import HubServer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def inspector(home: Path) -> Iterator[EngineClient]:
    client = EngineClient(home / "inspector.log", own_environment() | {"GEMMA_FT_HOME": str(home)}, ROOT)
    yield client
    client.close()


def values(config: RunConfig, **data: Any) -> dict[str, Any]:
    changed = config.model_copy(update={"data": DataConfig(**data)}) if data else config
    return changed.model_dump(mode="json")


def file_with(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_the_first_look_needs_no_model_and_the_xray_no_weights(inspector: EngineClient, home: Path) -> None:
    found = inspector.look(values(try_it()))
    assert found["report"]["ok"]
    assert found["report"]["data"]["train_rows"] == 135
    assert "messages" in found["raw"][0]
    assert found["questions"][0].endswith(("?", "."))
    assert not (home / "models").exists()
    figures = inspector.xray(values(try_it()))["figures"]
    assert figures["rows"] == figures["of"] == figures["bos_once_rows"] == figures["end_trained_rows"] == 135
    assert not list(home.glob("models/*/model.safetensors"))


def test_the_pages_of_the_xray_show_the_rows_in_the_order_of_training(inspector: EngineClient) -> None:
    from gemma_ft.data.prepare import prepare

    order = prepare(try_it().data).train
    page = inspector.xray(values(try_it()), first=130, number=10)
    assert (page["first"], page["pages_rows"], len(page["rows"])) == (130, 135, 5)
    for row, sample in zip(page["rows"], order[130:], strict=True):
        assert json.loads(row["raw"]["messages"]) == sample
        (view,) = row["views"]
        trained = "".join(text for text, is_trained, _, _ in view["pieces"] if is_trained)
        assert trained == f"{sample[1]['content']}<end_of_turn>"  # type: ignore[index]
        text, is_trained, is_special, _ = view["pieces"][0]
        assert (text, is_trained, is_special) == ("<bos>", False, True)


def test_figures_agree_with_an_independent_count(inspector: EngineClient, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "completion": "word " * (n + 1)} for n in range(40)]
    config = values(try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", rows), validation_fraction=0)
    config["training"]["max_length"] = 40
    taken = inspector.xray(config, number=40)
    figures = taken["figures"]
    views = [row["views"][0] for row in taken["rows"]]
    lengths = [sum(len(ids) for *_, ids in view["pieces"]) for view in views]
    assert figures["tokens"] == sum(lengths)
    assert figures["supervised_tokens"] == sum(len(p[3]) for view in views for p in view["pieces"] if p[1])
    assert figures["truncated_rows"] == sum(view["cut"] > 0 for view in views) > 0
    ends = [[piece[0] for piece in view["pieces"] if piece[1]][-1] == "<end_of_turn>" for view in views]
    assert figures["end_trained_rows"] == sum(ends) > 0
    assert max(lengths) == 40
    assert figures["lengths"]["longest"] == max(
        view["cut"] + length for view, length in zip(views, lengths, strict=True)
    )
    assert sum(count for _, _, count in figures["histogram"]) == 40
    assert figures["suggested_max_length"] >= figures["lengths"]["longest"]


def test_rows_cut_before_their_answer_are_counted_as_teaching_nothing(inspector: EngineClient, tmp_path: Path) -> None:
    rows = [{"prompt": "long " * 60 * (n % 2) + str(n), "completion": "a"} for n in range(10)]
    config = values(try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", rows), validation_fraction=0)
    config["training"]["max_length"] = 40
    figures = inspector.xray(config)["figures"]
    assert figures["zero_supervised_rows"] == figures["truncated_rows"] == 5
    assert figures["lost_answer_tokens"] >= 10


def test_a_length_at_which_nothing_could_be_learned_is_an_error(inspector: EngineClient) -> None:
    config = values(try_it())
    config["training"]["max_length"] = 8
    report = inspector.check(config)
    assert not report["ok"]
    assert "token 8" in report["problems"][-1]["message"]


def test_half_characters_in_columns_that_are_not_used_harm_nothing(inspector: EngineClient, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": "a", "x\ud83d": "\ud83d"} for n in range(4)]
    found = inspector.look(values(try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", rows)))
    assert found["report"]["ok"]
    json.dumps(found, ensure_ascii=False).encode("utf-8")


def test_columns_are_told_when_they_fit_no_format(inspector: EngineClient, tmp_path: Path) -> None:
    rows = [{"a": "text one", "b": "text two", "c": f"text {n}"} for n in range(4)]
    found = inspector.look(values(try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", rows)))
    assert found["report"]["data"] is None
    assert found["report"]["columns"] == ["a", "b", "c"]


def test_very_long_rows_are_measured_on_fewer_and_in_pieces(inspector: EngineClient, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": "word " * 100_000} for n in range(60)]
    config = values(try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", rows), validation_fraction=0)
    figures = inspector.xray(config)["figures"]
    assert figures["of"] == 60
    assert 20 <= figures["rows"] < 60


def test_a_pair_has_two_views_that_share_their_prompt(inspector: EngineClient, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(4)]
    config = values(try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", rows), validation_fraction=0)
    config["method"]["objective"] = "dpo"
    (row, *_) = inspector.xray(config, number=1)["rows"]
    assert [view["title"] for view in row["views"]] == ["Chosen answer", "Rejected answer"]
    prompts = [[piece for piece in view["pieces"] if not piece[1]][:8] for view in row["views"]]
    assert prompts[0] == prompts[1]


def test_bad_data_is_a_report_in_a_look_and_an_error_in_an_xray(inspector: EngineClient, tmp_path: Path) -> None:
    config = values(
        try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", [{"prompt": "q", "completion": ""}])
    )
    report = inspector.look(config)["report"]
    assert not report["ok"]
    assert report["data"]["counts"] == {"empty_text": 1}
    with pytest.raises(EngineError) as caught:
        inspector.xray(config)
    assert caught.value.report.kind == DataError.kind
    missing = inspector.look(values(try_it(), source="file", path=str(tmp_path / "none.csv")))
    assert missing["report"]["data"] is None
    assert "no file" in missing["report"]["problems"][0]["message"]


def test_a_model_that_is_no_gemma_gives_no_xray_but_a_report(inspector: EngineClient, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    config = values(try_it())
    config["model"]["id"] = str(tmp_path)
    with pytest.raises(EngineError) as caught:
        inspector.xray(config)
    assert caught.value.report.kind == ModelError.kind
    report = inspector.check(config)
    assert (report["xray"], report["ok"]) == (None, False)
    kinds = [("weights", "error"), ("xray", "error")]  # It has no weights either.
    assert [(problem["kind"], problem["severity"]) for problem in report["problems"]] == kinds


def test_a_file_that_was_changed_is_read_again(inspector: EngineClient, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    config = values(try_it(), source="file", path=file_with(path, [{"prompt": "q", "completion": "a"}] * 3))
    assert inspector.look(config)["report"]["data"]["rows"] == 3
    file_with(path, [{"prompt": f"q{n}", "completion": "a"} for n in range(7)])
    assert inspector.look(config)["report"]["data"]["rows"] == 7


def test_a_long_look_tells_how_far_it_is_and_can_be_left(inspector: EngineClient, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "completion": "a"} for n in range(30_000)]
    config = values(try_it(), source="file", path=file_with(tmp_path / "rows.jsonl", rows))
    looking = inspector.looking(config)
    assert next(looking) | {"id": 0} == {"id": 0, "event": "progress", "rows": 1000}
    looking.close()
    assert inspector.look(config)["report"]["data"]["rows"] == 30_000


def test_looking_at_data_loads_no_torch(inspector: EngineClient) -> None:
    inspector.xray(values(try_it()), number=1)
    mapped = Path(f"/proc/{inspector.pid}/maps")
    if not mapped.exists():
        pytest.skip("needs Linux's /proc")
    assert "libtorch" not in mapped.read_text()


def test_of_data_on_the_hub_the_first_rows_tell_about_the_whole(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"prompt": f"q{n}", "completion": "a"}) for n in range(3000)).encode()
    sizes = b"---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: 3000\n---\n"
    with HubServer() as hub:
        hub.add_repo("me/many", {"train.jsonl": rows, "README.md": sizes}, repo_type="dataset")
        environment = own_environment() | hub.environment() | {"HF_HOME": str(tmp_path), "GEMMA_FT_HOME": str(tmp_path)}
        client = EngineClient(tmp_path / "inspector.log", environment, ROOT)
        try:
            data = client.look(values(try_it(), source="hub", id="me/many"))["report"]["data"]
            few = client.look(values(try_it(), source="hub", id="me/many", max_rows=500))["report"]["data"]
            held = {"validation_split": "train[:10]", "max_rows": 500}
            both = client.look(values(try_it(), source="hub", id="me/many", **held))["report"]["data"]
            with pytest.raises(EngineError, match="me/many"):
                client.offers("hub", "me/manny", None)
            assert client.offers("hub", "me/many", None)["splits"] == ["train"]
            assert client.search("many") == ["me/many"]
        finally:
            client.close()
    assert (data["complete"], data["looked_at"], data["total"]) == (False, 1000, 3000)
    assert data["expected"] == [2700, 300]
    assert few["expected"] == [450, 50]
    assert both["expected"][1] == 10
    assert 490 <= both["expected"][0] <= 500


def test_splits_of_a_data_set_that_tfds_does_not_know_are_refused_with_the_nearest(inspector: EngineClient) -> None:
    with pytest.raises(EngineError, match="mnist"):
        inspector.offers("tfds", "mnistt", None)
    assert inspector.offers("tfds", "mnist", None)["splits"] == []
