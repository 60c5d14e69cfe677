"""Answers what a run needs before it starts: the fit, the Doctor's card, and presets filled in.

Promises the same workload for all three: the X-ray's figures where there are some, a cautious guess where not. Holds no
model. What the steps really need is measured elsewhere (`train/measuring.py`), by a process that can be thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from gemma_ft.config import LONGEST_LENGTH, RunConfig, parse_config
from gemma_ft.doctor import examine
from gemma_ft.engine.shapes import Shapes
from gemma_ft.errors import ConfigError, ModelError
from gemma_ft.estimate.disk import certain_bytes
from gemma_ft.estimate.plan import plan_run
from gemma_ft.estimate.presets import Preset, preset
from gemma_ft.estimate.workload import Workload
from gemma_ft.fit import fit_report
from gemma_ft.hub.hardware import live_prices
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.settings import Settings
from gemma_ft.train.kinds import knows
from gemma_ft.train.resolve import is_here

Figures = Mapping[str, Any]
Values = Mapping[str, Any]


class PlanningRoom:
    """Plans runs on this machine."""

    def __init__(self) -> None:
        self._home = Settings.from_env().home
        self._shapes = Shapes()

    def plan(self, values: Values, figures: Figures | None, rows: int, token: str | None) -> dict[str, Any]:
        """Return the `fit` of a config's values (`None`, with the `problem`, for a model without a shape) and the
        `doctor`'s findings.

        `figures` are those of the X-ray, `rows` the rows to train on where there is none. Raises `ConfigError`.
        """
        config, machine = parse_config(values), this_machine(self._home)
        workload = _workload(config, figures, rows)
        shape, problem = None, None
        try:
            shape = self._shapes.of(config.model, token)
        except ModelError as exc:
            problem = exc.report.model_dump()
        known, here = shape, is_here(config.model)

        def disk_needed(other: RunConfig) -> int:
            assert known is not None
            plan = plan_run(other, known, workload.cut_to(other.training.max_length), machine)
            return plan.disk_bytes + (0 if here else plan.download_bytes)

        def disk_certain(other: RunConfig) -> int:
            assert known is not None
            return certain_bytes(other, known, machine, workload.cut_to(other.training.max_length))

        findings = examine(
            config,
            shape=shape,
            machine=machine,
            token=token,
            system_turns=figures["system_turns"] if figures else "not known",
            disk_needed=disk_needed if shape else None,
            disk_certain=disk_certain if shape else None,
            disk_free=machine.disk_free,
            knows=knows,
        )
        fit = fit_report(config, shape, workload, machine, live_prices(token)) if shape else None
        return {
            "fit": fit,
            "problem": problem,
            "doctor": [asdict(finding) for finding in findings],
        }

    def preset(
        self, name: str, values: Values, figures: Figures | None, rows: int, token: str | None
    ) -> dict[str, Any]:
        """Return the `config` with a preset filled in. Raises `ConfigError`, `ModelError`."""
        if name not in get_args(Preset):
            raise ConfigError(f"There is no preset {name!r}.", f"There are {', '.join(get_args(Preset))}.")
        config = parse_config(values)
        shape, machine = self._shapes.of(config.model, token), this_machine(self._home)
        chosen: Preset = name  # type: ignore[assignment]
        # The rows as long as they are: a preset chooses the length at which they are cut.
        uncut = config.changed({"training.max_length": min(shape.context, LONGEST_LENGTH)})
        filled = preset(chosen, config, shape, _workload(uncut, figures, rows), machine)
        return {"config": filled.model_dump(mode="json")}


def _workload(config: RunConfig, figures: Figures | None, rows: int) -> Workload:
    return Workload.from_xray(figures, config) if figures else Workload.assumed(config, rows)
