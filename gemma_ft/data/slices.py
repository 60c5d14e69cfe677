"""Splits as they are written: `train`, `train[:10%]`, `train[100:200]`, `train+test[:5]`.

Promises that what is not understood is refused before anything is fetched, and the bounds that `datasets` itself
would compute. Bounds in per cent, and those counted from the end, are known only with the size of the split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gemma_ft.errors import DataError

TERM = re.compile(r"(\w+(?:\.\w+)*)(?:\[(-?\d[\d_]*%?)?:(-?\d[\d_]*%?)?\])?(?:\((?:closest|pct1_dropremainder)\))?")
HOW_TO = "Write it as `train`, `train[:1000]`, `train[10%:20%]` or `train+test[:50]`."


@dataclass(frozen=True, slots=True)
class Part:
    """One term of a split; `relative` when its bounds depend on the size of the split."""

    spec: str
    split: str
    start: int
    stop: int | None
    relative: bool

    def bounds(self, size: int) -> tuple[int, int]:
        """Return the first row and the one after the last in a split of so many rows. Raises `DataError`."""
        from datasets import ReadInstruction

        try:
            found = ReadInstruction.from_spec(self.spec).to_absolute({self.split: size})[0]
        except ValueError as exc:
            raise DataError(f"{self.spec} cannot be taken of {size} rows: {exc}", HOW_TO) from exc
        return found.from_, max(found.from_, found.to)


def parse_split(split: str) -> list[Part]:
    """Take a split apart. Raises `DataError` for what cannot be understood."""
    from datasets import ReadInstruction

    parts = [_part(spec) for spec in re.split(r"\s*\+\s*", split.strip())]
    try:
        ReadInstruction.from_spec("+".join(part.spec for part in parts))
    except ValueError as exc:
        raise DataError(f"{split!r} is no split: {exc}", HOW_TO) from exc
    return parts


def _part(spec: str) -> Part:
    found = TERM.fullmatch(spec)
    if found is None:
        raise DataError(f"{spec!r} is no split.", HOW_TO)
    name, *bounds = found.groups()
    given = [bound for bound in bounds if bound]
    shares = [bound.endswith("%") for bound in given]
    if any(shares) and not all(shares):
        raise DataError(f"{spec} mixes per cent and rows.", HOW_TO)
    relative = any(shares) or any(bound.startswith("-") for bound in given)
    start, stop = (None if relative or not bound else int(bound) for bound in bounds)
    if stop is not None and stop <= (start or 0):
        raise DataError(f"{spec} ends before it begins and so holds no rows.", HOW_TO)
    return Part(spec, name, start or 0, stop, relative)
