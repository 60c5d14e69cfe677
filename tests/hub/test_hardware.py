"""Prices and rights: the real client asks a small real Hub, one that is silent, and one that is not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi

from conftest import free_port
from gemma_ft.hub import ask, hardware
from gemma_ft.hub.hardware import Prices, ask_prices, live_prices, size
from gemma_ft.hub.rights import may_publish, may_read
from hub_server import HubServer

GATED = "google/gemma-3-1b-it"


def machine(
    name: str, per_minute: float, cpu: int, ram: int, gpu: tuple[str, int, int] | None = None
) -> dict[str, Any]:
    """One machine in the words of the Hub; a GPU is its name, how many, and the GB of all."""
    accelerator = None
    if gpu:
        model, count, vram = gpu
        accelerator = {"type": "gpu", "model": model, "quantity": str(count), "vram": f"{vram} GB"}
        accelerator["manufacturer"] = "Nvidia"
    return {
        "name": name,
        "prettyName": name.title(),
        "cpu": f"{cpu} vCPU",
        "ram": f"{ram} GB",
        "ephemeralStorage": "50 GB",
        "accelerator": accelerator,
        "unitCostMicroUSD": int(per_minute * 1e6),
        "unitCostUSD": per_minute,
        "unitLabel": "minute",
    }


T4 = machine("t4-small", 0.006667, 4, 15, ("T4", 1, 16))
FOUR_L4 = machine("l4x4", 0.063333, 48, 186, ("L4", 4, 96))
BASIC = machine("cpu-basic", 0.000167, 2, 16)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The real client of this process, which reads its address when it is imported; a test may turn it elsewhere."""
    for name, value in (("DISABLE_XET", True), ("DISABLE_TELEMETRY", True), ("OFFLINE", False)):
        monkeypatch.setattr(huggingface_hub.constants, f"HF_HUB_{name}", value)
    return monkeypatch


