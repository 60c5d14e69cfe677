"""Where this installation keeps its things and how it listens: read once from the environment, then handed down.

Promises that no other module of the page or of the jobs reads the environment for configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gemma_ft.errors import ConfigError
from gemma_ft.webhook import parse_webhook

SPACE_VOLUME = Path("/data")
DEFAULT_PORT = 7860
NOTIFY_URL = "GEMMA_FT_NOTIFY_URL"
ANOTHER_HOME = "Set GEMMA_FT_HOME to a folder that you may write to."


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The few facts about the machine that everything else depends on.

    `hub_token` is the token of the person who runs this machine; on a Space it stays `None`, because there the visitors
    are other people and must never act with the owner's token. `notify_url` is told of the runs that name no address of
    their own. `hardware` is the name of the machine that is rented, on a Space.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    on_space: bool = False
    hub_token: str | None = None
    auto_resume: bool = False
    notify_url: str | None = field(default=None, repr=False)
    hardware: str | None = None

    @property
    def runs(self) -> Path:
        """The folder that holds one folder per run."""
        return self.home / "runs"

    @property
    def queue(self) -> Path:
        """The folder of the line of runs that wait."""
        return self.home / "queue"

    @property
    def devices(self) -> Path:
        """The folder of the locks of devices."""
        return self.home / "devices"

    @property
    def models(self) -> Path:
        """The folder for models built on this machine."""
        return self.home / "models"

    @property
    def datasets(self) -> Path:
        """The folder where data sets of TensorFlow are prepared."""
        return self.home / "datasets"

    def engine_log(self, name: str) -> Path:
        """What an engine process prints, for when it fails."""
        return self.home / f"{name}.log"

    def make_home(self) -> None:
        """Create the home if need be. Raises `ConfigError` when that cannot be done or nothing can be written there."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.home, os.W_OK)
        except OSError as exc:
            raise ConfigError(f"The home {self.home} cannot be created: {exc.strerror}.", ANOTHER_HOME) from exc
        if not writable:
            raise ConfigError(f"Nothing can be written to the home {self.home}.", ANOTHER_HOME)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `GEMMA_FT_HOME`, `_AUTO_RESUME`, `_NOTIFY_URL`, `GRADIO_SERVER_NAME`, `_PORT`, `SYSTEM`, `HF_TOKEN`,
        and on a Space `ACCELERATOR`.

        Raises `ConfigError` for a port or an address that is none.
        """
        env = os.environ if environ is None else environ
        on_space = env.get("SYSTEM") == "spaces"
        return cls(
            home=_home(env, on_space=on_space),
            host=env.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if on_space else "127.0.0.1"),
            port=_port(env.get("GRADIO_SERVER_PORT")),
            on_space=on_space,
            hub_token=None if on_space else clean_token(env.get("HF_TOKEN")),
            auto_resume=env.get("GEMMA_FT_AUTO_RESUME", "").strip().lower() in ("1", "true", "yes", "on"),
            notify_url=_address(env.get(NOTIFY_URL)),
            hardware=env.get("ACCELERATOR") if on_space else None,
        )


def clean_token(text: str | None) -> str | None:
    """Return a token without blanks around it, or `None` for an empty one. Raises `ConfigError` for what is none."""
    token = (text or "").strip()
    if token and not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(
            "The Hub token has characters that no token has.",
            "Copy it again, without line breaks.",
            kind="token",
            title="The token is damaged",
        )
    return token or None


def _address(text: str | None) -> str | None:
    if not (text or "").strip():
        return None
    try:
        parse_webhook(str(text))
    except ValueError as exc:
        raise ConfigError(f"{NOTIFY_URL}: {exc}.", "Give an address such as https://ntfy.sh/my-topic.") from exc
    return str(text).strip()


def _port(text: str | None) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise ConfigError(f"GRADIO_SERVER_PORT is {text!r}, which is no port.", "Give a number such as 7860.")
    return int(text)


def _home(env: Mapping[str, str], *, on_space: bool) -> Path:
    if chosen := env.get("GEMMA_FT_HOME"):
        return Path(chosen).expanduser().resolve()
    if on_space and os.access(SPACE_VOLUME, os.W_OK):
        return SPACE_VOLUME / "gemma_ft"
    return Path(env.get("HOME") or Path.home()) / ".gemma_ft"
