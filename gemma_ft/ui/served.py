"""What the page serves besides itself: its scripts, the chart library, a run's whole log; and short answers to polls.

Promises that scripts of ours are asked for anew after an update and the chart library once and never again (its
address holds its version), that a log leaves as a plain text attachment of an existing run and nothing else, and that
an answer to a poll is compressed when it is long.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import plotly
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from gemma_ft.errors import RunNotFound
from gemma_ft.jobs.manager import JobManager
from gemma_ft.ui.access import allowed

ASSETS = Path(__file__).parent / "assets"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PLOTLY_ADDRESS = f"gemma_ft/plotly/{plotly.__version__}/plotly.min.js"
FOR_EVER = "public, max-age=31536000, immutable"
COMPRESSED_FROM = 1000


class Scripts(StaticFiles):
    """Our own scripts and styles: a browser asks each time whether it has the newest."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, to be asked for again."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def served(manager: JobManager) -> list[BaseRoute]:
    """Return the routes."""

    async def log(request: Request) -> Response:
        if not await allowed(request):
            return PlainTextResponse("Sign in first.", 401)
        try:
            run = manager.open(request.path_params["run_id"])
        except RunNotFound as exc:
            return PlainTextResponse(str(exc), 404)
        if not run.log.is_file():
            return PlainTextResponse("There is no log yet.", 404)
        return FileResponse(
            run.log,
            filename=f"{run.run_id}.log",
            media_type="text/plain; charset=utf-8",
            headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"},
        )

    return [
        Route(f"/{PLOTLY_ADDRESS}", Library(PLOTLY).serve),
        Route("/gemma_ft/log/{run_id}", log),
        Mount("/gemma_ft", Scripts(directory=ASSETS)),
    ]


class Library:
    """A script of another project, read and compressed on first use and kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._compressed: bytes | None = None

    def serve(self, request: Request) -> Response:
        """Return the script."""
        headers = {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return FileResponse(self._path, media_type="text/javascript", headers=headers)
        if self._compressed is None:
            self._compressed = gzip.compress(self._path.read_bytes(), 6)
        return Response(self._compressed, media_type="text/javascript", headers=headers | {"Content-Encoding": "gzip"})


def answer(values: dict[str, Any]) -> Response:
    """Return values as JSON; a browser unpacks it by itself."""
    body = orjson.dumps(values)
    if len(body) < COMPRESSED_FROM:
        return Response(body, media_type="application/json")
    packed = gzip.compress(body, 5, mtime=0)
    return Response(packed, media_type="application/json", headers={"Content-Encoding": "gzip"})
