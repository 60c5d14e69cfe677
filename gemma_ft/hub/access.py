"""May this token do that? Asked before anything expensive, and foreign errors put into words.

Promises that the errors of the Hub's client leave here as a `ModelError` or `HubError` that says what to do. A
token is never part of a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from gemma_ft.errors import HubError, ModelError

OFFLINE = "Check the network of this machine, or use the offline demo model."


@contextmanager
def require_access(model_id: str, token: str | None) -> Iterator[None]:
    """Check that a model may be read with this token, then translate the errors of whatever is done with it.

    `auth_check` is asked because the model's page answers also for those who may not download it. Raises
    `ModelError`.
    """
    try:
        HfApi().auth_check(model_id, token=token)
        yield
    except GatedRepoError as exc:
        raise ModelError(
            f"{model_id} is gated and this token has no access to it.",
            f"Open https://huggingface.co/{model_id}, accept the licence, and give the token of that account.",
        ) from exc
    except RevisionNotFoundError as exc:
        raise ModelError(f"{model_id} has no such revision.", "Check model.revision, or leave it empty.") from exc
    except RepositoryNotFoundError as exc:
        raise ModelError(
            f"There is no model {model_id} on the Hub, or it is private.", "Check the spelling, or give a token."
        ) from exc
    except HfHubHTTPError as exc:
        raise ModelError(f"The Hub refused {model_id}: {_reason(exc)}.", "Check the token and try again.") from exc
    except HFValidationError as exc:
        raise ModelError(f"{model_id!r} is no model id: {exc}", "Write it as owner/name.") from exc
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError, LocalEntryNotFoundError) as exc:
        raise ModelError(f"The Hub could not be reached ({type(exc).__name__}).", OFFLINE) from exc


@contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """Translate the errors of an action that writes to the Hub. Raises `HubError`."""
    try:
        yield
    except LocalTokenNotFoundError as exc:
        raise HubError(f"{doing} needs a token.", "Give a Hub token with write access.") from exc
    except HfHubHTTPError as exc:
        raise HubError(
            f"{doing} was refused: {_reason(exc)}.", "Check that the token may write to this repository."
        ) from exc
    except (RuntimeError, ValueError) as exc:
        # What the client raises when single files fail, and for names and cards that it refuses itself.
        raise HubError(f"{doing} failed: {exc}", "Check the name and the network, and try again.") from exc
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError) as exc:
        raise HubError(f"{doing} failed: the Hub could not be reached ({type(exc).__name__}).", OFFLINE) from exc


def _reason(exc: HfHubHTTPError) -> str:
    status = exc.response.status_code if exc.response is not None else "no answer"
    return f"{exc.server_message or 'no reason given'} (status {status})"
