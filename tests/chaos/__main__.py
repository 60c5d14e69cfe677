"""`make chaos`: random cases, a line for each, a table, and the command that repeats each case that went wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import as_completed

from chaos.campaign import KEPT, campaign, line, record, table
from chaos.cases import parse, random_case
from chaos.world import build_models


def main() -> int:
    """Do the cases and return 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="how many random cases")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the seed of the first; they count up")
    parser.add_argument("--worlds", type=int, default=os.cpu_count() or 2, help="how many at the same time")
    parser.add_argument("only", nargs="*", help="these cases, by name (kill-trainer-saving-7) or seed")
    asked = parser.parse_args()
    seeds = range(asked.seed, asked.seed + asked.cases)
    cases = [parse(text) for text in asked.only] or [random_case(seed) for seed in seeds]
    outcomes = []
    with campaign(cases, build_models(KEPT / "models"), worlds=min(asked.worlds, len(cases))) as expected:
        for number, future in enumerate(as_completed(expected.values()), 1):
            outcome = future.result()
            outcomes.append(outcome)
            record(outcome)
            print(f"{number:>3}/{len(cases)} {line(outcome)}", flush=True)
    print(f"\n{table(outcomes)}")
    broken = [outcome for outcome in outcomes if outcome.problems]
    for outcome in broken:
        print(f"\n{outcome.case}: repeat it with  make chaos ARGS={outcome.case}\n" + "\n".join(outcome.problems))
    print(f"\n{len(outcomes) - len(broken)} of {len(outcomes)} cases held. Seeds and outcomes: {KEPT}/results.jsonl")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
