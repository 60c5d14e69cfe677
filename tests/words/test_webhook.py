"""Addresses for notices: which are taken for what, and that they are never written where they do not belong."""

from __future__ import annotations

import pytest

from gemma_ft.config import RunConfig, load_config, parse_config
from gemma_ft.errors import ConfigError
from gemma_ft.hub.cards import model_card
from gemma_ft.rundir import create_run
from gemma_ft.settings import Settings
from gemma_ft.webhook import SECRETS, NotifyConfig, parse_webhook

SECRET = "https://hooks.example.org/services/T0/very-secret"


@pytest.mark.parametrize(
    ("text", "kind", "url"),
    [
        ("https://ntfy.sh/my-topic", "ntfy", "https://ntfy.sh/my-topic"),
        ("https://ntfy.example.org/t", "ntfy", "https://ntfy.example.org/t"),
        ("ntfy://push.example.org/t", "ntfy", "https://push.example.org/t"),
        ("ntfy+http://10.0.0.2:8080/t", "ntfy", "http://10.0.0.2:8080/t"),
        ("https://discord.com/api/webhooks/1/x", "discord", "https://discord.com/api/webhooks/1/x"),
        ("https://notdiscord.com/api/webhooks/1/x", "json", "https://notdiscord.com/api/webhooks/1/x"),
        ("https://hooks.slack.com/services/T/B/x", "slack", "https://hooks.slack.com/services/T/B/x"),
        (" http://mattermost.local/hooks/x \n", "json", "http://mattermost.local/hooks/x"),
    ],
)
def test_the_kind_of_service_is_known_from_the_address(text: str, kind: str, url: str) -> None:
    webhook = parse_webhook(text)
    assert (webhook.kind, webhook.url) == (kind, url)
    assert url not in repr(webhook)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://very-secret.org/x", "begin with"),
        ("very-secret.org/x", "begin with"),
        ("https:///very-secret", "no host"),
        ("https://very-secret.org:port/x", "host and port"),
        ("https://very-secret.org:99999/x", "host and port"),
        ("https://[very-secret", "host and port"),
        ("https://very-secret.org/a b", "blanks"),
        ("https://very-secret.org/a\r\nHost: b", "blanks"),
        ('https://very-secret.org/"', "characters"),
        ("https://ntfy.sh/", "one topic"),
        ("https://ntfy.sh/very-secret/more", "one topic"),
        ("https://very-secret.org/" + "x" * 2000, "copy it again"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_without_repeating_it(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_config({"notify": {"url": text}})
    assert "notify.url" in str(caught.value)
    assert "very-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=said) as caught:
        Settings.from_env({"GEMMA_FT_NOTIFY_URL": text})
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("url", [["https://very-secret.org"], {"very-secret": 1}, b"\xffvery-secret"])
def test_an_address_of_the_wrong_type_is_not_repeated_either(url: object) -> None:
    with pytest.raises(ConfigError, match=r"notify\.url") as caught:
        parse_config({"notify": {"url": url}})
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "  ", None])
def test_an_empty_address_tells_nobody(url: str | None) -> None:
    assert parse_config({"notify": {"url": url}}).notify.url is None
    assert Settings.from_env({"GEMMA_FT_NOTIFY_URL": url or ""}).notify_url is None


def test_an_address_is_left_out_of_everything_but_the_stored_configuration(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = RunConfig(notify=NotifyConfig(url=SECRET))
    shown = [config.to_yaml(), config.model_dump_json(), repr(config), str(config.model_dump())]
    shown.append(model_card(config, rows=1, figures={}))
    assert not any("very-secret" in text for text in shown)
    assert parse_config(config.model_dump(context=SECRETS)) == config
    assert config.changed({"name": "other"}).notify.url == SECRET

    run = create_run(tmp_path, config)
    assert run.config() == config
    assert run.config_file.stat().st_mode & 0o077 == 0
    assert run.secrets() == (SECRET, SECRET)
    open_to_all = create_run(tmp_path, RunConfig())
    assert open_to_all.config_file.stat().st_mode & 0o044
    assert open_to_all.secrets() == ()


def test_the_setting_can_be_written_in_yaml(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "run.yaml"
    file.write_text(f"notify:\n  url: {SECRET}\n  when: all\n")
    assert load_config(file).notify == NotifyConfig(url=SECRET, when="all")


def test_the_address_of_a_machine_is_not_in_what_settings_print() -> None:
    settings = Settings.from_env({"GEMMA_FT_NOTIFY_URL": f" {SECRET} "})
    assert settings.notify_url == SECRET
    assert "very-secret" not in repr(settings)
