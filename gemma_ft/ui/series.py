"""The curves of a run as the browser gets them: short numbers, and never more points than a chart can show.

Promises that a stretch of any length becomes at most `BUCKETS` means and twice as many points of its outline (the
lowest and the highest value of each bucket, at their own steps), and that a short one is sent as it is. What is not
finite is a gap. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gemma_ft.events import Fact
from gemma_ft.monitor.columns import Columns, Numbers, numbers
from gemma_ft.monitor.thin import grid, highest, means, outline, plain

BUCKETS = 500
MACHINE_BUCKETS = 400
MOST_MACHINE_POINTS = 6000
"""For machines with many GPUs: values of all curves together."""
CURVES = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "token_accuracy",
    "entropy",
    "chosen_reward",
    "rejected_reward",
    "reward_margin",
    "reward_accuracy",
)
WITHOUT_OUTLINE = frozenset({"learning_rate"})
EVAL_CURVES = ("loss", "token_accuracy", "reward_margin", "reward_accuracy", "chosen_reward", "rejected_reward")
WITH_PEAKS = ("cpu", "own_cpu")


def steps_between(columns: Columns, begin: int, end: int, buckets: int = BUCKETS) -> dict[str, Any]:
    """Return the rows from `begin` to before `end`.

    `step`, `clock` (seconds), `tokens` and `epoch` are those of each bucket, for the axis; of each curve there is the
    `mean` of each bucket and, when buckets have several rows, the outline: `x` (steps) and `y`.
    """
    over = grid(end - begin, buckets)
    step = columns.column("step", begin, end)
    curves: dict[str, Any] = {}
    for name in CURVES:
        values = columns.column(name, begin, end)
        if not np.isfinite(values).any():
            continue
        curves[name] = {"mean": plain(means(values, over))}
        if not over.is_exact and name not in WITHOUT_OUTLINE:
            rows = outline(values, over)
            curves[name] |= {"x": whole(step[rows]), "y": plain(values[rows])}
    axis = {name: columns.column(name, begin, end)[over.rows] for name in ("clock", "tokens", "epoch")}
    return {
        "step": whole(step[over.rows]),
        "clock": plain(axis["clock"], 9),
        "tokens": plain(axis["tokens"], 12),
        "epoch": plain(axis["epoch"], 6),
        "curves": curves,
    }


def evals_of(facts: Sequence[Fact], most: int = 2 * BUCKETS) -> dict[str, Any]:
    """Return evaluations by column; of very many those that are the lowest and the highest of their stretch."""
    if len(facts) > most:
        rows = outline(numbers([fact.get("loss") for fact in facts]), grid(len(facts), most // 2))
        facts = [facts[row] for row in rows]
    found: dict[str, Any] = {"step": [fact["step"] for fact in facts]}
    for name in EVAL_CURVES:
        values = numbers([fact.get(name) for fact in facts])
        if np.isfinite(values).any():
            found[name] = plain(values)
    return found


def machine_between(columns: Columns, begin: int, end: int) -> dict[str, Any]:
    """Return samples of the machine: `t` (unix seconds), the means of every figure, and the peaks of some."""
    names = [name for name in columns.names() if name != "t"]
    buckets = min(MACHINE_BUCKETS, max(60, MOST_MACHINE_POINTS // max(1, len(names))))
    over = grid(end - begin, buckets)
    curves: dict[str, Any] = {}
    for name in names:
        values = columns.column(name, begin, end)
        if not np.isfinite(values).any():
            continue
        curves[name] = {"mean": plain(means(values, over), 4)}
        if not over.is_exact and (name in WITH_PEAKS or name.endswith("_use")):
            curves[name]["high"] = plain(highest(values, over), 4)
    return {"t": [round(value, 1) for value in columns.column("t", begin, end)[over.rows].tolist()], "curves": curves}


def whole(values: Numbers) -> list[int]:
    """Return whole numbers as such."""
    return [int(value) for value in values.tolist()]
