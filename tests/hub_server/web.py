"""The HTTP side of the test hub: routes, who asks, the record of requests and bytes, injected failures.

Promises: handlers are plain functions of (world, call) that run one at a time under the world's
lock. Paths are matched as they were sent, so an encoded slash in a revision stays in its segment.

Does not promise: anything about what a request means; that is in `reading` and `writing`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from . import reading, writing
from .call import Call
from .store import HubError, World

REPO_TYPES = ("model", "dataset", "space")
Handler = Callable[[World, Call], Response]


class Seen(NamedTuple):
    """A request that came in."""

    method: str
    path: str
    authorization: str | None


@dataclass
class Failure:
    """An answer that the next requests get instead of the true one; status 0 is the true one, cut off at half."""

    prefix: str
    status: int
    times: int
    method: str | None
    headers: dict[str, str] = field(default_factory=dict)

    def takes(self, seen: Seen) -> bool:
        if self.times < 1 or self.method not in (None, seen.method):
            return False
        return seen.path.startswith(self.prefix)


class HubApp:
    """The ASGI application around one `World`."""

    def __init__(self, world: World) -> None:
        self.seen: list[Seen] = []
        self.failures: list[Failure] = []
        self.sent = 0
        self._inner = Starlette(
            routes=list(_routes(world)),
            exception_handlers={404: _not_spoken, 405: _not_spoken},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("ascii")
        authorization = dict(scope["headers"]).get(b"authorization")
        text = None if authorization is None else authorization.decode("latin-1")
        seen = Seen(scope["method"], path, text)
        self.seen.append(seen)
        failure = next((one for one in self.failures if one.takes(seen)), None)

        async def counted(message: Message) -> None:
            if seen.method != "HEAD":
                self.sent += len(message.get("body", b""))
            await send(message)

        if failure is None:
            await self._inner({**scope, "path": path}, receive, counted)
            return
        failure.times -= 1
        if failure.status == 0:
            await self._inner({**scope, "path": path}, receive, _cut(counted))
            return
        refusal = HubError(failure.status, "injected failure", headers=failure.headers)
        await _refuse(refusal)(scope, receive, counted)


def _cut(send: Send) -> Send:
    """Send the head and half of the body, then leave; the server closes the connection."""

    async def cut(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
        elif body := message.get("body", b"")[: len(message.get("body", b"")) // 2]:
            await send({**message, "body": body, "more_body": True})

    return cut


def _refuse(error: HubError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _not_spoken(request: Request, _: Exception) -> Response:
    text = f"this test hub does not speak {request.method} {request.url.path}"
    return _refuse(HubError(404, text))


def _endpoint(world: World, handler: Handler, repo_type: str) -> Callable[..., object]:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        params = {key: unquote(value) for key, value in request.path_params.items()}
        with world.lock:
            try:
                account = world.account(request.headers.get("authorization"))
                return handler(world, Call(request, body, account, params, repo_type))
            except HubError as error:
                return _refuse(error)

    return endpoint


def _routes(world: World) -> Iterator[Route]:
    def route(method: str, path: str, handler: Handler, repo_type: str = "") -> Route:
        return Route(path, _endpoint(world, handler, repo_type), methods=[method])

    yield route("GET", "/api/whoami-v2", reading.whoami)
    yield route("GET", "/api/jobs/hardware", reading.hardware)
    yield route("GET", "/api/spaces/hardware", reading.hardware)
    yield route("POST", "/api/validate-yaml", reading.validate_yaml)
    yield route("POST", "/api/repos/create", writing.create_repo)
    yield route("DELETE", "/api/repos/delete", writing.delete_repo)
    for repo_type in REPO_TYPES:
        yield route("GET", f"/api/{repo_type}s", reading.search, repo_type)
        for path in ("", "/revision/{revision}", "/auth-check"):
            yield route("GET", f"/api/{repo_type}s/{{name}}{path}", reading.moved, repo_type)
        api = f"/api/{repo_type}s/{{owner}}/{{name}}"
        for method, path, handler in API:
            yield route(method, api + path, handler, repo_type)
    for repo_type in ("dataset", "space", "model"):
        page = "/{owner}/{name}" if repo_type == "model" else f"/{repo_type}s/{{owner}}/{{name}}"
        for method, path, handler in FILES:
            yield route(method, page + path, handler, repo_type)


API: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "", reading.info),
    ("GET", "/revision/{revision}", reading.info),
    ("GET", "/tree/{revision}", reading.tree),
    ("GET", "/tree/{revision}/{path:path}", reading.tree),
    ("POST", "/paths-info/{revision}", reading.paths_info),
    ("GET", "/refs", reading.refs),
    ("GET", "/commits/{revision}", reading.commits),
    ("GET", "/auth-check", reading.auth_check),
    ("GET", "/auth-check/write", writing.auth_check_write),
    ("PUT", "/settings", writing.settings),
    ("POST", "/preupload/{revision}", writing.preupload),
    ("POST", "/commit/{revision}", writing.commit),
)
FILES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/resolve/{revision}/{path:path}", reading.resolve),
    ("POST", ".git/info/lfs/objects/batch", writing.lfs_batch),
    ("POST", ".git/info/lfs/verify", writing.lfs_verify),
    ("PUT", ".git/info/lfs/objects/{oid}", writing.lfs_put),
)
