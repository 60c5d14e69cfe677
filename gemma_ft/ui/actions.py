"""What a person can do with a run right now, by name, for the buttons of the Dashboard.

Promises that nothing is offered that would be refused, as far as the run's state tells. Does nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemma_ft.rundir import ACTIVE, RESUMABLE, RunState


def possible(
    state: RunState, *, has_model: bool, asks: bool, place: int | None, waiting: int, in_control: bool
) -> list[str]:
    """Return what can be done: `stop`, `cancel`, `leave`, `first`, `last`, `save`, `sample`, `resume`, `continue`,
    `chat`.

    `asks` says whether the run has questions to answer on its way, `place` is its place in line (1 is the next) and
    `waiting` how many stand in it. A page that is not `in_control` can only look and chat.
    """
    finished = state.status == "finished"
    going = state.status in ACTIVE and state.status != "queued"
    found = {
        "stop": going and state.stop is None,
        "cancel": going and (state.stop is None or state.stop.wish != "cancel"),
        "leave": state.status == "queued",
        "first": place is not None and place > 1,
        "last": place is not None and place < waiting,
        "save": state.status == "training" and state.stop is None,
        "sample": state.status == "training" and state.stop is None and asks,
        "resume": state.status in RESUMABLE,
        "continue": finished and has_model,
    }
    acts = [name for name, can in found.items() if can and in_control]
    return [*acts, *(["chat"] if finished and has_model else [])]


def place_in_line(order: Sequence[str], run_id: str) -> int | None:
    """Return a run's place in the line, 1 for the next one, or `None` when it does not wait."""
    return order.index(run_id) + 1 if run_id in order else None
