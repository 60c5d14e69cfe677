"""Children are born without secrets, known by more than their number, and ended with all their own children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from conftest import wait_until
from gemma_ft.jobs.processes import signal_group
from gemma_ft.jobs.spawn import child_environment, spawn
from gemma_ft.monitor.identity import identify, is_alive
from gemma_ft.rundir import ProcessId

PRINT_ENVIRONMENT = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv, os.getsid(0) == os.getpid()]))"


def test_a_child_gets_no_secret_it_was_not_handed(tmp_path: Path) -> None:
    environ = {**os.environ, "AWS_SECRET_ACCESS_KEY": "s3cret", "HF_TOKEN": "hf_mine", "OAUTH_CLIENT_SECRET": "x"}
    module = tmp_path / "show_environment.py"
    module.write_text(PRINT_ENVIRONMENT)
    environment = child_environment(environ) | {"PYTHONPATH": str(tmp_path)}
    child = spawn("show_environment", ["argument"], log=tmp_path / "log", environment=environment)
    assert child.wait(30) == 0
    seen, argv, leads_a_session = json.loads((tmp_path / "log").read_text())
    assert leads_a_session
    assert argv[1:] == ["argument"]
    assert {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "OAUTH_CLIENT_SECRET"}.isdisjoint(seen)
    assert child_environment(environ, hub_token="hf_given")["HF_TOKEN"] == "hf_given"


def test_a_process_is_known_by_pid_and_creation_time() -> None:
    me = identify(os.getpid())
    assert is_alive(me)
    assert not is_alive(None)
    assert me is not None
    assert not is_alive(me.model_copy(update={"created": me.created - 60}))
    assert not is_alive(me.model_copy(update={"boot": "another life of the machine"}))
    assert not is_alive(ProcessId(pid=me.pid, created=me.created)) or not me.boot


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, what="the zombie")
    assert identify(child.pid) is None
    child.wait()
    assert identify(child.pid) is None


def test_killing_the_group_ends_a_child_that_ignores_sigterm_and_its_child(tmp_path: Path) -> None:
    module = tmp_path / "stubborn.py"
    module.write_text(
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "log"
    environment = child_environment(os.environ) | {"PYTHONPATH": str(tmp_path)}
    child = spawn("stubborn", [], log=log, environment=environment)
    wait_until(lambda: log.read_text().strip(), what="the grandchild")
    grandchild = int(log.read_text())
    assert signal_group(child.pid, signal.SIGTERM)
    assert signal_group(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    wait_until(lambda: identify(grandchild) is None, what="the grandchild's end")
