"""TensorBoard inside the page: on the page's own port under `/tensorboard/`, behind the page's login.

Promises that nothing of TensorBoard is imported before somebody opens it; that it sees event files of runs and no other
file; and that a TensorBoard that is missing or fails is a sentence on the screen. Only the parts that draw curves and
texts are switched on: others of its plugins read files that an event file names. Changes nothing in a run.
"""

# ruff: noqa: PLC0415 - TensorBoard takes half a second and 40 MB, and most visits to the page never open it.
from __future__ import annotations

import html
import logging
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from gemma_ft.monitor.event_files import EventFiles
from gemma_ft.ui.access import allowed
from gemma_ft.ui.wiring import QUIET

RENEW_SECONDS = 2.0
RELOAD_SECONDS = 5
WORKERS = 4
METHODS = ("GET", "HEAD", "POST")  # TensorBoard asks for its curves by POST
STORAGE = b'<head><script src="../gemma_ft/storage.js"></script>'
NOT_SIGNED_IN = "Not signed in. Sign in on the page first."
SORRY = """<!doctype html><html lang="en"><meta charset="utf-8"><title>TensorBoard</title>
<body style="font-family: system-ui, sans-serif; margin: 3rem auto; max-width: 40rem; color: #334155; background: #fff">
<h1 style="font-size: 1.2rem">{title}</h1><p>{advice}</p>
<p>The curves on the Dashboard do not need it. Event files stay in each run's <code>tensorboard</code> folder.</p>
</body></html>"""
MISSING = (
    "TensorBoard is not installed",
    "Install what the page needs, <code>pip install -r requirements.txt</code>, and open this again.",
)
FAILED = ("TensorBoard does not answer", "Open this again to start it anew. The reason stands in what the page prints.")
log = logging.getLogger(__name__)


def tensorboard_routes(runs: Path) -> list[BaseRoute]:
    """Return the routes that serve the curves of all runs in a folder."""
    return [
        Route("/tensorboard", _with_slash),
        Route("/font-roboto/{name}", _font),  # asked for from the root by TensorBoard's style sheet
        Route("/tensorboard/{path:path}", TensorBoard(runs)),
    ]


def add_tensorboard(tab: gr.Tab, shown_run: gr.Textbox) -> None:
    """Fill a tab with TensorBoard; it is loaded when the tab is opened, narrowed to the run on the screen."""
    with tab:
        frame = gr.HTML(elem_id="tensorboard", apply_default_css=False)
    tab.select(frame_of, shown_run, frame, **QUIET)


def frame_of(run_id: str) -> str:
    """Return the frame that shows TensorBoard; without a run it shows all of them."""
    only = f"?runFilter={quote(f'^{run_id}$', safe='')}" if run_id else ""
    address = f"tensorboard/{only}#timeseries"
    return f'<iframe class="tensorboard" title="TensorBoard" src="{html.escape(address)}"></iframe>'


async def _with_slash(_: Request) -> Response:
    return RedirectResponse("tensorboard/")


async def _font(request: Request) -> Response:
    return RedirectResponse(f"../tensorboard/font-roboto/{quote(request.path_params['name'])}")


