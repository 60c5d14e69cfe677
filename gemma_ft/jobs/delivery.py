"""One message to one address: how it is put for the service there, and how it is sent.

Promises that no redirect is followed, that a message ends up at a public address only where that is asked for (on a
Space, where the address comes from a visitor), and that what went wrong is said without the address. Tries once; does
not wait or repeat.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
from collections.abc import Mapping
from email.header import Header
from http import HTTPStatus
from typing import Any

import httpx2

from gemma_ft.redaction import redact
from gemma_ft.webhook import Webhook

LONGEST_TEXT = 1800
"""Characters; Discord refuses more than 2000."""
PRIORITIES = {"failed": "high", "interrupted": "high", "attention": "high"}
TAGS = {
    "finished": "white_check_mark",
    "failed": "x",
    "interrupted": "warning",
    "attention": "warning",
    "stopped": "stop_button",
}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
WORTH_ANOTHER_TRY = (408, 425, 429)


class NotDeliveredError(Exception):
    """The message did not arrive; says why, in words for a person. `again` says whether another try may help."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.again = again


def deliver(
    webhook: Webhook,
    occasion: str,
    title: str,
    message: str,
    details: Mapping[str, Any],
    *,
    seconds: float,
    public_only: bool,
) -> str:
    """Send a message and return what the server answered. Raises `NotDeliveredError`.

    `seconds` is the patience with each single step: connecting, sending, waiting for the answer.
    """
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # It logs addresses.
    body, headers = put(webhook, occasion, title, message, details)
    try:
        with httpx2.Client(timeout=seconds, trust_env=not public_only) as client:
            request = client.build_request("POST", webhook.url, content=body, headers=headers)
            if public_only:
                pin(request, public_address(webhook))
            response = client.send(request, stream=True)
            response.close()
    except httpx2.TimeoutException as exc:
        raise NotDeliveredError("the server did not answer in time", again=True) from exc
    except httpx2.UnsupportedProtocol as exc:
        raise NotDeliveredError("the address cannot be asked", again=False) from exc
    except httpx2.TransportError as exc:
        said = redact(str(exc), webhook.url) or type(exc).__name__
        raise NotDeliveredError(f"the server cannot be reached: {said}", again=True) from exc
    except (httpx2.InvalidURL, UnicodeError) as exc:
        raise NotDeliveredError("the address cannot be read", again=False) from exc
    return _judge(response.status_code)


def put(
    webhook: Webhook, occasion: str, title: str, message: str, details: Mapping[str, Any]
) -> tuple[bytes, dict[str, str]]:
    """Return a message as body and headers, as the service at the address wants it."""
    title, message = _one_line(title), message[:LONGEST_TEXT]
    if webhook.kind == "ntfy":
        headers = {"Title": _in_ascii(title), "Priority": PRIORITIES.get(occasion, "default")}
        return message.encode(), headers | {"Tags": TAGS.get(occasion, "bell"), "Content-Type": "text/plain"}
    text = f"{title}\n{message}"[:LONGEST_TEXT]
    values: dict[str, Any]
    if webhook.kind == "discord":
        values = {"content": text, "allowed_mentions": {"parse": []}}
    elif webhook.kind == "slack":
        values = {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    else:
        values = {"text": text, "event": occasion, "title": title, "message": message, **details}
    return json.dumps(values).encode(), {"Content-Type": "application/json"}


def public_address(webhook: Webhook) -> str:
    """Return the network address to connect to, found out once. Raises `NotDeliveredError` unless all are public."""
    if not webhook.encrypted:
        raise NotDeliveredError("on a Space the address must begin with https://", again=False)
    url = httpx2.URL(webhook.url)
    try:
        found = socket.getaddrinfo(url.raw_host, url.port or 443, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise NotDeliveredError(f"the server cannot be reached: {exc.strerror}", again=True) from exc
    addresses = [str(entry[4][0]) for entry in found]
    if not all(is_public(address) for address in addresses):
        raise NotDeliveredError("on a Space the address must be public, and this one leads inside", again=False)
    return addresses[0]


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open internet, whatever it is wrapped in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in NAT64):
        return False
    return ip.is_global and not ip.is_multicast


def pin(request: httpx2.Request, address: str) -> None:
    """Let a request go to this very network address; the name still goes into the header and the certificate's check.

    Otherwise the name could lead elsewhere when it is looked up again.
    """
    request.extensions["sni_hostname"] = request.url.raw_host.decode()
    request.url = request.url.copy_with(host=address)


def _judge(status: int) -> str:
    known = status in list(HTTPStatus)
    said = f"{status} ({HTTPStatus(status).phrase})" if known else str(status)
    if 200 <= status < 300:
        return said
    if 300 <= status < 400:
        raise NotDeliveredError(f"the server sends on to another address ({said}); give that one", again=False)
    again = status >= 500 or status in WORTH_ANOTHER_TRY
    raise NotDeliveredError(f"the server answered {said}", again=again)


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _in_ascii(text: str) -> str:
    """Return a header's text; what is not ASCII is wrapped as RFC 2047 has it, which ntfy reads."""
    return text if text.isascii() else Header(text, "utf-8", maxlinelen=10_000).encode()
