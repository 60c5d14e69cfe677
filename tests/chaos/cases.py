"""What is done to whom and when: a case is a fault, its victim, the phase in which it comes, and a seed for the rest.

Promises that a case is made of its seed alone, so that one that failed can be repeated, and that `SAMPLE` holds every
phase with every victim that a run depends on. Does nothing itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal, get_args

Phase = Literal["queued", "preparing", "tokenising", "training", "evaluating", "checkpoint", "saving", "pushing"]
"""`checkpoint` and `saving` are the moments in which a checkpoint or the result is being written."""
Victim = Literal["app", "supervisor", "trainer", "engine", "all", "home"]
"""`home` stands for the files and not for a process."""
Fault = Literal["kill", "hang", "torn", "power", "clock", "number", "two_apps", "disk"]

PHASES: tuple[Phase, ...] = get_args(Phase)
VICTIMS: dict[Fault, tuple[Victim, ...]] = {
    "kill": ("app", "supervisor", "trainer", "engine", "all"),
    "hang": ("app", "supervisor", "trainer", "engine", "all"),
    "torn": ("supervisor", "trainer", "all"),
    "power": ("all",),
    "clock": ("all",),
    "number": ("all",),
    "two_apps": ("home",),
    "disk": ("home",),
}
WEIGHTS: dict[Fault, int] = {
    "kill": 10,
    "hang": 4,
    "torn": 2,
    "power": 3,
    "clock": 1,
    "number": 1,
    "two_apps": 1,
    "disk": 2,
}
LONGEST_DELAY: dict[Phase, float] = {
    "queued": 1.5,
    "preparing": 5.0,
    "tokenising": 0.02,
    "training": 0.8,
    "evaluating": 0.03,
    "checkpoint": 0.02,
    "saving": 0.03,
    "pushing": 0.1,
}
"""Seconds after the beginning of a phase; some phases of the tiny run last for milliseconds only."""


@dataclass(frozen=True, slots=True)
class Case:
    """One fault at one moment. `auto` says whether the page resumes interrupted runs by itself."""

    fault: Fault
    victim: Victim
    phase: Phase
    seed: int
    delay: float = field(init=False)
    auto: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "delay", self.random("delay").uniform(0, LONGEST_DELAY[self.phase]))
        object.__setattr__(self, "auto", self.seed % 2 == 1)

    def random(self, purpose: str) -> random.Random:
        """Return the chance of this case for one purpose."""
        return random.Random(f"{self.seed} {self.fault} {self.victim} {self.phase} {purpose}")

    def __str__(self) -> str:
        return f"{self.fault}-{self.victim}-{self.phase}-{self.seed}"


SAMPLE: tuple[str, ...] = (
    "kill-app-training-2",
    "kill-supervisor-queued-6",
    "kill-supervisor-preparing-8",
    "kill-supervisor-tokenising-3",
    "kill-supervisor-training-10",
    "kill-supervisor-evaluating-12",
    "kill-supervisor-checkpoint-14",
    "kill-supervisor-saving-16",
    "kill-supervisor-pushing-18",
    "kill-trainer-preparing-20",
    "kill-trainer-tokenising-22",
    "kill-trainer-training-5",
    "kill-trainer-evaluating-24",
    "kill-trainer-checkpoint-7",
    "kill-trainer-saving-9",
    "kill-trainer-pushing-26",
    "kill-engine-training-28",
    "kill-all-evaluating-15",
    "kill-all-pushing-19",
    "hang-app-queued-30",
    "hang-supervisor-training-21",
    "hang-trainer-evaluating-32",
    "hang-all-training-34",
    "torn-all-training-23",
    "power-all-training-25",
    "power-all-saving-27",
    "clock-all-tokenising-36",
    "number-all-training-29",
    "two_apps-home-training-38",
    "disk-home-checkpoint-40",
)
"""What the continuous integration does: each phase with each victim that the run depends on, and each fault."""


def random_case(seed: int) -> Case:
    """Return the case that a seed stands for."""
    chance = random.Random(seed)
    fault = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    victim = chance.choice(VICTIMS[fault])
    return Case(fault, victim, chance.choice([phase for phase in PHASES if possible(fault, victim, phase)]), seed)


def parse(text: str) -> Case:
    """Return the case with this name (`kill-trainer-saving-7`), or the one of a seed (`7`). Raises `ValueError`."""
    if text.isdecimal():
        return random_case(int(text))
    fault, victim, phase, seed = text.split("-")
    case = Case(fault, victim, phase, int(seed))  # type: ignore[arg-type]
    if fault not in VICTIMS or not possible(case.fault, case.victim, case.phase):
        raise ValueError(f"there is no case {text!r}")
    return case


def possible(fault: Fault, victim: Victim, phase: Phase) -> bool:
    """Tell whether there is such a case: a run that waits has no trainer."""
    return phase in PHASES and victim in VICTIMS[fault] and not (phase == "queued" and victim == "trainer")
