"""What the page costs before anybody opens it: seconds until it answers, memory, and processor time while it rests.

Two sides, the page as it is (`ours`) and the same page with Gradio left as it comes (`plain`), turn by turn, each a
process of its own on a home of its own; printed are the medians of the rounds.

    python benchmarks/page_idle.py               # 5 rounds, two minutes
    python benchmarks/page_idle.py --rounds 3 --rest 5
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import psutil

ROOT = Path(__file__).resolve().parents[1]
SETTLE_SECONDS = 3.0
LONGEST_START_SECONDS = 120.0
OURS = "import app; app.main()"
PLAIN = """
import gradio  # before ours: with the stubs
as_it_comes = gradio.Blocks()._queue.sleep_when_free
import app
build = app.build_page

def build_plain(services):
    page = build(services)
    page._queue.sleep_when_free = as_it_comes
    return page

app.build_page = build_plain
app.main()
"""
SIDES = {"plain": PLAIN, "ours": OURS}
FIGURES = {"start_s": "{:.2f}", "start_cpu_s": "{:.2f}", "rest_ms_per_s": "{:.1f}", "memory_mb": "{:.0f}"}


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rest", type=float, default=10.0, help="seconds of rest that are measured")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(options.rounds + 1):
        for side, code in SIDES.items():
            figures = measure(code, options.rest)
            if number:  # the first round only warms the disk's cache
                rounds[side].append(figures)
    print(f"medians of {options.rounds} rounds\n{'':<16}" + "".join(f"{side:>10}" for side in SIDES))
    for name, form in FIGURES.items():
        medians = [statistics.median(figures[name] for figures in rounds[side]) for side in SIDES]
        print(f"{name:<16}" + "".join(f"{form.format(median):>10}" for median in medians))


def measure(code: str, rest: float) -> dict[str, float]:
    """Serve the page once, look at it and end it."""
    with tempfile.TemporaryDirectory() as home, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        environment = {**os.environ, "GEMMA_FT_HOME": home, "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        served = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz", served)
            start = time.perf_counter() - began
            process = psutil.Process(served.pid)
            start_cpu = processor_seconds(process)
            time.sleep(SETTLE_SECONDS)
            before, clock = processor_seconds(process), time.perf_counter()
            time.sleep(rest)
            used, passed = processor_seconds(process) - before, time.perf_counter() - clock
            memory = process.memory_info().rss / 1e6
        finally:
            served.terminate()
            served.wait()
    return {"start_s": start, "start_cpu_s": start_cpu, "rest_ms_per_s": used * 1e3 / passed, "memory_mb": memory}


def wait_for(url: str, served: subprocess.Popen[bytes]) -> None:
    """Wait until the page answers. Raises `RuntimeError` if it ends or takes too long."""
    deadline = time.monotonic() + LONGEST_START_SECONDS
    while time.monotonic() < deadline and served.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (URLError, ConnectionError):
            time.sleep(0.01)
    raise RuntimeError("the page did not start")


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of one process, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
