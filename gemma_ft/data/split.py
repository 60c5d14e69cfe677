"""Which rows are trained on and which are held out.

Promises the same answer for the same rows, seed and fraction in every process, and that equal samples always land on
the same side. Works on numbers and digests of rows, so it does not care how large they are.
"""

from __future__ import annotations

import random
from array import array

import numpy as np

from gemma_ft.config import DataConfig


def split(
    numbers: array[int], digests: array[int], data: DataConfig, measured: array[int] | None = None
) -> tuple[array[int], array[int]]:
    """Return the numbers of the rows to train on and of those held out, in the order of the mixing.

    With `measured`, the digests of a source that is there to measure with, nothing is held out and what is in it is not
    trained on.
    """
    order = array("L", range(len(numbers)))
    if data.shuffle:
        random.Random(data.seed).shuffle(order)
    order = order[: data.max_rows]
    held_out = set(measured) if measured is not None else _held_out([digests[place] for place in order], data)
    train = array("L", (numbers[place] for place in order if digests[place] not in held_out))
    validation = array("L", (numbers[place] for place in order if digests[place] in held_out))
    return train, validation


def _held_out(ordered: list[int], data: DataConfig) -> set[int]:
    """Return digests of the last rows, whole groups of equal ones, as many rows as the fraction asks for.

    A group that is too large for that is left to the training; if all are, the smallest one is held out. One group
    always stays to train on.
    """
    if not data.validation_fraction or len(set(ordered)) < 2:
        return set()
    wanted = max(1, round(len(ordered) * data.validation_fraction))
    groups, sizes = np.unique(np.array(ordered, dtype=np.uint64), return_counts=True)
    held_out: set[int] = set()
    left = wanted
    for digest in reversed(ordered):
        if left == 0 or len(held_out) == len(groups) - 1:
            break
        size = int(sizes[np.searchsorted(groups, np.uint64(digest))])
        if digest not in held_out and size <= left:
            held_out.add(digest)
            left -= size
    return held_out or {int(groups[np.argmin(sizes)])}
