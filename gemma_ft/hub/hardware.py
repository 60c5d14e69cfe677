"""What a machine of Hugging Face costs today, as the Hub itself says.

Promises plain figures, or `None` soon when the Hub does not say; a price is asked for at most once in `FRESH` seconds.
Offers only processors and GPUs: other accelerators cannot train here. Starts nothing and costs nothing.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from gemma_ft.hub.ask import UNREACHABLE, ask

PLACES = ("jobs", "spaces")
FRESH = 600.0
RETRY = 60.0
"""Seconds; when the Hub did not answer it is asked again sooner."""
PER_HOUR = {"second": 3600.0, "minute": 60.0, "hour": 1.0}
SIZES = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

Offer = dict[str, Any]


def live_prices(token: str | None) -> list[Offer] | None:
    """Return the machines that can be rented for Jobs and for Spaces, in the Hub's order, or `None`.

    Each has `name`, `label`, `dollars_per_hour`, `cores`, `memory` (bytes), `gpu` (its name, or `None`), `gpus` (how
    many), `gpu_memory` (bytes of each, or `None`) and `places` (where it is offered: `jobs`, `spaces`). One that is
    offered in both places has the price of Jobs. A machine whose figures cannot be read is left out. Never raises.
    """
    return _PRICES.get(token)


class Prices:
    """The prices that were heard last, kept for some minutes; several threads ask the Hub only once."""

    def __init__(self, *, fresh: float = FRESH, retry: float = RETRY) -> None:
        self._fresh, self._retry = fresh, retry
        self._lock = threading.Lock()
        self._until = 0.0
        self._endpoint = ""
        self._known: list[Offer] | None = None

    def get(self, token: str | None) -> list[Offer] | None:
        """Return them, as `live_prices` does."""
        with self._lock:
            now = time.monotonic()
            if now >= self._until or self._endpoint != constants.ENDPOINT:
                self._known, self._endpoint = ask_prices(token), constants.ENDPOINT
                self._until = now + (self._retry if self._known is None else self._fresh)
            return self._known


_PRICES = Prices()


def ask_prices(token: str | None) -> list[Offer] | None:
    """Ask the Hub now, as `live_prices` describes."""
    found: dict[str, Offer] = {}
    try:
        for place in PLACES:
            for offer in _offers(place, token):
                found.setdefault(offer["name"], offer | {"places": []})["places"].append(place)
    except UNREACHABLE:
        return None
    return list(found.values()) or None


def _offers(place: str, token: str | None) -> list[Offer]:
    """Return what is offered in one place; nothing when the Hub refuses or answers something else."""
    try:
        items = ask(f"/api/{place}/hardware", token).json()
    except (HfHubHTTPError, ValueError):
        return []
    return [offer for item in items if (offer := _offer(item))] if isinstance(items, list) else []


def _offer(item: Any) -> Offer | None:
    """Return one machine in our words, or `None` when it cannot train or cannot be understood."""
    try:
        accelerator = item.get("accelerator") or {}
        if accelerator and accelerator.get("type", "gpu") != "gpu":
            return None
        count = int(accelerator.get("quantity", 0))
        return {
            "name": str(item["name"]),
            "label": str(item["prettyName"]),
            "dollars_per_hour": round(float(item["unitCostUSD"]) * PER_HOUR[item["unitLabel"]], 4),
            "cores": int(re.findall(r"\d+", item["cpu"])[0]),
            "memory": size(item["ram"]),
            "gpu": str(accelerator["model"]) if accelerator else None,
            "gpus": count,
            "gpu_memory": size(accelerator["vram"]) // count if accelerator else None,
        }
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return None


def size(text: str) -> int:
    """Return the bytes of a size such as `16 GB`. Raises `ValueError` for what is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    if not found or found[2].upper() not in SIZES:
        raise ValueError(f"{text!r} is no size")
    return int(float(found[1]) * SIZES[found[2].upper()])
