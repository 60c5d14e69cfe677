"""What the Dashboard costs: a real server, runs written as real files, real HTTP, and a real browser for the drawing.

    .venv/bin/python benchmarks/dashboard.py            # everything, about six minutes
    .venv/bin/python benchmarks/dashboard.py --quick    # fewer ticks and no browser

Prints tables; nothing fails when a machine is busy. Bytes are those on the wire, headers included. Processor time is
that of the page's process, less what it takes when nobody asks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from written_runs import WrittenRun  # noqa: E402

LENGTHS = (100, 10_000, 100_000)
NEW_STEPS = 2
CLIENTS = 20
CROWD = 100


class Server:
    """The page as a process of its own, on a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, _free_port()
        environment = os.environ | {"GEMMA_FT_HOME": str(home), "GRADIO_SERVER_PORT": str(self.port)}
        with (home / "app.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        self.watched = psutil.Process(self.process.pid)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                config = json.loads(self.get("/config"))
                break
            except OSError:
                time.sleep(0.2)
        screens = [part for part in config["components"] if part["props"].get("elem_id") == "dashboard"]
        self.screen = screens[0]["id"]

    def get(self, path: str) -> bytes:
        """Return what stands at a path."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read()

    def cpu(self) -> float:
        """Return the processor seconds that the page has taken."""
        times = self.watched.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> float:
        """Return the resident megabytes."""
        return float(self.watched.memory_info().rss) / 1e6


class Client:
    """One browser's part of the conversation."""

    def __init__(self, server: Server, run: str) -> None:
        self.connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.server, self.cursor = server, {"run": run}
        self.sent: list[int] = []
        self.seconds: list[float] = []

    def ask(self) -> dict[str, Any]:
        """Ask once; remember how long the answer took and its size."""
        body = {"data": self.cursor, "component_id": self.server.screen, "fn_name": "poll", "session_hash": "bench"}
        begin = time.perf_counter()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
        self.connection.request("POST", "/gradio_api/component_server", json.dumps(body), headers)
        response = self.connection.getresponse()
        raw = response.read()
        self.seconds.append(time.perf_counter() - begin)
        self.sent.append(len(raw) + sum(len(name) + len(value) + 4 for name, value in response.getheaders()) + 17)
        if response.getheader("Content-Encoding") == "gzip":
            import gzip  # noqa: PLC0415

            raw = gzip.decompress(raw)
        news: dict[str, Any] = json.loads(raw)
        self.cursor = news.get("cursor", self.cursor)
        return news

    def load(self) -> tuple[float, int]:
        """Ask until everything is there; return the seconds and the bytes that took."""
        while "steps" not in self.ask():
            pass
        return sum(self.seconds), sum(self.sent)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def page(home: Path) -> Iterator[Server]:
    """Serve the page, and end it afterwards."""
    server = Server(home)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(20)


def idle(server: Server, seconds: float) -> float:
    """Return the processor seconds of a second in which nobody asks."""
    begin, cpu = time.monotonic(), server.cpu()
    time.sleep(seconds)
    return (server.cpu() - cpu) / (time.monotonic() - begin)


def tick(server: Server, run: WrittenRun, clients: list[Client], ticks: int, *, grows: bool) -> tuple[float, float]:
    """Let all clients ask once a second, spread over it; return the processor seconds and the time it took."""
    stop = time.monotonic() + ticks

    def follow(client: Client, wait: float) -> None:
        time.sleep(wait)
        while time.monotonic() < stop:
            began = time.monotonic()
            client.ask()
            time.sleep(max(0.0, 1 - (time.monotonic() - began)))

    for client in clients:
        client.connection.close()  # The server gives up what was silent for five seconds; the next question reconnects.
        client.sent.clear()
        client.seconds.clear()
    threads = [threading.Thread(target=follow, args=(client, n / len(clients))) for n, client in enumerate(clients)]
    begin, cpu = time.monotonic(), server.cpu()
    for thread in threads:
        thread.start()
    while time.monotonic() < stop:
        if grows:
            run.steps(NEW_STEPS)
        time.sleep(1)
    for thread in threads:
        thread.join()
    return server.cpu() - cpu, time.monotonic() - begin


def row(*cells: object) -> None:
    """Print one row of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def measure_length(steps: int, ticks: int) -> None:
    """Measure the first answer, and a tick of twenty clients, at one length."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run = (
            WrittenRun(home, max_steps=2 * steps).begin().steps(steps, eval_every=max(1, steps // 20)).state("training")
        )
        run.machine(min(steps // 2, 50_000))
        with page(home) as server:
            seconds, size = Client(server, run.run.run_id).load()
            again, _ = Client(server, run.run.run_id).load()
            clients = [Client(server, run.run.run_id) for _ in range(CLIENTS)]
            for client in clients:
                client.load()
                client.ask()
            nothing = idle(server, ticks / 2)
            cpu, took = tick(server, run, clients, ticks, grows=True)
            asked = sum(len(client.sent) for client in clients)
            sizes = [size for client in clients for size in client.sent]
            cost = 1000 * (cpu - nothing * took) / asked
            tick(server, run, clients[:1], 3, grows=False)
            row(
                f"{steps:,}",
                f"{seconds:.2f} s",
                f"{size / 1000:.0f} kB",
                f"{again:.2f} s",
                f"{statistics.mean(sizes):,.0f} B",
                f"{max(sizes):,} B",
                f"{clients[0].sent[-1]} B",
                f"{cost:.2f} ms",
            )


def measure_crowd(ticks: int) -> None:
    """Measure a hundred clients at once, and the page alone."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run = WrittenRun(home, max_steps=20_000).begin().steps(10_000).state("training")
        with page(home) as server:
            alone = idle(server, ticks)
            clients = [Client(server, run.run.run_id) for _ in range(CROWD)]
            for client in clients:
                client.load()
            cpu, took = tick(server, run, clients, ticks, grows=True)
            waits = sorted(wait for client in clients for wait in client.seconds)
            print()
            row("page alone", f"{CROWD} clients: mean", "p95", "longest", "processor", "resident")
            row(*["---"] * 6)
            row(
                f"{100 * alone:.1f} % of a core",
                f"{1000 * statistics.mean(waits):.0f} ms",
                f"{1000 * waits[int(0.95 * len(waits))]:.0f} ms",
                f"{1000 * waits[-1]:.0f} ms",
                f"{100 * cpu / took:.0f} % of a core",
                f"{server.memory():.0f} MB",
            )


def measure_drawing(steps: int, ticks: int) -> None:
    """Measure how long a chart takes to be drawn anew, and the heap of the browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        run = WrittenRun(home, max_steps=2 * steps).begin().steps(steps, eval_every=steps // 10).state("training")
        with page(home) as server:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            screen = browser.new_page(viewport={"width": 1280, "height": 1600})
            screen.goto(f"http://127.0.0.1:{server.port}/?run={run.run.run_id}")
            screen.wait_for_function("() => window.gemmaDashboard?.drawTimes.length >= 6", timeout=120_000)
            screen.evaluate("() => { window.gemmaDashboard.drawTimes.length = 0; }")
            for _ in range(ticks):
                run.steps(NEW_STEPS)
                time.sleep(1)
            times = sorted(screen.evaluate("() => window.gemmaDashboard.drawTimes"))
            points = screen.evaluate(
                "() => Math.max(...document.querySelector('#loss-chart').data.map((trace) => trace.x.length))"
            )
            row(
                f"{steps:,}",
                len(times),
                f"{statistics.median(times):.0f} ms",
                f"{times[int(0.95 * len(times))]:.0f} ms",
                f"{points:,}",
            )
            browser.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer ticks, no browser")
    quick = parser.parse_args().quick
    ticks = 5 if quick else 20
    row("steps", "first load", "of bytes", "again", "tick, mean", "tick, most", "heartbeat", "processor a tick")
    row(*["---"] * 8)
    for steps in LENGTHS:
        measure_length(steps, ticks)
    measure_crowd(ticks)
    if not quick:
        print()
        row("steps", "charts drawn", "median", "p95", "points of a line")
        row(*["---"] * 5)
        for steps in (1_000, 100_000):
            measure_drawing(steps, ticks)


if __name__ == "__main__":
    main()
