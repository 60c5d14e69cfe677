"""The Doctor's card: every line in every state. The shapes are the catalogue's, the Hub is a small real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from conftest import ROOT, free_port
from gemma_ft.catalog import find
from gemma_ft.config import RunConfig, parse_config
from gemma_ft.doctor import LINES, Finding, examine
from gemma_ft.hardware import Gpu, Machine
from gemma_ft.recipes import try_it
from gemma_ft.shape import ModelShape
from hub_server import HubServer

GB = 10**9
GEMMA = "google/gemma-3-4b-it"
NAMES = [
    "Licence",
    "Publishing",
    "Library",
    "Number format",
    "Attention",
    "What learns",
    "Disk",
    "System messages",
    "Learning rate",
    "Optimizer",
]


def machine(*gpus: tuple[str, tuple[int, int]]) -> Machine:
    cards = tuple(Gpu(name=name, memory=24 * GB, free=23 * GB, capability=capability) for name, capability in gpus)
    return Machine(name="x", gpus=cards, cores=8, memory=32 * GB, memory_free=30 * GB, disk_free=100 * GB)


LAPTOP, T4, L4 = machine(), machine(("Tesla T4", (7, 5))), machine(("NVIDIA L4", (8, 9)))


def shape_of(model_id: str) -> ModelShape:
    known = find(model_id)
    assert known
    return known.shape


def local(tmp_path: Path, **sections: Any) -> RunConfig:
    """A run of a model that is on this machine, so that nobody is asked."""
    return parse_config({**sections, "model": {"id": str(tmp_path), **sections.get("model", {})}})


def card(config: RunConfig, **given: Any) -> dict[str, Finding]:
    """The findings by name; what is not given is as it should be."""
    usual: dict[str, Any] = {
        "shape": shape_of(GEMMA),
        "machine": L4,
        "token": None,
        "system_turns": None,
        "disk_needed": lambda _: GB,
        "disk_certain": lambda _: GB,
        "disk_free": 100 * GB,
        "knows": lambda _: True,
        "installed": lambda _: True,
    }
    return {finding.name: finding for finding in examine(config, **usual | given)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub where ann has accepted the terms of Gemma and eve has not."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with HubServer() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        server.add_user("ann", "hf_ann")
        server.add_user("ann", "hf_reading", role="read")
        server.add_user("ann", "hf_narrow", role="fineGrained", gated=False)
        server.add_user("eve", "hf_eve")
        server.add_repo(GEMMA, {"config.json": b"{}"}, gated=True)
        server.grant(GEMMA, "ann")
        server.add_repo("ann/there", {"config.json": b"{}"})
        yield server


def test_the_first_run_is_healthy_on_any_computer() -> None:
    found = card(try_it(), shape=shape_of(try_it().model.id), machine=LAPTOP)
    assert list(found) == NAMES
    assert {finding.state for finding in found.values()} == {"good"}


def test_before_the_model_is_known_what_can_be_told_is_told(tmp_path: Path) -> None:
    found = card(local(tmp_path), shape=None, system_turns="not known", disk_needed=None)
    assert {name for name, finding in found.items() if finding.state == "unknown"} == {
        "Library",
        "What learns",
        "Disk",
        "System messages",
    }


@pytest.mark.parametrize(
    ("token", "state", "said", "link"),
    [
        ("hf_ann", "good", "may download", None),
        (None, "bad", "give a token of that account", f"https://huggingface.co/{GEMMA}"),
        ("hf_eve", "bad", "with the account that this token belongs to", f"https://huggingface.co/{GEMMA}"),
        ("hf_narrow", "bad", "may not read", "https://huggingface.co/settings/tokens"),
        ("hf_unknown", "bad", "does not know this token", "https://huggingface.co/settings/tokens"),
        ("hf_ä", "bad", "does not know this token", "https://huggingface.co/settings/tokens"),
    ],
)
def test_the_licence_is_asked_for_with_this_token(
    hub: HubServer, token: str | None, state: str, said: str, link: str | None
) -> None:
    found = card(parse_config({"model": {"id": GEMMA}}), token=token)["Licence"]
    assert (found.state, found.link) == (state, link)
    assert said in found.text
    assert token is None or token not in found.text


def test_a_model_that_is_not_there_is_told(hub: HubServer) -> None:
    found = card(parse_config({"model": {"id": "google/gemma-33"}}), token="hf_ann")["Licence"]
    assert found.state == "bad"
    assert "spelling" in found.text


@pytest.mark.parametrize(
    ("repo", "token", "state", "said"),
    [
        (None, None, "good", "stays on this machine"),
        ("mine", "hf_ann", "good", "ann/mine will be made, private"),
        ("ann/there", "hf_ann", "good", "there already"),
        ("mine", None, "bad", "needs a token"),
        ("mine", "hf_reading", "bad", "only read"),
        ("ann/mine", "hf_narrow", "bad", "may not write for ann"),
        ("ann/there", "hf_eve", "bad", "may not write for ann"),
        ("mine", "hf_unknown", "bad", "does not know this token"),
    ],
)
def test_publishing_is_tried_before_anything_is_trained(
    hub: HubServer, tmp_path: Path, repo: str | None, token: str | None, state: str, said: str
) -> None:
    config = local(tmp_path, publish={"repo": repo})
    found = card(config, token=token)["Publishing"]
    assert found.state == state
    assert said in found.text
    if state == "bad":
        assert found.fix
        assert card(config.changed(found.fix), token=token)["Publishing"].state == "good"


def test_a_hub_that_is_not_there_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    config = parse_config({"model": {"id": GEMMA}, "publish": {"repo": "ann/mine"}})
    found = card(config, token="hf_ann")
    assert {found[name].state for name in ("Licence", "Publishing")} == {"unknown"}
    assert "cannot be reached" in found["Licence"].text


def test_a_busy_hub_is_a_finding(hub: HubServer) -> None:
    hub.fail_next("/api/", 503, times=2)
    config = parse_config({"model": {"id": GEMMA}, "publish": {"repo": "ann/mine"}})
    found = card(config, token="hf_ann")
    assert {found[name].state for name in ("Licence", "Publishing")} == {"unknown"}
    assert "busy" in found["Licence"].text


def test_a_library_that_is_too_old_is_told(tmp_path: Path) -> None:
    assert card(local(tmp_path))["Library"].state == "good"
    found = card(local(tmp_path), knows=lambda _: False)["Library"]
    assert found.state == "bad"
    assert "pip install -U transformers" in found.text


@pytest.mark.parametrize(
    ("here", "precision", "model", "state", "said", "mends"),
    [
        (L4, "auto", GEMMA, "good", "NVIDIA L4 computes in bfloat16", False),
        (L4, "bfloat16", GEMMA, "good", "NVIDIA L4 computes in bfloat16", False),
        (L4, "float32", GEMMA, "warning", "twice the memory", True),
        (T4, "auto", GEMMA, "warning", "twice the memory", False),
        (T4, "float32", GEMMA, "warning", "twice the memory", False),
        (T4, "bfloat16", GEMMA, "warning", "imitates it", True),
        (LAPTOP, "auto", GEMMA, "warning", "slow with 4.3 billion weights", False),
        (LAPTOP, "auto", "google/gemma-3-270m-it", "good", "processor", False),
        (LAPTOP, "bfloat16", GEMMA, "warning", "imitate", True),
    ],
)
def test_the_number_format_suits_the_machine(
    tmp_path: Path, here: Machine, precision: str, model: str, state: str, said: str, mends: bool
) -> None:
    config = local(tmp_path, model={"precision": precision})
    found = card(config, machine=here, shape=shape_of(model))["Number format"]
    assert found.state == state
    assert said in found.text
    assert found.fix == ({"model.precision": "auto"} if mends else None)


def test_full_tuning_keeps_its_weights_in_float32(tmp_path: Path) -> None:
    config = local(tmp_path, method={"adapter": "none"}, training={"learning_rate": 2e-5})
    assert "float32" in card(config)["Number format"].text


@pytest.mark.parametrize(
    ("model", "said"),
    [("google/gemma-2-2b-it", "Eager"), (GEMMA, "SDPA"), ("google/gemma-4-E2B-it", "512 wide")],
)
def test_attention_is_the_familys(tmp_path: Path, model: str, said: str) -> None:
    found = card(local(tmp_path), shape=shape_of(model))["Attention"]
    assert found.state == "good"
    assert said in found.text


@pytest.mark.parametrize(
    ("model", "adapter", "said"),
    [
        (GEMMA, "lora", "420 million weights for image stay frozen"),
        ("google/gemma-4-E2B-it", "none", "for image and audio stay frozen"),
        ("google/gemma-3-1b-it", "lora", "An adapter learns"),
        ("google/gemma-3-1b-it", "none", "Every weight learns"),
    ],
)
def test_what_learns_is_told(tmp_path: Path, model: str, adapter: str, said: str) -> None:
    config = local(tmp_path, method={"adapter": adapter})
    found = card(config, shape=shape_of(model))["What learns"]
    assert found.state == "good"
    assert said in found.text


def needs(config: RunConfig) -> int:
    """10 GB for a model, and so much for each checkpoint of full tuning; 1 GB for each of an adapter."""
    each = 10 * GB if config.method.adapter == "none" else GB
    return 10 * GB + config.training.keep_checkpoints * each


@pytest.mark.parametrize(
    ("adapter", "free", "fix"),
    [
        ("none", 20, {"training.keep_checkpoints": 1}),
        ("none", 12, {"method.adapter": "lora", "training.learning_rate": 2e-4}),
        (
            "none",
            11,
            {"training.keep_checkpoints": 1, "method.adapter": "lora", "training.learning_rate": 2e-4},
        ),
        ("lora", 11, {"training.keep_checkpoints": 1}),
        ("lora", 5, None),
        ("none", 5, None),
    ],
)
def test_a_disk_that_is_too_small_is_told_with_what_helps(
    tmp_path: Path, adapter: str, free: int, fix: dict[str, Any] | None
) -> None:
    config = local(tmp_path, method={"adapter": adapter})
    found = card(config, disk_needed=needs, disk_certain=needs, disk_free=free * GB)["Disk"]
    assert (found.state, found.fix) == ("bad", fix)
    assert card(config, disk_needed=needs, disk_free=free * GB)["Disk"].state == "warning"
    assert f"only {free} GB" in found.text
    if fix is None:
        assert "smaller model" in found.text
        return
    assert found.fix_label
    assert card(config.changed(fix), disk_needed=needs, disk_free=free * GB)["Disk"].state == "good"
    assert card(config.changed(fix))["Learning rate"].state == "good" or "learning_rate" not in str(fix)


def test_sizes_are_written_for_people(tmp_path: Path) -> None:
    found = card(local(tmp_path), disk_needed=lambda _: 12_340_000, disk_free=1_234_567_000_000)
    assert found["Disk"].text == "Needs about 12 MB; 1,235 GB are free."


@pytest.mark.parametrize(
    ("turns", "said"), [(None, "no system messages"), ("own turn", "own"), ("folded", "in front of the first question")]
)
def test_what_becomes_of_system_messages_is_told(tmp_path: Path, turns: str | None, said: str) -> None:
    found = card(local(tmp_path), system_turns=turns)["System messages"]
    assert found.state == "good"
    assert said in found.text


@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("rate", [1e-9, 0.1])
def test_an_odd_learning_rate_is_told_and_mended(tmp_path: Path, objective: str, adapter: str, rate: float) -> None:
    method = {"objective": objective, "adapter": adapter}
    config = local(tmp_path, method=method, training={"learning_rate": rate})
    found = card(config)["Learning rate"]
    assert found.state == "warning"
    assert ("low" if rate < 1e-6 else "high") in found.text
    assert found.fix
    assert card(config.changed(found.fix))["Learning rate"].state == "good"


def test_a_rate_is_judged_by_its_method(tmp_path: Path) -> None:
    def state(rate: float, **method: str) -> str:
        config = local(tmp_path, method=method, training={"learning_rate": rate})
        return card(config)["Learning rate"].state

    assert state(2e-4, adapter="lora") == state(2e-5, adapter="none") == state(2e-5, objective="dpo") == "good"
    assert state(2e-4, adapter="none") == state(2e-4, objective="dpo") == state(5e-3, adapter="lora") == "warning"


@pytest.mark.parametrize(
    ("optimizer", "here", "installed", "state"),
    [
        ("adamw", LAPTOP, False, "good"),
        ("adafactor", LAPTOP, False, "good"),
        ("adamw_8bit", L4, True, "good"),
        ("adamw_8bit", L4, False, "bad"),
        ("adamw_8bit", LAPTOP, True, "bad"),
    ],
)
def test_the_optimizer_suits_the_machine(
    tmp_path: Path, optimizer: str, here: Machine, installed: bool, state: str
) -> None:
    config = local(tmp_path, training={"optimizer": optimizer})
    found = card(config, machine=here, installed=lambda _: installed)["Optimizer"]
    assert found.state == state
    assert found.fix == ({"training.optimizer": "adamw"} if state == "bad" else None)


@pytest.mark.parametrize(
    ("here", "installed", "state"), [(L4, True, "good"), (LAPTOP, True, "warning"), (L4, False, "bad")]
)
def test_qlora_needs_its_package_and_likes_a_gpu(tmp_path: Path, here: Machine, installed: bool, state: str) -> None:
    config = local(tmp_path, method={"adapter": "qlora"})
    found = card(config, machine=here, installed=lambda _: installed)
    assert list(found) == [*NAMES, "4 bits"]
    assert len(found) == len(LINES)
    assert found["4 bits"].state == state
    if found["4 bits"].fix:
        assert "4 bits" not in card(config.changed(found["4 bits"].fix))


def test_the_doctor_loads_no_torch() -> None:
    code = "import sys, gemma_ft.doctor; print(sorted({'torch', 'transformers', 'gradio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
