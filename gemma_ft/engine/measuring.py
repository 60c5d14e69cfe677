"""The measurement of a run that is asked for on the page: data and model are found as the run would find them.

Promises the first rows that the run would train on, longest first. Tells `progress` in steps; a page that leaves
ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gemma_ft.config import parse_config
from gemma_ft.engine.data_room import DataRoom
from gemma_ft.settings import Settings
from gemma_ft.train.measuring import measure as measure_steps
from gemma_ft.train.resolve import resolve_model

MEASURED_ROWS = 2_000


def measure(
    values: Mapping[str, Any], token: str | None, data: DataRoom, report: Callable[[int], None]
) -> dict[str, Any]:
    """Return the figures of three steps of the run that a config's values describe.

    Raises `ConfigError`, `DataError`, `ModelError`, and the errors of an allocation that is refused.
    """
    config = parse_config(values)
    samples = data.first_samples(config, token, lambda rows: report(0), number=MEASURED_ROWS)
    folder = resolve_model(
        config.model,
        Settings.from_env().models,
        enter=lambda phase: report(0),
        report=lambda done, total: report(0),
        hub_token=token,
    )
    return measure_steps(config, folder, samples, report).plain()
