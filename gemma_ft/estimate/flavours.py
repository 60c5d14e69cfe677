"""The machines that Hugging Face rents out, and what a run would cost on each.

Promises the list of a day that is named, to be replaced by live prices where the Hub tells them. Of a machine with
several GPUs those count that the run would use there. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gemma_ft.config import RunConfig
from gemma_ft.estimate.memory import Fits, Memory, estimate_memory
from gemma_ft.estimate.plan import plan_run
from gemma_ft.estimate.workload import Workload
from gemma_ft.hardware import Gpu, Machine
from gemma_ft.shape import ModelShape

GB = 10**9
FLAVOURS_DATED = "2026-08-22"
"""The day of the Hub's documentation from which `FLAVOURS` was copied."""
USABLE = 0.97
"""Share of a GPU's memory that its driver leaves to programs."""
SYSTEM = 2 * GB
"""Memory of the computer that others than the run take."""
CAPABILITIES = {
    "t4": (7, 5),
    "v100": (7, 0),
    "a100": (8, 0),
    "a10": (8, 6),
    "l40": (8, 9),
    "l4": (8, 9),
    "h100": (9, 0),
    "h200": (9, 0),
    "rtx pro 6000": (12, 0),
}
"""CUDA's compute capability, by a part of the name."""
UNKNOWN = (8, 0)


@dataclass(frozen=True, slots=True)
class Flavour:
    """A machine for rent: the Hub's `name` of it, its price in US dollars, and where it is offered."""

    name: str
    label: str
    machine: Machine
    dollars_per_hour: float
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """A run on a flavour: whether it fits, how long it would take and what it would cost."""

    flavour: Flavour
    fits: Fits
    memory: Memory
    hours_low: float
    hours_high: float
    dollars_low: float
    dollars_high: float


def price_list(config: RunConfig, shape: ModelShape, workload: Workload, flavours: Iterable[Flavour]) -> list[Offer]:
    """Return what the run would need and cost on each of the flavours, in their order."""
    return [_offer(config, shape, workload, flavour) for flavour in flavours]


def cheapest(offers: Iterable[Offer]) -> Offer | None:
    """Return the offer that costs least in all, of those that fit; a free one counts when it takes a day at most.

    Of two with the same price the faster one. `None` when none fits.
    """
    fitting = [offer for offer in offers if offer.fits == "fits" and _worth_it(offer)]
    return min(fitting, key=lambda o: (o.dollars_low + o.dollars_high, o.hours_high), default=None)


def live_flavours(items: Iterable[Mapping[str, Any]]) -> tuple[Flavour, ...]:
    """Return the flavours with prices as the Hub tells them now.

    An item has `name`, `dollars_per_hour`, `cores`, `memory` (bytes), and may have `label`, `gpu`, `gpus`, `gpu_memory`
    (bytes of each) and `places`. Disks are taken from the dated list; of a machine that is not there it is unknown, and
    the smallest is supposed.
    """
    known = {flavour.name: flavour for flavour in FLAVOURS}
    return tuple(_live(item, known.get(item["name"])) for item in items)


def _live(item: Mapping[str, Any], dated: Flavour | None) -> Flavour:
    memory = int(item["memory"])
    gpu = item.get("gpu")
    gpus = (_gpu(str(gpu), int(item["gpu_memory"])),) * int(item.get("gpus") or 1) if gpu else ()
    name = str(item["name"])
    machine = Machine(
        name=name,
        gpus=gpus,
        cores=int(item["cores"]),
        memory=memory,
        memory_free=max(0, memory - SYSTEM),
        disk_free=dated.machine.disk_free if dated else 50 * GB,
    )
    places = tuple(item.get("places") or (dated.places if dated else ("jobs",)))
    label = str(item.get("label") or (dated.label if dated else name))
    return Flavour(name, label, machine, float(item["dollars_per_hour"]), places)


