"""Whatever is killed, hangs or fills up in whatever phase: no run is lost, and the page tells the truth.

Real processes and the tiny run of `world.py`; `make chaos` does many more cases at random.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from chaos.campaign import campaign, line
from chaos.cases import PHASES, SAMPLE, VICTIMS, Case, parse, random_case
from chaos.trial import Outcome
from conftest import ROOT

CASES = [parse(name) for name in SAMPLE]


@pytest.fixture(scope="module")
def outcomes(demo_models: Path) -> Iterator[dict[Case, Future[Outcome]]]:
    """What each case comes to; they are done in as many homes at once as there are cores."""
    with campaign(CASES, demo_models, worlds=os.cpu_count() or 2) as expected:
        yield expected


@pytest.mark.train
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_lost_and_nothing_is_said_that_is_not_true(
    case: Case, outcomes: dict[Case, Future[Outcome]]
) -> None:
    outcome = outcomes[case].result()
    print(line(outcome))
    if case.fault == "disk" and not outcome.possible:
        pytest.skip("this machine lets us make no small disk")
    assert outcome.problems == []


@pytest.mark.train
def test_most_faults_came_in_the_phase_that_they_were_meant_for(outcomes: dict[Case, Future[Outcome]]) -> None:
    hits = [outcomes[case].result().hit for case in CASES]
    assert sum(hits) > 0.7 * len(hits)


def test_the_sample_has_every_fault_and_every_phase_with_every_victim_that_a_run_needs() -> None:
    assert {case.fault for case in CASES} == set(VICTIMS)
    assert {case.victim for case in CASES} == {victim for victims in VICTIMS.values() for victim in victims}
    killed = {(case.phase, case.victim) for case in CASES if case.fault == "kill"}
    assert {phase for phase, victim in killed if victim == "supervisor"} == set(PHASES)
    assert {phase for phase, victim in killed if victim == "trainer"} == set(PHASES) - {"queued"}


def test_a_case_is_made_of_its_seed_alone() -> None:
    for seed in range(200):
        case = random_case(seed)
        assert parse(str(case)) == parse(str(seed)) == case
    assert len({str(random_case(seed)) for seed in range(200)}) == 200


def test_whatever_the_life_cycle_names_exists() -> None:
    words = re.findall(r"`(test_\w+|tests/[\w./]+)`", (ROOT / "docs" / "lifecycle.md").read_text("utf-8"))
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(words) > 15
    for word in words:
        assert (ROOT / word).exists() if "/" in word else f"def {word}(" in tests, word
