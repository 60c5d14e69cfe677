"""Where things are kept, and whose token is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_ft.errors import ConfigError
from gemma_ft.settings import Settings


def test_the_home_is_where_the_environment_says_or_under_the_persons_home(tmp_path: Path) -> None:
    assert Settings.from_env({"GEMMA_FT_HOME": str(tmp_path)}).home == tmp_path
    assert Settings.from_env({"HOME": str(tmp_path)}).home == tmp_path / ".gemma_ft"


def test_the_owners_token_is_used_on_his_machine_and_never_on_a_space() -> None:
    assert Settings.from_env({"HF_TOKEN": "hf_x"}).hub_token == "hf_x"
    assert Settings.from_env({"HF_TOKEN": "hf_x", "SYSTEM": "spaces"}).hub_token is None


def test_a_space_listens_for_everybody_and_a_laptop_for_itself() -> None:
    assert Settings.from_env({"SYSTEM": "spaces"}).host == "0.0.0.0"
    assert Settings.from_env({}).host == "127.0.0.1"
    assert Settings.from_env({}).port == 7860


@pytest.mark.parametrize("port", ["seventy", "0", "70000", "-1"])
def test_a_port_that_is_none_is_told(port: str) -> None:
    with pytest.raises(ConfigError, match="no port"):
        Settings.from_env({"GRADIO_SERVER_PORT": port})


def test_a_home_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="GEMMA_FT_HOME"):
        Settings(home=tmp_path / "file" / "home").make_home()
