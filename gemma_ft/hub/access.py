"""May this token do that? Asked before anything expensive, and foreign errors put into words.

Promises that the errors of the Hub's client leave here as a `ModelError`, `DataError` or `HubError` that says what to
do, and that a Hub that does not answer is given up after `PATIENCE` seconds. A token is never part of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from huggingface_hub import DatasetInfo, HfApi, ModelInfo
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

from gemma_ft.errors import DataError, GemmaFtError, HubError, ModelError

OFFLINE = "Check the network of this machine, or use the offline demo model."
PATIENCE = 30.0

RepoType = Literal["model", "dataset"]
RepoInfo: TypeAlias = ModelInfo | DatasetInfo


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of repository is called and which error is raised for it."""

    word: str
    page: str
    setting: str
    error: type[GemmaFtError]
    offline: str


_KINDS: dict[RepoType, _Kind] = {
    "model": _Kind("model", "https://huggingface.co/", "model.revision", ModelError, OFFLINE),
    "dataset": _Kind(
        "data set",
        "https://huggingface.co/datasets/",
        "data.revision",
        DataError,
        "Check the network of this machine, or use a file or the bundled example.",
    ),
}


@contextmanager
def require_access(
    repo_id: str,
    token: str | None,
    repo_type: RepoType = "model",
    *,
    revision: str | None = None,
    suggest: Callable[[], str] | None = None,
) -> Iterator[RepoInfo]:
    """Check that a repository may be read with this token, then translate the errors of whatever is done with it.

    `auth_check` is asked because the repository's page answers also for those who may not download it, and the cache
    answers everybody. Gives what the page says; its id is the present one of a repository that was renamed. Raises
    `ModelError` or `DataError`; `suggest` gives the advice for an id that the Hub does not know.
    """
    with read_errors(repo_id, repo_type, suggest=suggest):
        require_sendable(token, repo_type)
        api = HfApi()
        ask = api.model_info if repo_type == "model" else api.dataset_info
        info = ask(repo_id, revision=revision, timeout=PATIENCE, token=token)
        api.auth_check(repo_id, repo_type=repo_type, token=token)
        yield info


@contextmanager
def read_errors(what: str, repo_type: RepoType, *, suggest: Callable[[], str] | None = None) -> Iterator[None]:
    """Translate the errors of reading `what`, an id or an action. Raises `ModelError` or `DataError`."""
    kind = _KINDS[repo_type]
    try:
        yield
    except GatedRepoError as exc:
        raise kind.error(
            f"{what} is gated and this token has no access to it.",
            f"Open {kind.page}{what}, accept the licence, and give the token of that account.",
        ) from exc
    except RevisionNotFoundError as exc:
        raise kind.error(f"{what} has no such revision.", f"Check {kind.setting}, or leave it empty.") from exc
    except RepositoryNotFoundError as exc:
        advice = suggest() if suggest else ""
        raise kind.error(
            f"There is no {kind.word} {what} on the Hub, or it is private.",
            advice or "Check the spelling, or give a token.",
        ) from exc
    except HfHubHTTPError as exc:
        advice = "Try again in some minutes." if _is_passing(exc) else "Check the token and try again."
        raise kind.error(f"The Hub refused {what}: {_reason(exc)}.", advice) from exc
    except HFValidationError as exc:
        raise kind.error(
            f"{what!r} is no {kind.word} id: {exc}", "Check the spelling, and write it as owner/name."
        ) from exc
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError, LocalEntryNotFoundError) as exc:
        raise kind.error(f"The Hub could not be reached ({type(exc).__name__}).", kind.offline) from exc


def require_sendable(token: str | None, repo_type: RepoType) -> None:
    """Refuse a token that cannot be sent; the client's own message would quote it. Raises as `read_errors` does."""
    if token is not None and not (token.isascii() and token.isprintable() and token.split() == [token]):
        raise _KINDS[repo_type].error(
            "The token is empty or holds a character that no token has.", "Copy it again from the Hub."
        )


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


def _is_passing(exc: HfHubHTTPError) -> bool:
    """Whether the Hub is overloaded or broken, or asks to wait, so that no token would help."""
    return exc.response is not None and (exc.response.status_code == 429 or exc.response.status_code >= 500)


def _reason(exc: HfHubHTTPError) -> str:
    status = exc.response.status_code if exc.response is not None else "no answer"
    return f"{exc.server_message or 'no reason given'} (status {status})"
