"""Who may ask: the routes that are ours check the page's own login here, and requests from other sites are refused.

Promises to refuse when it cannot tell. Gradio itself lets any site call the page with the visitor's cookies unless the
page is served as localhost, and its login does not cover routes that were added to it. Knows no accounts of its own.
"""

from __future__ import annotations

import inspect
import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

REFUSED = """Refused: this request comes from a page of another site.
Open the page itself. If it stands behind a proxy, the proxy must pass on the Host header that the browser sent."""
HARMLESS = ("GET", "HEAD")
OURS = ("same-origin", "none")
DEFAULT_PORTS = {"http": 80, "https": 443}


async def allowed(request: Request) -> bool:
    """Tell whether the page's login, if it has one, would let this request in; for routes that are added to the page.

    The same rule as Gradio's own `login_check`, from the same places; Gradio has no public function for it.
    """
    app = request.app
    try:
        if app.auth is None and app.auth_dependency is None:
            return True
        if app.auth_dependency is not None:
            user = app.auth_dependency(request)
            return (await user if inspect.isawaitable(user) else user) is not None
        names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        token = next((request.cookies[name] for name in names if request.cookies.get(name)), None)
        return token is not None and app.tokens.get(token) is not None
    except AttributeError:
        logging.getLogger(__name__).exception("this version of Gradio keeps logins elsewhere; the request is refused")
        return False


class SameSiteOnly:
    """ASGI middleware: answers 403 to whatever a browser sends on behalf of a page of another site.

    Following a link to the page is allowed, and so are programs, which are no browsers and say nothing of an origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket") and is_foreign(Headers(scope=scope), scope.get("method", "GET")):
            refusal: ASGIApp = PlainTextResponse(REFUSED, 403) if scope["type"] == "http" else WebSocketClose(1008)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def is_foreign(headers: Headers, method: str) -> bool:
    """Tell whether a browser sent this for a page of another site.

    Browsers say so themselves in `Sec-Fetch-Site`, which no script can set, where the page is served by HTTPS or as
    localhost. Elsewhere the origin is compared with the host. There `X-Forwarded-Host` counts only for an origin with
    HTTPS: a script of another site can set it, because Gradio answers every preflight with yes.
    """
    if site := headers.get("sec-fetch-site"):
        followed_link = headers.get("sec-fetch-mode") == "navigate" and method in HARMLESS
        return site not in OURS and not followed_link
    origin = headers.get("origin")
    if origin is None:
        return False
    scheme = origin.partition("://")[0]
    hosts = [headers.get("host", "")]
    if scheme == "https":
        hosts += headers.get("x-forwarded-host", "").split(",")
    return _host(origin) is None or _host(origin) not in [_host(f"{scheme}://{host.strip()}") for host in hosts]


def _host(url: str) -> tuple[str, int] | None:
    """Return the name and the port of an origin, or `None` if it has none, as `null`."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None
