"""Where things are kept, and whose token is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_ft.errors import ConfigError
from gemma_ft.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_the_home_is_where_the_environment_says_or_under_the_persons_home(tmp_path: Path) -> None:
    assert Settings.from_env({"GEMMA_FT_HOME": str(tmp_path)}).home == tmp_path
    assert Settings.from_env({"HOME": str(tmp_path)}).home == tmp_path / ".gemma_ft"


def test_the_owners_token_is_used_on_his_machine_and_never_on_a_space() -> None:
    assert Settings.from_env({"HF_TOKEN": "hf_x"}).hub_token == "hf_x"
    assert Settings.from_env({"HF_TOKEN": "hf_x", "SYSTEM": "spaces"}).hub_token is None


@pytest.mark.parametrize("token", ["hf_a\nb", "hf_é", "hf a"])
def test_what_cannot_be_a_token_is_told_without_repeating_it(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"HF_TOKEN": token})
    assert token not in str(caught.value)


def test_blanks_around_a_token_are_forgiven() -> None:
    assert Settings.from_env({"HF_TOKEN": " hf_x\r\n"}).hub_token == "hf_x"


def test_a_secret_is_in_nothing_that_is_printed_or_written_as_a_fact(tmp_path: Path) -> None:
    code = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from gemma_ft.events import FactWriter\n"
        "from gemma_ft.redaction import redact_output\n"
        "redact_output('hf_secret')\n"
        "logging.basicConfig()\n"
        "print('say hf_secret'); logging.error('log %s', 'hf_secret')\n"
        "FactWriter(Path(sys.argv[1]), secrets=['hf_secret']).append('warning', message='Bearer hf_secret')\n"
        "raise RuntimeError('hf_secret')\n"
    )
    facts = tmp_path / "events.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(facts)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    everything = done.stdout + done.stderr + facts.read_text()
    assert "hf_secret" not in everything.replace(code, "")
    assert everything.count("[secret]") == 4


def test_a_space_listens_for_everybody_and_a_laptop_for_itself() -> None:
    assert Settings.from_env({"SYSTEM": "spaces"}).host == "0.0.0.0"
    assert Settings.from_env({}).host == "127.0.0.1"
    assert Settings.from_env({}).port == 7860


@pytest.mark.parametrize("port", ["seventy", "0", "70000", "-1"])
def test_a_port_that_is_none_is_told(port: str) -> None:
    with pytest.raises(ConfigError, match="no port"):
        Settings.from_env({"GRADIO_SERVER_PORT": port})


def test_a_bad_port_is_one_sentence_also_before_gradio_reads_it() -> None:
    given = {"PATH": os.environ["PATH"], "GRADIO_SERVER_PORT": "seventy"}
    done = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "'seventy', which is no port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="GEMMA_FT_HOME"):
        Settings(home=tmp_path / "file" / "home").make_home()
