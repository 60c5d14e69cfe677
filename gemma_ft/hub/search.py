"""Finding data sets on the Hub by a part of their name.

Promises one question and one answer: the client's own listing would try for half a minute to reach a Hub that is not
there, while a person waits.
"""

from __future__ import annotations

from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from gemma_ft.hub.access import PATIENCE, read_errors, require_sendable


def find_datasets(*, token: str | None, limit: int, search: str | None = None, author: str | None = None) -> list[str]:
    """Return the ids of data sets by a part of their id or by their owner, the most downloaded first.

    Raises `DataError` when the Hub refuses or does not answer.
    """
    require_sendable(token, "dataset")
    given = {"search": search, "author": author, "sort": "downloads", "limit": str(limit)}
    asked = {name: value for name, value in given.items() if value}
    with read_errors("the search", "dataset"):
        address, headers = f"{constants.ENDPOINT}/api/datasets", build_hf_headers(token=token)
        answer = get_session().get(address, params=asked, headers=headers, timeout=PATIENCE)
        hf_raise_for_status(answer)
        return [str(dataset["id"]) for dataset in answer.json()]
