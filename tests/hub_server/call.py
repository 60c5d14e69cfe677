"""One request as the handlers of the test hub see it.

Promises: the body is read, the path's parts are decoded, the account is known (None: anonymous).
Does not promise: that the repository exists or that the account may use it; see `store.World`.
"""

import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from .store import Account, HubError


@dataclass(frozen=True)
class Call:
    """A request; `repo_type` is "" where the path does not tell it."""

    request: Request
    body: bytes
    account: Account | None
    params: dict[str, str]
    repo_type: str

    @property
    def target(self) -> tuple[Account | None, str, str]:
        """Who asks for which repository: what the checks of `World` take."""
        return self.account, self.repo_type, f"{self.params['owner']}/{self.params['name']}"

    @property
    def revision(self) -> str:
        return self.params.get("revision", "main")

    @property
    def base(self) -> str:
        return str(self.request.base_url).rstrip("/")

    def flag(self, name: str) -> bool:
        """A switch in the query, as the clients write it: true, True or 1."""
        return self.request.query_params.get(name, "").lower() in ("true", "1")

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise HubError(400, f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise HubError(400, "the body is not a JSON object")
        return value

    def user(self) -> Account:
        """The account, for what nobody may do anonymously."""
        if self.account is None:
            raise HubError(401, "Invalid username or password.")
        return self.account
