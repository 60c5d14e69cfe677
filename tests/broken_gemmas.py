"""Tuning a very small Gemma that breaks at a chosen step, with the trainer's own code; runs in a child process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma_ft.data.samples import Sample
from gemma_ft.errors import ErrorReport
from gemma_ft.rundir import RunDir
from tiny_gemmas import tune_run


def tune_breaking(
    run: RunDir,
    base: Path,
    samples: Sequence[Sample],
    *,
    activations: Sequence[int] = (),
    weights: int = 0,
) -> ErrorReport | None:
    """Train (or go on) with NaN in the activations at some steps, or infinite weights from one step on.

    Return why it failed, or `None`. A step has one batch; steps are counted from this start on.
    """
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    from gemma_ft.train.finite import NotFinite

    step = 1

    def spoil(module: Any, given: Any, output: Any) -> Any:
        return output * math.nan if step in activations and isinstance(module, torch.nn.Linear) else None

    def after_call(run: RunDir, model: Any, named: dict[str, Any]) -> None:
        nonlocal step
        if step == weights:
            trained = next(parameter for parameter in model.parameters() if parameter.requires_grad)
            trained.data.fill_(math.inf)
        if torch.is_grad_enabled():
            step += 1

    hook = register_module_forward_hook(spoil)
    try:
        assert tune_run(run, base, (samples, []), after_call)
    except NotFinite as exc:
        return exc.report
    finally:
        hook.remove()
    return None


def is_sound(run: RunDir, names: Sequence[str]) -> dict[str, bool]:
    """Tell of the checkpoints of these names whether all their weights are finite."""
    import torch
    from safetensors.torch import load_file

    files = {name: next((run.checkpoints / name).glob("*.safetensors")) for name in names}
    return {
        name: all(bool(torch.isfinite(tensor).all()) for tensor in load_file(file).values())
        for name, file in files.items()
    }
