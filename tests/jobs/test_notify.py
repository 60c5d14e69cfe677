"""Notices: real runs, a real server that takes them, and servers that refuse, hang or send elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import ModelConfig, RunConfig
from gemma_ft.errors import ConfigError, ErrorReport, NoticeError
from gemma_ft.events import FactWriter, read_facts
from gemma_ft.jobs.delivery import NotDeliveredError, deliver, is_public, pin, put
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.notify import (
    DELIVERY_SECONDS,
    Notifier,
    alarms,
    end_notice,
    notices_file,
    try_address,
    undelivered,
)
from gemma_ft.monitor.identity import identify, is_alive
from gemma_ft.rundir import RunDir, RunState, create_run
from gemma_ft.settings import Settings
from gemma_ft.webhook import NotifyConfig, Told, parse_webhook
from letterbox import Letterbox, open_letterbox

SECRET = "very-secret-9c1f"
BROKEN = ModelConfig(id="/no/such/folder")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def box() -> Iterator[Letterbox]:
    with open_letterbox() as found:
        yield found


def told_by(url: str | None, when: Told = "ended", **more: object) -> RunConfig:
    config = recipes.try_it() if not more else RunConfig(name="capitals", **more)  # type: ignore[arg-type]
    return config.model_copy(update={"notify": NotifyConfig(url=url, when=when)})


def supervisor_gone(run: RunDir) -> None:
    supervisor = run.state().supervisor
    wait_until(lambda: not is_alive(supervisor), what="the supervisor's end")


def files_with(folder: Path, text: str) -> set[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path.name for path in found if text.encode() in path.read_bytes()}


# Real runs


def test_a_run_that_fails_tells_it_once_with_the_cause_and_the_remedy(settings: Settings, box: Letterbox) -> None:
    manager = JobManager(settings)
    run = manager.start(told_by(box.url, model=BROKEN))
    state = wait_for_end(manager, run, timeout=60)
    assert state.error is not None
    supervisor_gone(run)
    (letter,) = box.letters
    sent = letter.json
    assert sent["event"] == sent["status"] == "failed"
    assert (sent["run_id"], sent["name"], sent["step"]) == (run.run_id, "capitals", 0)
    assert sent["error"] == state.error.model_dump()
    assert sent["text"].startswith(f"capitals failed: {state.error.title}")
    assert f"What to do: {state.error.what_to_do}" in sent["text"]
    assert files_with(settings.home, SECRET) == {"config.json"}
    assert undelivered(run, state) == []


@pytest.mark.train
def test_a_run_that_finishes_tells_its_figures_to_ntfy(demo_settings: Settings, box: Letterbox) -> None:
    manager = JobManager(demo_settings)
    run = manager.start(told_by(box.ntfy))
    assert wait_for_end(manager, run).status == "finished"
    supervisor_gone(run)
    (letter,) = box.letters
    assert letter.path == f"/{SECRET}"
    assert letter.headers["Title"] == "capitals has finished"
    assert (letter.headers["Priority"], letter.headers["Tags"]) == ("default", "white_check_mark")
    assert letter.body.decode().startswith("150 steps, held-out loss 0.")
    assert files_with(run.path, SECRET) == {"config.json"}


@pytest.mark.train
@pytest.mark.parametrize(("when", "told"), [("ended", []), ("all", ["stopped"])])
def test_a_stop_that_was_asked_for_is_told_only_if_all_ends_are(
    demo_settings: Settings, box: Letterbox, when: Told, told: list[str]
) -> None:
    manager = JobManager(demo_settings)
    run = manager.start(told_by(box.url, when))
    manager.stop(run.run_id)
    assert wait_for_end(manager, run).status == "stopped"
    supervisor_gone(run)
    assert [letter.json["event"] for letter in box.letters] == told


def test_the_address_of_the_machine_is_told_of_runs_without_one_and_the_trainer_never_knows_it(
    settings: Settings, box: Letterbox
) -> None:
    settings = replace(settings, notify_url=box.url)
    manager = JobManager(settings)
    run = manager.start(told_by(None))
    wait_until(lambda: manager.state(run).trainer, what="the trainer")
    state = manager.state(run)
    assert state.trainer is not None
    wait_until(lambda: SECRET.encode() not in Path(f"/proc/{state.trainer.pid}/environ").read_bytes(), what="its start")
    assert SECRET.encode() not in Path(f"/proc/{state.trainer.pid}/cmdline").read_bytes()
    os.kill(state.trainer.pid, signal.SIGKILL)
    assert wait_for_end(manager, run).status == "failed"
    supervisor_gone(run)
    (letter,) = box.letters
    assert letter.json["error"]["kind"] == "killed"
    assert files_with(settings.home, SECRET) == set()


def test_a_run_whose_supervisor_was_killed_is_told_once_by_whoever_looks(settings: Settings, box: Letterbox) -> None:
    manager = JobManager(settings)
    run = manager.start(told_by(box.url))
    wait_until(lambda: manager.state(run).trainer, what="the trainer")
    before = manager.state(run)
    for process in (before.supervisor, before.trainer):
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda process=process: identify(process.pid) is None, what="its end")
    looks = [threading.Thread(target=lambda: JobManager(settings).state(run)) for _ in range(8)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()
    wait_until(lambda: box.letters, what="the notice")
    assert [letter.json["event"] for letter in box.letters] == ["interrupted"]
    assert len(read_facts(notices_file(run))[0]) == 1


def test_a_terminal_that_finds_an_interrupted_run_sends_the_notice_before_it_ends(
    settings: Settings, box: Letterbox
) -> None:
    manager = JobManager(settings)
    run = manager.start(told_by(box.url))
    wait_until(lambda: manager.state(run).trainer, what="the trainer")
    before = manager.state(run)
    for process in (before.supervisor, before.trainer):
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda process=process: identify(process.pid) is None, what="its end")
    done = terminal(settings, "show", run.run_id)
    assert "interrupted" in done.stdout
    assert [letter.json["event"] for letter in box.letters] == ["interrupted"]


def test_a_server_that_hangs_delays_neither_the_end_nor_the_next_attempt(settings: Settings) -> None:
    with open_letterbox(*[0] * 9) as box:
        manager = JobManager(settings)
        run = manager.start(told_by(box.url, model=BROKEN))
        assert wait_for_end(manager, run, timeout=60).status == "failed"
        ended = time.monotonic()
        first = run.state().supervisor
        assert manager.resume(run.run_id).state().attempt == 2
        assert is_alive(first), "the first supervisor should still be trying"
        assert wait_for_end(manager, run, timeout=60).status == "failed"
        wait_until(lambda: not is_alive(first), timeout=60, what="the supervisor's end")
        assert time.monotonic() - ended < DELIVERY_SECONDS + 10
        supervisor_gone(run)
        wait_until(lambda: run.supervisor_log.read_text().count("WARNING") == 2, what="both warnings")
        (said,) = undelivered(run, run.state())
        assert "has ended (failed) could not be delivered: the server did not answer in time" in said
    log = run.supervisor_log.read_text()
    assert log.count("WARNING The notice that this run has ended (failed) could not be delivered") == 2
    assert files_with(settings.home, SECRET) == {"config.json"}


# One notice, in this process


@pytest.fixture
def notified(settings: Settings, box: Letterbox) -> tuple[RunDir, Notifier]:
    run = create_run(settings.runs, told_by(box.url))
    return run, Notifier(run, settings)


def test_a_server_that_stumbles_is_asked_again(notified: tuple[RunDir, Notifier], box: Letterbox) -> None:
    box.answers[:] = [500, 429]
    run, notifier = notified
    notifier.send("attention", "capitals needs attention: the disk is full", "Free 3 GB.", {"step": 7})
    wait_until(lambda: len(box.letters) == 3, what="the third try")
    assert box.letters[-1].json["event"] == "attention"
    assert box.letters[-1].json["text"] == "capitals needs attention: the disk is full\nFree 3 GB."
    assert (box.letters[-1].json["step"], box.letters[-1].json["run_id"]) == (7, run.run_id)
    settle(run)
    assert undelivered(run, run.state()) == []
    assert [alarm["title"] for alarm in alarms(run)] == ["capitals needs attention: the disk is full"]


@pytest.mark.parametrize(("answer", "said"), [(404, "404 (Not Found)"), (302, "sends on to another address (302")])
def test_a_refusal_and_a_redirect_end_it_at_once(
    notified: tuple[RunDir, Notifier], box: Letterbox, answer: int, said: str
) -> None:
    box.answers[:] = [answer]
    run, notifier = notified
    notifier.send("failed", "capitals failed", "")
    settle(run)
    (words,) = undelivered(run, run.state())
    assert said in words
    assert SECRET not in words
    assert len(box.letters) == 1


def test_a_server_that_is_not_there_is_said_so(settings: Settings) -> None:
    with pytest.raises(NoticeError, match=r"cannot be reached: .*refused") as caught:
        try_address("http://127.0.0.1:9/very-secret-9c1f", settings)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("fills", [False, True], ids=["no folder", "a folder in its place"])
def test_a_notice_is_sent_even_if_nothing_can_be_written(settings: Settings, box: Letterbox, fills: bool) -> None:
    settings = replace(settings, notify_url=box.url)
    run = RunDir(settings.runs / "gone")
    if fills:
        notices_file(run).mkdir(parents=True)
    Notifier(run, settings).send("attention", "the disk is full", "")
    wait_until(lambda: box.letters, what="the notice")
    settle(run)


def settle(run: RunDir) -> None:
    """Wait until no thread of this process is busy with notices."""
    names = ("(_settle)", "<lambda>")
    wait_until(
        lambda: not any(name in thread.name for thread in threading.enumerate() for name in names),
        what=f"the threads of {run.run_id}",
    )


# On a Space


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/very-secret-9c1f",
        "https://localhost/very-secret-9c1f",
        "https://[::1]/very-secret-9c1f",
        "https://[::ffff:127.0.0.1]/very-secret-9c1f",
        "https://2130706433/very-secret-9c1f",
        "https://10.1.2.3/very-secret-9c1f",
        "https://169.254.169.254/very-secret-9c1f",
        "https://0.0.0.0/very-secret-9c1f",
    ],
)
def test_a_space_sends_nothing_inside(settings: Settings, url: str) -> None:
    with pytest.raises(NoticeError, match="leads inside") as caught:
        try_address(url, replace(settings, on_space=True))
    assert SECRET not in str(caught.value)


def test_a_space_sends_nothing_in_the_clear(settings: Settings, box: Letterbox) -> None:
    with pytest.raises(NoticeError, match="https"):
        try_address(box.url, replace(settings, on_space=True))
    assert box.letters == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("100.64.0.1", False),
        ("192.168.0.1", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_addresses_of_the_open_internet_are_known(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_pinned_request_goes_to_the_address_with_the_name_in_header_and_certificate(tmp_path: Path) -> None:
    """The certificate is for a name that cannot be looked up, so only the address can have led here."""
    import httpx2

    name = "hooks.name-that-does-not-exist.invalid"
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName=DNS:{name}"
    made = ["openssl", *request.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    trusted = ssl.create_default_context(cafile=str(certificate))
    with open_letterbox(ssl=served) as box, httpx2.Client(verify=trusted, trust_env=False) as client:
        request = client.build_request("POST", f"https://{name}:{box.port}/x", content=b"hello")
        pin(request, "127.0.0.1")
        assert client.send(request).status_code == 200
        assert box.letters[0].headers["Host"] == f"{name}:{box.port}"
        other = client.build_request("POST", f"https://other.invalid:{box.port}/x", content=b"hello")
        pin(other, "127.0.0.1")
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            client.send(other)


# Formats and words


def test_each_kind_of_service_gets_what_it_reads() -> None:
    title, message = "Prüfung <!channel>\n@everyone has finished", "150 steps & more"
    bodies = {
        url: put(parse_webhook(url), "failed", title, message, {"run_id": "r"})
        for url in (
            "https://ntfy.sh/t",
            "https://discord.com/api/webhooks/1/x",
            "https://hooks.slack.com/services/x",
            "https://example.org/hook",
        )
    }
    ntfy, discord, slack, plain = bodies.values()
    assert ntfy[0] == b"150 steps & more"
    assert ntfy[1]["Title"].startswith("=?utf-8?")
    assert "\n" not in ntfy[1]["Title"]
    assert (ntfy[1]["Priority"], ntfy[1]["Tags"]) == ("high", "x")
    assert b'"allowed_mentions": {"parse": []}' in discord[0]
    assert b'"content"' in discord[0]
    assert b"&lt;!channel&gt; @everyone has finished\\n150 steps &amp; more" in slack[0]
    assert b'"run_id": "r"' in plain[0]
    assert b'"event": "failed"' in plain[0]


def test_a_very_long_message_is_cut_to_what_discord_takes(box: Letterbox) -> None:
    body, _ = put(parse_webhook("https://discord.com/api/webhooks/1/x"), "failed", "t", "x" * 9000, {})
    assert len(body) < 2000


def test_a_name_and_a_password_in_the_address_sign_in(box: Letterbox) -> None:
    webhook = parse_webhook(box.ntfy.replace("127", "me:pass@127"))
    deliver(webhook, "test", "title", "message", {}, seconds=5, public_only=False)
    assert box.letters[0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("state", "title", "message"),
    [
        ({"status": "finished"}, "capitals has finished", "40 steps, held-out loss 0.1235, 3 min."),
        ({"status": "stopped"}, "capitals has stopped", "after 40 steps. The last checkpoint is of step 30."),
        ({"status": "interrupted"}, "capitals was interrupted", "resume the run to go on. The last checkpoint"),
        (
            {
                "status": "failed",
                "error": ErrorReport(kind="x", title="Out of memory", what_happened="a.", what_to_do="b."),
            },
            "capitals failed: Out of memory",
            "a. What to do: b.",
        ),
        (
            {
                "status": "finished",
                "error": ErrorReport(kind="x", title="Not published", what_happened="a.", what_to_do="b."),
            },
            "capitals has finished",
            "3 min. Not published: a. What to do: b.",
        ),
    ],
    ids=["finished", "stopped", "interrupted", "failed", "finished but not published"],
)
def test_an_end_is_told_in_plain_words(settings: Settings, state: dict[str, object], title: str, message: str) -> None:
    run = create_run(settings.runs, told_by(None))
    facts = FactWriter(run.events)
    facts.append("eval", step=40, loss=0.12345)
    facts.append("checkpoint", step=30)
    facts.append("step", step=40, max_steps=150, loss=0.5)
    facts.close()
    notice = end_notice(run, RunState(created_at=0, started_at=100, ended_at=290, **state))  # type: ignore[arg-type]
    assert notice.title == title
    assert message in notice.message
    assert notice.details["seconds"] == 190


# The terminal


def terminal(settings: Settings, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemma_ft", *words],
        cwd=ROOT,
        env={**os.environ, "GEMMA_FT_HOME": str(settings.home), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_test_can_be_sent_from_a_terminal(settings: Settings, box: Letterbox) -> None:
    done = terminal(settings, "notify-test", box.url)
    assert (done.returncode, done.stdout) == (0, "Sent. The server answered 200 (OK); look whether it has arrived.\n")
    done = terminal(settings, "notify-test", GEMMA_FT_NOTIFY_URL=box.ntfy)
    assert done.returncode == 0
    assert [letter.path for letter in box.letters] == [f"/hook/{SECRET}", f"/{SECRET}"]
    assert box.letters[1].headers["Title"] == "This is a test"
    box.answers[:] = [403]
    done = terminal(settings, "notify-test", box.url)
    assert done.returncode == 1
    assert "403 (Forbidden)" in done.stderr
    done = terminal(settings, "notify-test")
    assert done.returncode == 2
    assert "no address" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_an_unknown_host_is_told_in_words() -> None:
    webhook = parse_webhook("https://name-that-does-not-exist.invalid/x")
    for public_only in (False, True):
        with pytest.raises(NotDeliveredError, match="cannot be reached") as caught:
            deliver(webhook, "test", "t", "m", {}, seconds=5, public_only=public_only)
        assert caught.value.again
    with pytest.raises(ConfigError, match="begin with"):
        try_address("file:///etc/passwd", Settings(home=Path("/nowhere")))
    assert socket.getdefaulttimeout() is None
