"""Will it run, how long, how much: the estimate of a run as one report of plain values.

Promises one report for the page, the API and the command line, and that everything in it comes from `estimate`. Reads
neither the machine nor the Hub: what they say is handed in. Sizes are bytes, times seconds or hours, prices dollars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gemma_ft.config import RunConfig
from gemma_ft.estimate.flavours import FLAVOURS, FLAVOURS_DATED, Offer, cheapest, live_flavours, price_list
from gemma_ft.estimate.memory import Memory, decide_checkpointing, decide_sharding, estimate_memory
from gemma_ft.estimate.plan import plan_run
from gemma_ft.estimate.remedies import Remedy, remedies
from gemma_ft.estimate.workload import Workload
from gemma_ft.hardware import Machine
from gemma_ft.shape import ModelShape
from gemma_ft.sharing import processes_for

Report = dict[str, Any]


def fit_report(
    config: RunConfig,
    shape: ModelShape,
    workload: Workload,
    machine: Machine,
    live_prices: Sequence[Mapping[str, Any]] | None = None,
) -> Report:
    """Return the estimate of a run on a machine, with the prices of others, and what would make it fit.

    `live_prices` are what the Hub says (`hub/hardware.py`); without them the prices are those of `prices.dated`.
    """
    flavours = live_flavours(live_prices) if live_prices else FLAVOURS
    offers = price_list(config, shape, workload, flavours)
    best = cheapest(offers)
    plan = plan_run(config, shape, workload, machine)
    return {
        "measured_data": workload.measured,
        "machine": {"name": machine.name, "gpus": [gpu.name for gpu in machine.gpus], "disk_free": machine.disk_free},
        "memory": describe_memory(estimate_memory(config, shape, workload, machine)),
        "gradient_checkpointing": decide_checkpointing(config, shape, workload, machine),
        "processes": processes_for(config, machine),
        "sharding": decide_sharding(config, shape, workload, machine),
        "plan": asdict(plan),
        "prices": {
            "dated": None if live_prices else FLAVOURS_DATED,
            "offers": [_offer(offer) for offer in offers],
            "cheapest": best and best.flavour.name,
        },
        "remedies": [_remedy(remedy) for remedy in remedies(config, shape, workload, machine)],
    }


def describe_memory(memory: Memory) -> Report:
    """Return the figures of an estimate of memory as plain values."""
    return {
        "where": memory.where,
        "available": memory.available,
        "low": memory.low,
        "high": memory.high,
        "fits": memory.fits,
        "terms": [asdict(term) for term in memory.terms],
    }


def _offer(offer: Offer) -> Report:
    return {
        "name": offer.flavour.name,
        "label": offer.flavour.label,
        "places": list(offer.flavour.places),
        "dollars_per_hour": offer.flavour.dollars_per_hour,
        "fits": offer.fits,
        "hours": [offer.hours_low, offer.hours_high],
        "dollars": [offer.dollars_low, offer.dollars_high],
    }


def _remedy(remedy: Remedy) -> Report:
    needs = {"low": remedy.memory.low, "high": remedy.memory.high, "fits": remedy.fits}
    return {"label": remedy.label, "changes": remedy.changes, "cost": remedy.cost, **needs}
