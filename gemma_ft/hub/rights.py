"""What a token may do with a model repository: read it, or put a result there.

Promises an answer in one word within seconds, also from a Hub that is not there, and changes nothing on the Hub.
The Hub's own check is asked about a repository that exists; whether one may be made is told from who the token is.
Of a fine-grained token the Hub lists what it may do; of one from signing in (OAuth) it does not, which counts as a yes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from gemma_ft.errors import ModelError
from gemma_ft.hub.access import require_sendable
from gemma_ft.hub.ask import UNREACHABLE, ask

Answer = Literal[
    "allowed",  # yes
    "new",  # yes, and the repository will be made
    "gated",  # no: this account, or nobody without an account, may not read before the terms are accepted
    "narrow",  # no: this fine-grained token may not do this, its account may
    "read only",  # no: this token may write nothing
    "foreign",  # no: neither the account nor an organization in which it may write
    "missing",  # no: there is no such repository, or it is private and not for this token
    "bad token",  # no: the Hub does not know this token
    "busy",  # not known: the Hub is overloaded, asks to wait, or answers what nobody understands
    "unreachable",  # not known: the Hub does not answer
]


@dataclass(frozen=True, slots=True)
class Right:
    """An answer, and the full name of the repository that it is about."""

    answer: Answer
    repo: str


def may_read(repo: str, token: str | None) -> Right:
    """Tell whether the files of a model may be downloaded with this token, `None` being nobody's. Never raises.

    Asks the repository's access check, because the page of a gated model answers everybody.
    """
    try:
        validate_repo_id(repo)
        require_sendable(token, "model")
        ask(f"/api/models/{repo}/auth-check", token)
    except (HFValidationError, ModelError, *UNREACHABLE) as exc:
        return Right(_why_not(exc), repo)
    return Right("allowed", repo)


def may_publish(repo: str, token: str) -> Right:
    """Tell whether a result may be put into `repo`, which may lack an owner and need not exist. Never raises."""
    whole = repo
    try:
        require_sendable(token, "model")
        person = None if "/" in repo else who(token)
        whole = repo if person is None else f"{person['name']}/{repo}"
        validate_repo_id(whole)
        if (found := _write_check(whole, token)) == "allowed":
            return Right("allowed", whole)
        answer = _may_make(whole, person or who(token))
        return Right("foreign" if answer == "new" and found == "refused" else answer, whole)
    except (HFValidationError, ModelError, *UNREACHABLE) as exc:
        return Right(_why_not(exc), whole)
    except (AttributeError, KeyError, TypeError, ValueError):
        return Right("busy", whole)


def who(token: str) -> dict[str, Any]:
    """Return what the Hub says of a token's owner. Raises as `ask` does."""
    person: dict[str, Any] = ask("/api/whoami-v2", token).json()
    return person


def _write_check(repo: str, token: str) -> Literal["allowed", "refused", "missing"]:
    """Ask whether a repository can be written. Raises as `ask` does when that is not the answer."""
    try:
        ask(f"/api/models/{repo}/auth-check/write", token)
    except HfHubHTTPError as exc:
        if isinstance(exc, RepositoryNotFoundError) or exc.response.status_code == 404:
            return "missing"
        if exc.response.status_code == 403:
            return "refused"
        raise
    return "allowed"


def _may_make(repo: str, person: dict[str, Any]) -> Answer:
    """Tell from who the token is why it may not write to a repository, or that it can make it."""
    owner = repo.split("/")[0]
    roles = {org["name"]: org.get("roleInOrg") for org in person.get("orgs", [])}
    access = person.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        return "read only"
    if owner != person["name"] and roles.get(owner, "read") == "read":
        return "foreign"
    if access.get("role") == "fineGrained" and not _grants_writing(access.get("fineGrained", {}), owner):
        return "narrow"
    return "new"


def _grants_writing(fine: dict[str, Any], owner: str) -> bool:
    """Tell whether a fine-grained token may make repositories of this owner."""
    named = [scope["permissions"] for scope in fine.get("scoped", []) if scope["entity"].get("name") == owner]
    return any("repo.write" in permissions for permissions in [fine.get("global", []), *named])


def _why_not(exc: Exception) -> Answer:
    """Return the word for an error of the Hub's client."""
    if isinstance(exc, ModelError):
        return "bad token"
    if isinstance(exc, GatedRepoError):
        return "narrow" if "fine-grained" in str(exc.server_message or "") else "gated"
    if isinstance(exc, RepositoryNotFoundError | HFValidationError):
        return "missing"
    if not isinstance(exc, HfHubHTTPError):
        return "unreachable"
    return _BY_STATUS.get(exc.response.status_code, "busy")


_BY_STATUS: dict[int, Answer] = {401: "bad token", 403: "narrow", 404: "missing"}
