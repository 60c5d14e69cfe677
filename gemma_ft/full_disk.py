"""Knowing a full disk (or a used-up quota) when an exception tells of one, and how much room there is.

Promises the same answer for Python's own errors, for those of libraries written in Rust (safetensors, tokenizers) that
only carry the words, and for PyTorch's writer, which does not even say why it failed: there the disk itself is asked.
Waits for nothing and removes nothing.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

CODES = (errno.ENOSPC, errno.EDQUOT)
WORDS = ("No space left on device", "Disk quota exceeded", "StorageFull", *(f"os error {code}" for code in CODES))
"""What libraries say that keep no number."""
TORCH_WRITER = ("iostream error", "inline_container", "PytorchStreamWriter")
"""What PyTorch says when it could not write, for whatever reason."""
SCARCE_BYTES = 4_000_000
"""With less than this free, PyTorch's writer is taken to have failed for want of room."""


def free_bytes(path: Path) -> int:
    """Return how much can still be written on the disk of a path, which need not exist yet. Quotas do not show."""
    whole = path.absolute()
    return shutil.disk_usage(next(place for place in (whole, *whole.parents) if place.exists())).free


def is_full_disk(exc: BaseException, folder: Path | None = None) -> bool:
    """Tell whether an error comes from a full disk, also through the errors that it led to.

    `folder` is where something was written; ask before what was written in vain is removed.
    """
    if any(says_full_disk(each) for each in _chain(exc)):
        return True
    hidden = any(isinstance(each, RuntimeError) and _names(each, TORCH_WRITER) for each in _chain(exc))
    return hidden and folder is not None and free_bytes(folder) < SCARCE_BYTES


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from or during."""
    seen: set[int] = set()
    found: BaseException | None = exc
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def says_full_disk(exc: BaseException) -> bool:
    """Tell whether an error itself says so, whatever it was raised from."""
    if isinstance(exc, OSError) and exc.errno is not None:
        return exc.errno in CODES
    return _names(exc, WORDS)


def _names(exc: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(exc) for word in words)