class TensorBoard:
    """The ASGI app: made by the first request that may see it."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._board: Board | None = None
        self._making = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of somebody who may see it."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        if not await allowed(request):
            await PlainTextResponse(NOT_SIGNED_IN, 401)(scope, receive, send)
        elif request.method not in METHODS:
            await PlainTextResponse("TensorBoard only reads.", 405)(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let TensorBoard answer. If it cannot, say so and forget it, so that the next request makes it anew."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        board: Board | None = None
        try:
            board = self._board
            if board is None:
                board = await run_in_threadpool(self._make)
            # TensorBoard is to know nothing of where it is mounted; all its addresses are relative.
            mounted = {**scope, "root_path": "", "path": "/" + scope["path_params"]["path"]}
            await board.app(mounted, receive, watched)
        except (Exception, SystemExit) as exc:
            log.warning("TensorBoard failed", exc_info=exc)
            if board is not None and self._board is board:
                self._board = None
                board.close()
            if not begun:
                words = MISSING if board is None and isinstance(exc, ImportError) else FAILED
                await _sorry(*words)(scope, receive, send)

    def _make(self) -> Board:
        with self._making:
            if self._board is None:
                self._board = Board(self._runs)
            return self._board


class Board:
    """One TensorBoard, and the folder of links that it reads. Making it raises whatever TensorBoard raises."""

    def __init__(self, runs: Path) -> None:
        from a2wsgi import WSGIMiddleware
        from tensorboard import program
        from tensorboard.backend import application
        from tensorboard.plugins.core.core_plugin import CorePluginLoader
        from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
        from tensorboard.plugins.metrics.metrics_plugin import MetricsPlugin
        from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
        from tensorboard.plugins.text.text_plugin import TextPlugin

        self._closed = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="gemma_ft-tensorboard-", ignore_cleanup_errors=True)
        self._files = EventFiles(runs, Path(self._folder.name))
        self._files.renew()
        plugins = [CorePluginLoader(), MetricsPlugin, ScalarsPlugin, TextPlugin, HParamsPlugin]
        board = program.TensorBoard(plugins=plugins)
        board.configure(argv=["", f"--logdir={self._folder.name}", f"--reload_interval={RELOAD_SECONDS}"])
        # Kept: its data server, a child process, ends when this object is gone.
        self._ingester = _start_reading(board.flags)
        wsgi = application.TensorBoardWSGIApp(
            board.flags,
            board.plugin_loaders,
            self._ingester.data_provider,
            board.assets_zip_provider,
            getattr(self._ingester, "deprecated_multiplexer", None),
        )
        self.app: Any = WSGIMiddleware(_with_storage(wsgi), workers=WORKERS)
        threading.Thread(target=self._keep_in_step, name="TensorBoard's links", daemon=True).start()

    def close(self) -> None:
        """Stop following the runs and remove the links."""
        self._closed.set()
        self._folder.cleanup()

    def _keep_in_step(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            try:
                self._files.renew()
            except OSError as exc:
                log.debug("links to event files: %s", exc)


def _with_storage(wsgi: Any) -> Any:
    """Let TensorBoard's page load `storage.js` first; see there."""
    from werkzeug.wrappers import Response as WsgiResponse

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] not in ("/", "/index.html"):
            return wsgi(environ, start_response)
        plain = {name: value for name, value in environ.items() if name != "HTTP_ACCEPT_ENCODING"}
        page = WsgiResponse.from_app(wsgi, plain, buffered=True)
        if plain["REQUEST_METHOD"] != "HEAD":
            page.set_data(page.get_data().replace(b"<head>", STORAGE, 1))
        return page(environ, start_response)

    return answer


def _start_reading(flags: Any) -> Any:
    """Return what reads the event files: TensorBoard's data server, a process of its own, where the platform has it.

    In this process the same would take a hundred times as long and hold up the page meanwhile.
    """
    from tensorboard.backend.event_processing.data_ingester import LocalDataIngester
    from tensorboard.data import server_ingester

    try:
        ingester: Any = server_ingester.SubprocessServerDataIngester(
            server_binary=server_ingester.get_server_binary(),
            logdir=flags.logdir,
            reload_interval=flags.reload_interval,
            channel_creds_type=flags.grpc_creds_type,
            samples_per_plugin=flags.samples_per_plugin,
        )
        ingester.start()
    except (server_ingester.NoDataServerError, server_ingester.DataServerStartupError, OSError) as exc:
        log.info("TensorBoard reads by itself: %s", exc)
        ingester = LocalDataIngester(flags)
        ingester.start()
    return ingester


def _sorry(title: str, advice: str) -> Response:
    return HTMLResponse(SORRY.format(title=title, advice=advice), 503)
