"""One short question to the Hub, while a person waits for the answer.

Promises to give up after `SHORT_PATIENCE` seconds without a word (the client itself would wait for ever on most of
these addresses), to ask once, and to send the token that is given or none at all, never one that lies on this machine.
"""

from __future__ import annotations

from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    httpx,
)

SHORT_PATIENCE = 5.0
UNREACHABLE = (httpx.HTTPError, httpx.InvalidURL, OSError)
"""What is raised when there is no answer; after `HfHubHTTPError`, which is one of them, has been caught."""


def ask(path: str, token: str | None) -> Any:
    """Return the Hub's answer to GET `path` (such as `/api/whoami-v2`).

    Raises `HfHubHTTPError` when the Hub refuses, and one of `UNREACHABLE` when it does not answer.
    """
    headers = build_hf_headers(token=token or False)
    answer = get_session().get(f"{constants.ENDPOINT}{path}", headers=headers, timeout=SHORT_PATIENCE)
    hf_raise_for_status(answer)
    return answer
