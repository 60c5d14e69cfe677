"""What goes wrong with a data set of the Hub, in the words of the person who chose it.

Promises one `DataError` for whatever `datasets` and the readers below it raise, with the useful inner cause in one
line and without the token; a full disk stays the `OSError` that it is. The Hub's own refusals are put into words in
`hub.access`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher

from gemma_ft.data.problems import NEAR
from gemma_ft.errors import DataError
from gemma_ft.hub.access import LOST, refusal_of
from gemma_ft.redaction import redact

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST_CAUSE = 300
NETWORK = "Check the network of this machine, and try again."
MEND = "Choose another data set or revision, or download the file, mend it and use it as a file."
CONVERT = (
    "Try data.revision `refs/convert/parquet`, where the Hub keeps a converted copy of many data sets, or search for "
    "a copy of it."
)


@contextmanager
def explained(dataset_id: str, token: str | None) -> Iterator[None]:
    """Translate what the libraries raise while a data set is read. Raises `DataError`, or `OSError` for a full disk."""
    try:
        yield
    except DataError:
        raise
    except Exception as exc:  # readers of a dozen file formats, each with errors of its own
        full = next((one for one in _chain(exc) if isinstance(one, OSError) and one.errno in FULL_DISK), None)
        if full is exc:
            raise
        if full is not None:
            raise full from exc
        what, advice, named = _words(dataset_id, exc)
        raise DataError(redact(what, token), advice, **named) from exc


def nearest_ids(dataset_id: str, find: Callable[..., list[str]]) -> str:
    """Return advice for an id that the Hub does not know; empty when there is none like it.

    `find` is given `search=` or `author=`, and returns ids. It is asked for the name, the words in it, how it begins,
    and for all that the owner has.
    """
    author, _, name = dataset_id.rpartition("/")
    words = sorted((word for word in re.split(r"[-_.]+", name) if len(word) > 3), key=len, reverse=True)
    texts = dict.fromkeys([name, *words[:2], name[: max(3, len(name) // 2)]])
    try:
        ids = [one for text in texts for one in find(search=text)] + (find(author=author) if author else [])
    except DataError:
        return ""
    ranked = sorted(((_likeness(dataset_id, one), one) for one in dict.fromkeys(ids)), key=lambda pair: -pair[0])
    close = [one for likeness, one in ranked if likeness >= NEAR][:3]
    return f"Did you mean {' or '.join(close)}? A private one needs a token." if close else ""


def _likeness(wanted: str, other: str) -> float:
    """Return how alike two ids are; the name counts nearly as much as the whole."""
    wanted, other = wanted.lower(), other.lower()
    names = SequenceMatcher(None, wanted.rpartition("/")[2], other.rpartition("/")[2])
    return max(SequenceMatcher(None, wanted, other).ratio(), 0.95 * names.ratio())


def _words(dataset_id: str, exc: Exception) -> tuple[str, str, dict[str, str]]:
    """Return what happened and what to do; and the report's kind and title, where it is not the data that is bad."""
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError

    if any(isinstance(one, (EmptyDatasetError, DataFilesNotFoundError)) for one in _chain(exc)):
        return (
            f"{dataset_id} holds no data files that can be read.",
            "Choose another data set, or another revision.",
            {},
        )
    if isinstance(exc, RuntimeError) and "scripts are no longer supported" in str(exc):
        return f"{dataset_id} needs a program of its own to be read, and such programs are not run.", CONVERT, {}
    if _is_from_afar(exc):
        return f"{dataset_id} could not be fetched: {_cause(exc)}", NETWORK, _named(exc)
    if any(isinstance(one, OSError) and one.errno in FORBIDDEN for one in _chain(exc)):
        return f"{dataset_id} could not be stored: {_cause(exc)}", "Check the folder that HF_HOME names.", {}
    return f"{dataset_id} cannot be read: {_cause(exc)}", MEND, {}


def _named(exc: Exception) -> dict[str, str]:
    """Return the kind and the title for a refusal of the Hub, or for a Hub that was lost."""
    refusal = next((found for one in _chain(exc) if (found := refusal_of(one))), None)
    return {"kind": refusal.kind, "title": refusal.title} if refusal else LOST


def _is_from_afar(exc: Exception) -> bool:
    """Tell whether the Hub refused, was not reached, or left before the end."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    return any(isinstance(one, (ConnectionError, httpx.TransportError, HfHubHTTPError)) for one in _chain(exc))


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from or during."""
    one: BaseException | None = exc
    while one is not None:
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _cause(exc: Exception) -> str:
    """Return the innermost reason that `datasets` wrapped, as one line."""
    from datasets.exceptions import DatasetsError
    from datasets.table import CastError

    one: BaseException = exc
    while isinstance(one, DatasetsError) and one.__cause__ is not None:
        one = one.__cause__
    if isinstance(one, CastError):
        return _one_line(f"its files do not all have the same columns: {one.details()}.")
    return _one_line(f"{one}" or type(one).__name__)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_CAUSE else f"{line[: LONGEST_CAUSE - 2]} …"
