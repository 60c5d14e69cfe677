"""How often the alerts are wrong: real trainings of the demo model with seeds and settings that no test knows.

    .venv/bin/python benchmarks/alerts.py            # about a quarter of an hour on two cores
    .venv/bin/python benchmarks/alerts.py --seeds 1  # a look

Healthy runs should raise nothing, sick ones what they suffer from. What is printed is what the runs' own supervisors
told. No network, no GPU, no token; nothing fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gemma_ft import recipes  # noqa: E402
from gemma_ft.config import EvaluationConfig, RunConfig  # noqa: E402
from gemma_ft.events import read_facts  # noqa: E402
from gemma_ft.jobs.manager import JobManager  # noqa: E402
from gemma_ft.rundir import ACTIVE  # noqa: E402
from gemma_ft.settings import Settings  # noqa: E402

FIRST_SEED = 1000
Changes = dict[str, Any]
HEALTHY: dict[str, Changes] = {
    "LoRA, as Try it": {},
    "LoRA, rank 4, half the rate": {"method.rank": 4, "training.learning_rate": 1e-3},
    "LoRA, small batches": {"training.batch_size": 2, "training.learning_rate": 1e-3},
    "LoRA, cosine, long warm-up": {"training.schedule": "cosine", "training.warmup_fraction": 0.3},
    "QLoRA": {"method.adapter": "qlora"},
    "Standard": {"method.adapter": "none", "training.learning_rate": 3e-4},
    "Standard, small batches": {"method.adapter": "none", "training.learning_rate": 2e-4, "training.batch_size": 2},
    "packed": {"training.packing": True, "training.batch_size": 4},
}
SICK: dict[str, tuple[set[str], Changes]] = {
    "rate a thousand times too high": (
        {"loss_explodes", "not_finite", "gradient_spike", "loss_spike"},
        {"method.adapter": "none", "training.learning_rate": 0.5, "training.warmup_fraction": 0.0},
    ),
    "rate of next to nothing": ({"loss_flat"}, {"training.learning_rate": 1e-9}),
    "by heart": (
        {"overfitting"},
        {
            "data.max_rows": 32,
            "data.validation_fraction": 0.5,
            "training.batch_size": 4,
            "training.schedule": "constant",
            "training.max_steps": 160,
        },
    ),
}
"""What is wrong, the rules that may say so, and how it is brought about."""


def main() -> None:
    """Train them all and print what was told."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, default=5, help="runs of each kind")
    seeds = range(FIRST_SEED, FIRST_SEED + asked.parse_args().seeds)
    with tempfile.TemporaryDirectory(prefix="alerts-") as folder:
        manager = JobManager(Settings(home=Path(folder)))
        print(f"{'healthy':34} runs  with an alarm")
        for name, changes in HEALTHY.items():
            found = [told(manager, changes, seed) for seed in seeds]
            print(f"{name:34} {len(found):4}  {sum(map(bool, found)):4}  {counted(found)}", flush=True)
        print(f"\n{'sick':34} runs  found")
        for name, (rules, changes) in SICK.items():
            found = [told(manager, changes, seed) for seed in seeds]
            print(
                f"{name:34} {len(found):4}  {sum(bool(rules & one) for one in found):4}  {counted(found)}", flush=True
            )


def told(manager: JobManager, changes: Changes, seed: int) -> set[str]:
    """Train once and return the rules that spoke."""
    run = manager.start(configuration(changes | {"training.seed": seed}))
    while manager.state(run).status in ACTIVE:
        time.sleep(0.2)
    state = manager.state(run)
    if state.status != "finished":
        print(f"  {run.run_id} has {state.status}: {state.error and state.error.title}", file=sys.stderr)
    return {str(fact["rule"]) for fact in read_facts(run.alerts)[0] if fact["active"]}


def configuration(changes: Changes) -> RunConfig:
    """Return Try it with shorter training, no questions, and these changes."""
    base = recipes.try_it().model_copy(update={"evaluation": EvaluationConfig()})
    return base.changed({"training.max_steps": 80, "training.eval_every": 10, "training.save_every": 0} | changes)


def counted(found: list[set[str]]) -> str:
    """Return how often each rule spoke."""
    return ", ".join(f"{rule} {times}x" for rule, times in Counter(rule for one in found for rule in one).items())


if __name__ == "__main__":
    main()
