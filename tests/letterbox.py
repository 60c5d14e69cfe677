"""A real HTTP server that takes messages and remembers them: what a webhook or a topic of ntfy looks like from here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Letter:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass
class Letterbox:
    """The server. It answers with the `answers` in turn, then with 200; 0 stands for no answer at all."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/very-secret-9c1f"

    @property
    def ntfy(self) -> str:
        return f"ntfy+http://127.0.0.1:{self.port}/very-secret-9c1f"


@contextmanager
def open_letterbox(*answers: int, ssl: Any = None) -> Iterator[Letterbox]:
    """Serve until the block ends."""
    box = Letterbox(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            box.letters.append(Letter(self.path, dict(self.headers), body))
            answer = box.answers.pop(0) if box.answers else 200
            if not answer:
                box.closing.wait(60)
                return
            self.send_response(answer)
            if 300 <= answer < 400:
                self.send_header("Location", box.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if ssl is not None:
        server.socket = ssl.wrap_socket(server.socket, server_side=True)
    box.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield box
    finally:
        box.closing.set()
        server.shutdown()
        server.server_close()
