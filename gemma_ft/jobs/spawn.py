"""The one place where a child process of ours is born.

Promises that a child gets no secret it was not handed, no terminal, and no pipe that could break when this process
dies; and that it leads a session of its own, so that neither Ctrl-C here nor the end of this process reaches it.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gemma_ft.errors import GemmaFtError

PROJECT_ROOT = Path(__file__).resolve().parents[2]

ALLOWED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEM",
    "GEMMA_FT_HOME", "GEMMA_FT_AUTO_RESUME", "HF_HOME", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
DEFAULTS = {
    # OpenMP threads that wait spin less: 1.0-1.1 times the time alone, 0.4-0.6 times beside another busy process.
    "GOMP_SPINCOUNT": "1000",
}
ALLOWED_PREFIXES = ("CUDA_", "NVIDIA_", "OMP_", "GOMP_", "NCCL_", "PYTORCH_", "HF_HUB_", "HF_XET_")
FIXED = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",  # a crash in compiled code leaves the place in the log
    "PYTHONPATH": str(PROJECT_ROOT),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class NotStarted(GemmaFtError):
    """The system could not start a process; the report says whether Python is gone or the machine is full."""

    kind = "install"
    title = "A process could not be started"

    def __init__(self, exc: OSError) -> None:
        if exc.errno in (errno.EAGAIN, errno.ENOMEM):
            super().__init__(
                f"The system has no room for one more process: {exc.strerror}.",
                "End other programs, or raise the limit of processes (`ulimit -u`), then resume the run.",
                kind="memory",
            )
        else:
            super().__init__(
                f"{sys.executable} could not be run in {PROJECT_ROOT}: {exc.strerror}.",
                "The Python that this program was started with, or its folder, was moved or deleted. Restart the "
                "program; if that does not work, make .venv anew and install requirements.txt.",
            )


def child_environment(environ: Mapping[str, str], *, hub_token: str | None = None) -> dict[str, str]:
    """Return what a child may know: an allow-list of `environ`, our own settings, and the token it is handed."""
    kept = {k: v for k, v in environ.items() if k in ALLOWED or k.startswith(ALLOWED_PREFIXES)}
    token = {"HF_TOKEN": hub_token} if hub_token else {}
    return {**DEFAULTS, **kept, **FIXED, **token}


def spawn(
    module: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str], inherits: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments...` in a session of its own, its output appended to the file `log`.

    Of this process's open files it inherits those that are named, and no others. Raises `NotStarted`.
    """
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=PROJECT_ROOT,
                start_new_session=True,
                pass_fds=tuple(inherits),
            )
        except OSError as exc:
            raise NotStarted(exc) from exc


def own_environment(*, hub_token: str | None = None) -> dict[str, str]:
    """Return `child_environment` of this process."""
    return child_environment(os.environ, hub_token=hub_token)
