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

LATER = "Try again in some minutes."
LOST = {"kind": "network", "title": "The Hub could not be reached"}
CUT_OFF = "Consistency check failed"
"""How the client begins when a file came without its end."""
OFFLINE = "Check the network of this machine, or use the offline demo model."
PATIENCE = 30.0

RepoType = Literal["model", "dataset"]
RepoInfo: TypeAlias = ModelInfo | DatasetInfo


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of repository is called and which error is raised for it; `missing` is the report's kind then."""

    word: str
    missing: str
    page: str
    setting: str
    error: type[GemmaFtError]
    offline: str


_KINDS: dict[RepoType, _Kind] = {
    "model": _Kind("model", "no_model", "https://huggingface.co/", "model.revision", ModelError, OFFLINE),
    "dataset": _Kind(
        "data set",
        "no_dataset",
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
    gone = {"kind": kind.missing, "title": f"There is no such {kind.word}"}
    try:
        yield
    except GatedRepoError as exc:
        raise kind.error(
            f"{what} is gated and this token has no access to it.",
            f"Open {kind.page}{what}, accept the licence, and give the token of that account.",
            kind="gated",
            title=f"This {kind.word} is gated",
        ) from exc
    except RevisionNotFoundError as exc:
        raise kind.error(f"{what} has no such revision.", f"Check {kind.setting}, or leave it empty.", **gone) from exc
    except RepositoryNotFoundError as exc:
        advice = suggest() if suggest else ""
        raise kind.error(
            f"There is no {kind.word} {what} on the Hub, or it is private.",
            advice or "Check the spelling, or give a token.",
            **gone,
        ) from exc
    except HFValidationError as exc:
        raise kind.error(
            f"{what!r} is no {kind.word} id: {exc}", "Check the spelling, and write it as owner/name.", **gone
        ) from exc
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError, LocalEntryNotFoundError) as exc:
        if refusal := refusal_of(exc):
            said = f"The Hub refused {what}: {refusal.reason}."
            raise kind.error(said, refusal.advice, kind=refusal.kind, title=refusal.title) from exc
        raise kind.error(
            f"The Hub could not be reached ({type(exc.__cause__ or exc).__name__}).", kind.offline, **LOST
        ) from exc
    except OSError as exc:
        if not str(exc).startswith(CUT_OFF):
            raise
        raise kind.error(f"The download of {what} was cut off.", kind.offline, **LOST) from exc


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the Hub refused: the report's kind and title, the Hub's reason, and what to do."""

    kind: str
    title: str
    reason: str
    advice: str


def refusal_of(exc: BaseException) -> Refusal | None:
    """Return the Hub's refusal that an exception is or was raised from, `None` when the Hub did not answer at all."""
    one: BaseException | None = exc
    while one is not None and not isinstance(one, HfHubHTTPError):
        one = one.__cause__
    if one is None:
        return None
    status = one.response.status_code if one.response is not None else 0
    if status in (401, 403):
        told = ("token", "The Hub does not accept the token", "Check the token and try again.")
    elif status == 429:
        told = ("rate_limit", "The Hub asks to wait", LATER)
    elif status >= 500:
        told = ("hub_down", "The Hub has a problem", LATER)
    else:
        told = ("hub", HubError.title, "Check the token and try again.")
    kind, title, advice = told
    return Refusal(kind, title, _reason(one), advice)


def require_sendable(token: str | None, repo_type: RepoType) -> None:
    """Refuse a token that cannot be sent; the client's own message would quote it. Raises as `read_errors` does."""
    if token is not None and not (token.isascii() and token.isprintable() and token.split() == [token]):
        raise _KINDS[repo_type].error(
            "The token is empty or holds a character that no token has.",
            "Copy it again from the Hub.",
            kind="token",
            title="The token is damaged",
        )


@contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """Translate the errors of an action that writes to the Hub. Raises `HubError`."""
    try:
        yield
    except LocalTokenNotFoundError as exc:
        raise HubError(
            f"{doing} needs a token.", "Give a Hub token with write access.", kind="token", title="A token is needed"
        ) from exc
    except HfHubHTTPError as exc:
        refusal = refusal_of(exc)
        passing = refusal is not None and refusal.advice == LATER
        advice = LATER if passing else "Check that the token may write to this repository."
        named = {"kind": refusal.kind, "title": refusal.title} if refusal else {}
        raise HubError(f"{doing} was refused: {_reason(exc)}.", advice, **named) from exc
    except (RuntimeError, ValueError) as exc:
        # What the client raises when single files fail, and for names and cards that it refuses itself.
        raise HubError(f"{doing} failed: {exc}", "Check the name and the network, and try again.") from exc
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError) as exc:
        said = f"{doing} failed: the Hub could not be reached ({type(exc).__name__})."
        raise HubError(said, OFFLINE, **LOST) from exc


def _reason(exc: HfHubHTTPError) -> str:
    status = exc.response.status_code if exc.response is not None else "no answer"
    return f"{exc.server_message or 'no reason given'} (status {status})"
