"""Importing Gradio without the work it does for editors only.

Whenever it is imported, Gradio parses the source of each of its components and renders a stub (`.pyi`) for editors:
almost half of the time of the import. Promises to change nothing else, and nothing at all once the import is over. A
Gradio that makes its stubs in another way is imported as slowly as ever. `benchmarks/page_idle.py` measures it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STUBS_ARE_MADE_BY = "gradio.component_meta"


@contextmanager
def without_stubs() -> Iterator[None]:
    """Tell Gradio's maker of stubs, and only it, that a class has no source file; then it leaves the class alone."""
    genuine = inspect.getfile

    def getfile(thing: Any) -> str:
        if sys._getframe(1).f_globals.get("__name__") == STUBS_ARE_MADE_BY:
            raise OSError
        return genuine(thing)

    inspect.getfile = getfile  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = genuine