def _offer(config: RunConfig, shape: ModelShape, workload: Workload, flavour: Flavour) -> Offer:
    memory = estimate_memory(config, shape, workload, flavour.machine)
    plan = plan_run(config, shape, workload, flavour.machine)
    low, high = plan.seconds_low / 3600, plan.seconds_high / 3600
    price = flavour.dollars_per_hour
    return Offer(flavour, memory.fits, memory, low, high, low * price, high * price)


def _worth_it(offer: Offer) -> bool:
    return offer.flavour.dollars_per_hour > 0 or offer.hours_high <= 24


def _gpu(name: str, memory: int) -> Gpu:
    capability = next((value for part, value in CAPABILITIES.items() if part in name.lower()), UNKNOWN)
    return Gpu(name=name, memory=memory, free=int(memory * USABLE), capability=capability)


def _flavour(
    name: str, label: str, cores: int, ram: int, gpus: int, vram: int, disk: int, price: float, *places: str
) -> Flavour:
    """Write one row of the table; sizes in GB, `vram` of each GPU, which is named by the label's first part."""
    gpu = _gpu(f"NVIDIA {label.partition(',')[0].lstrip('0123456789x ')}", vram * GB) if gpus else None
    machine = Machine(
        name=name,
        gpus=(gpu,) * gpus if gpu else (),
        cores=cores,
        memory=ram * GB,
        memory_free=ram * GB - SYSTEM,
        disk_free=disk * GB,
    )
    return Flavour(name, label, machine, price, places)


BOTH = ("spaces", "jobs")
FLAVOURS = (
    _flavour("cpu-basic", "CPU, basic", 2, 16, 0, 0, 50, 0.0, "spaces"),
    _flavour("cpu-upgrade", "CPU, upgrade", 8, 32, 0, 0, 50, 0.03, *BOTH),
    _flavour("t4-small", "T4, small", 4, 15, 1, 16, 50, 0.40, *BOTH),
    _flavour("t4-medium", "T4, medium", 8, 30, 1, 16, 100, 0.60, *BOTH),
    _flavour("l4x1", "L4", 8, 30, 1, 24, 400, 0.80, *BOTH),
    _flavour("l4x4", "4x L4", 48, 186, 4, 24, 3200, 3.80, *BOTH),
    _flavour("l40sx1", "L40S", 8, 62, 1, 48, 380, 1.80, *BOTH),
    _flavour("l40sx4", "4x L40S", 48, 382, 4, 48, 3200, 8.30, *BOTH),
    _flavour("l40sx8", "8x L40S", 192, 1534, 8, 48, 6500, 23.50, *BOTH),
    _flavour("a10g-small", "A10G, small", 4, 15, 1, 24, 110, 1.00, *BOTH),
    _flavour("a10g-large", "A10G, large", 12, 46, 1, 24, 200, 1.50, *BOTH),
    _flavour("a10g-largex2", "2x A10G", 24, 92, 2, 24, 1000, 3.00, *BOTH),
    _flavour("a10g-largex4", "4x A10G", 48, 184, 4, 24, 2000, 5.00, *BOTH),
    _flavour("a100-large", "A100", 12, 142, 1, 80, 1000, 2.50, *BOTH),
    _flavour("a100x4", "4x A100", 48, 568, 4, 80, 4000, 10.00, *BOTH),
    _flavour("a100x8", "8x A100", 96, 1136, 8, 80, 8000, 20.00, *BOTH),
    _flavour("rtx-pro-6000", "RTX PRO 6000", 23, 256, 1, 96, 475, 2.75, *BOTH),
    _flavour("h200", "H200", 23, 256, 1, 141, 3000, 5.00, "jobs"),
)
"""Hardware and prices by https://huggingface.co/docs/hub/spaces-gpus and /docs/hub/jobs-pricing on `FLAVOURS_DATED`.

The disks of machines that the pages do not name are left out with the machines."""