@pytest.fixture
def hub(client: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub where ann is an admin of lab and bob only reads there; eve has not accepted Google's terms."""
    with HubServer() as server:
        client.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        server.add_user("ann", "hf_ann", orgs=["lab"])
        server.add_user("ann", "hf_reading", role="read", orgs=["lab"])
        server.add_user("ann", "hf_fine", role="fineGrained", orgs=["lab"], writes=["lab"])
        server.add_user("ann", "hf_narrow", role="fineGrained", gated=False)
        server.add_user("bob", "hf_bob", orgs={"lab": "read"})
        server.add_user("eve", "hf_eve")
        server.add_repo(GATED, {"config.json": b"{}"}, gated=True)
        server.grant(GATED, "ann")
        server.add_repo("google/gemma-4-E2B-it", {"config.json": b"{}"})
        server.add_repo("ann/secret", {"config.json": b"{}"}, private=True)
        server.add_repo("lab/shared", {"config.json": b"{}"})
        yield server


@pytest.fixture(params=["refuses", "is silent"])
def no_hub(request: pytest.FixtureRequest, client: pytest.MonkeyPatch) -> Iterator[None]:
    """An address where nobody listens, or where somebody does and never says a word."""
    client.setattr(ask, "SHORT_PATIENCE", 0.3)
    if request.param == "refuses":
        client.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
        yield
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


def test_the_figures_are_those_that_the_hub_tells(hub: HubServer) -> None:
    hub.offer("jobs", [BASIC, T4, FOUR_L4])
    assert [item.name for item in HfApi(endpoint=hub.endpoint).list_jobs_hardware()] == [
        "cpu-basic",
        "t4-small",
        "l4x4",
    ]
    basic, t4, l4x4 = ask_prices(None) or []
    assert basic == {
        "name": "cpu-basic",
        "label": "Cpu-Basic",
        "dollars_per_hour": 0.01,
        "cores": 2,
        "memory": 16 * 10**9,
        "gpu": None,
        "gpus": 0,
        "gpu_memory": None,
        "places": ["jobs"],
    }
    assert (t4["gpu"], t4["gpus"], t4["gpu_memory"], t4["dollars_per_hour"]) == ("T4", 1, 16 * 10**9, 0.4)
    assert (l4x4["gpu"], l4x4["gpus"], l4x4["gpu_memory"], l4x4["dollars_per_hour"]) == ("L4", 4, 24 * 10**9, 3.8)


def test_what_is_offered_in_both_places_is_told_once(hub: HubServer) -> None:
    hub.offer("jobs", [BASIC, T4])
    hub.offer("spaces", [BASIC | {"unitCostUSD": 0.0}, T4, FOUR_L4])
    found = {offer["name"]: offer for offer in ask_prices(None) or []}
    assert {name: offer["places"] for name, offer in found.items()} == {
        "cpu-basic": ["jobs", "spaces"],
        "t4-small": ["jobs", "spaces"],
        "l4x4": ["spaces"],
    }
    assert found["cpu-basic"]["dollars_per_hour"] == 0.01


def test_what_cannot_train_or_be_understood_is_left_out(hub: HubServer) -> None:
    neuron = machine("inf2x6", 0.2, 4, 15, ("Inferentia2", 6, 192))
    neuron["accelerator"]["type"] = "neuron"
    no_price, odd = T4 | {"name": "no-price", "unitCostUSD": None}, T4 | {"name": "odd", "ram": "much"}
    monthly = T4 | {"name": "monthly", "unitLabel": "month"}
    terse = T4 | {"name": "terse", "accelerator": {"model": "T4", "quantity": "1", "vram": "16 GB"}}
    hub.offer("jobs", [neuron, no_price, odd, monthly, {}, terse])
    assert [offer["name"] for offer in ask_prices(None) or []] == ["terse"]


def test_a_refusal_in_one_place_costs_only_that_place(hub: HubServer) -> None:
    hub.offer("spaces", [T4])
    hub.fail_next("/api/jobs/hardware", 501)
    assert [offer["places"] for offer in ask_prices("hf_ann") or []] == [["spaces"]]
    hub.fail_next("/api/", 501, times=2)
    assert ask_prices("hf_ann") is None
    assert ask_prices("hf_unknown") is None
    assert ask_prices("no token é") is None


def test_the_token_is_sent_and_none_of_this_machine(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_eve")
    ask_prices(None)
    ask_prices("hf_ann")
    assert [seen.authorization for seen in hub.requests] == [None, None, "Bearer hf_ann", "Bearer hf_ann"]


def test_prices_are_asked_for_once(hub: HubServer) -> None:
    hub.offer("jobs", [T4])
    first = live_prices(None)
    hub.offer("jobs", [T4 | {"unitCostUSD": 1.0}])
    assert first == live_prices(None) == live_prices("hf_ann")
    assert len(hub.requests) == len(hardware.PLACES)


def test_old_prices_are_asked_for_again(hub: HubServer) -> None:
    prices = Prices(fresh=0)
    hub.offer("jobs", [T4])
    assert [offer["dollars_per_hour"] for offer in prices.get(None) or []] == [0.4]
    hub.offer("jobs", [T4 | {"unitCostUSD": 0.01}])
    assert [offer["dollars_per_hour"] for offer in prices.get(None) or []] == [0.6]


def test_a_hub_that_does_not_answer_costs_no_time_twice(no_hub: None) -> None:
    prices = Prices()
    began = time.monotonic()
    assert prices.get(None) is None
    assert time.monotonic() - began < 2
    began = time.monotonic()
    assert prices.get(None) is None
    assert time.monotonic() - began < 0.05


@pytest.mark.parametrize(("text", "wanted"), [("16 GB", 16e9), ("1.5TB", 1.5e12), ("2 GiB", 2**31), ("512 MB", 512e6)])
def test_sizes_are_read(text: str, wanted: float) -> None:
    assert size(text) == wanted


@pytest.mark.parametrize(
    ("repo", "token", "answer"),
    [
        (GATED, "hf_ann", "allowed"),
        (GATED, None, "gated"),
        (GATED, "hf_eve", "gated"),
        (GATED, "hf_narrow", "narrow"),
        (GATED, "hf_unknown", "bad token"),
        (GATED, "hf_ä", "bad token"),
        ("google/gemma-4-E2B-it", None, "allowed"),
        ("google/no-such-model", "hf_ann", "missing"),
        ("ann/secret", "hf_ann", "allowed"),
        ("ann/secret", "hf_eve", "missing"),
        ("ann/--bad--", "hf_ann", "missing"),
    ],
)
def test_whether_a_model_may_be_read(hub: HubServer, repo: str, token: str | None, answer: str) -> None:
    assert may_read(repo, token).answer == answer
    assert not [seen for seen in hub.requests if seen.path == f"/api/models/{repo}"]


@pytest.mark.parametrize(
    ("repo", "token", "answer"),
    [
        ("new", "hf_ann", "new"),
        ("ann/new", "hf_ann", "new"),
        ("ann/secret", "hf_ann", "allowed"),
        ("secret", "hf_ann", "allowed"),
        ("lab/new", "hf_ann", "new"),
        ("lab/shared", "hf_ann", "allowed"),
        ("lab/new", "hf_bob", "foreign"),
        ("lab/shared", "hf_bob", "foreign"),
        ("ann/new", "hf_eve", "foreign"),
        ("ann/secret", "hf_eve", "foreign"),
        ("ann/new", "hf_reading", "read only"),
        ("lab/shared", "hf_reading", "read only"),
        ("lab/new", "hf_fine", "new"),
        ("lab/shared", "hf_fine", "allowed"),
        ("ann/new", "hf_fine", "narrow"),
        ("ann/secret", "hf_narrow", "narrow"),
        ("new", "hf_unknown", "bad token"),
        ("ann/new", "hf_unknown", "bad token"),
        ("ann/new", "hf é", "bad token"),
    ],
)
def test_whether_a_result_may_be_published(hub: HubServer, repo: str, token: str, answer: str) -> None:
    found = may_publish(repo, token)
    assert found.answer == answer
    assert found.repo == (repo if "/" in repo or answer == "bad token" else f"ann/{repo}")
    assert {seen.method for seen in hub.requests} <= {"GET"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_told_from_a_refusal(hub: HubServer, status: int) -> None:
    hub.fail_next("/api/", status, times=3)
    assert may_read(GATED, "hf_ann").answer == "busy"
    assert may_publish("ann/new", "hf_ann").answer == "busy"
    assert may_publish("new", "hf_ann").answer == "busy"


def test_no_hub_is_no_refusal(no_hub: None) -> None:
    assert may_read(GATED, "hf_ann").answer == "unreachable"
    assert may_publish("ann/new", "hf_ann").answer == "unreachable"
    assert may_publish("new", "hf_ann").answer == "unreachable"
