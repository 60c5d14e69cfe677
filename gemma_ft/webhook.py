"""Where to tell that a run has ended: the address, what kind of service answers there, and for which ends.

The address is a secret, because whoever has it can write there. Promises that no message of this module repeats it, and
that a config leaves it out wherever it is written or shown (model cards, the page, the API), except where the secrets
are asked for by name (`SECRETS`): in the run's own `config.json`. Sends nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import SerializationInfo, field_serializer, field_validator

from gemma_ft.knob import Section, knob

Kind = Literal["ntfy", "discord", "slack", "json"]
Told = Literal["problems", "ended", "all"]

SECRETS = {"secrets": True}
"""The `context` of `model_dump` and `model_dump_json` with which an address is written out."""
SCHEMES = {"http": "http", "https": "https", "ntfy": "https", "ntfy+http": "http"}
"""What may stand before `://`, and what it asks with."""
LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that takes messages by POST, and the kind of service there."""

    url: str = field(repr=False)
    kind: Kind

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can read along."""
        return self.url.startswith("https:")


def parse_webhook(text: str) -> Webhook:
    """Read an address. Raises `ValueError`, whose message does not repeat it.

    A topic of ntfy is known by its host (`ntfy.sh`, or `ntfy.` and anything) or by `ntfy://` instead of `https://`
    (`ntfy+http://` instead of `http://`); Discord and Slack by the hosts of their webhooks. Anything else gets JSON.
    """
    typed = text.strip()
    if len(typed) > LONGEST or not re.fullmatch(r"[!-~]+", typed) or re.search(r'["\\<>]', typed):
        raise ValueError("the address has blanks or characters that no address has; copy it again")
    try:
        parts = urlsplit(typed)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError as exc:
        raise ValueError("the address cannot be read: look at its host and port") from exc
    if parts.scheme not in SCHEMES:
        raise ValueError("the address must begin with https://, http:// or ntfy://")
    if not host:
        raise ValueError("the address names no host, as in https://ntfy.sh/my-topic")
    kind = _kind(parts.scheme, host, parts.path)
    if kind == "ntfy" and not re.fullmatch(r"/[\w-]{1,64}/?", parts.path):
        raise ValueError("an address of ntfy ends with one topic, as in https://ntfy.sh/my-topic")
    return Webhook(url=_asked(parts), kind=kind)


def _kind(scheme: str, host: str, path: str) -> Kind:
    if scheme.startswith("ntfy") or host.startswith("ntfy."):
        return "ntfy"
    if re.fullmatch(r"(.+\.)?discord(app)?\.com", host) and path.startswith("/api/webhooks/"):
        return "discord"
    return "slack" if host == "hooks.slack.com" else "json"


def _asked(parts: SplitResult) -> str:
    return parts._replace(scheme=SCHEMES[parts.scheme], fragment="").geturl()


class NotifyConfig(Section):
    """Who is told when it ends; also with no page open."""

    url: str | None = knob(
        None,
        "Your ntfy topic or webhook (Slack, Discord, Mattermost, any JSON) to tell when it ends; empty tells nobody.",
        repr=False,
    )
    # Not `on`, which YAML reads as a truth.
    when: Told = knob(
        "ended", "Tell only problems, every end that nobody asked for, or all ends, also a stop that was asked for."
    )

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, url: str | None) -> str | None:
        if not url or not url.strip():
            return None
        parse_webhook(url)
        return url.strip()

    @field_serializer("url")
    def _kept_back(self, url: str | None, info: SerializationInfo) -> str | None:
        return url if info.context == SECRETS else None
