"""Telling people what became of a run, at the address that the run or this machine names.

Promises that nobody waits for a message and nothing fails because of one: a thread of its own sends it and tries again
for about `DELIVERY_SECONDS`; a process that ends waits for that, no longer. What there was to tell, and what did not
arrive, stands in `notices.jsonl` in the run's folder, so that the page can say it. At most one message for the end of
an attempt: whoever concludes it sends it, the supervisor or, when that is gone, the manager. If that one is killed in
the same moment, none is sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gemma_ft.errors import ConfigError, NoticeError
from gemma_ft.events import Fact, FactWriter, read_facts
from gemma_ft.monitor.summary import newest_facts
from gemma_ft.rundir import ACTIVE, RunDir, RunState
from gemma_ft.settings import NOTIFY_URL, Settings
from gemma_ft.webhook import Told, Webhook, parse_webhook

Occasion = Literal["finished", "stopped", "failed", "interrupted", "attention", "test"]
PROBLEMS: frozenset[Occasion] = frozenset({"failed", "interrupted", "attention"})
TOLD: dict[Told, frozenset[Occasion]] = {
    "problems": PROBLEMS,
    "ended": PROBLEMS | {"finished"},
    "all": PROBLEMS | {"finished", "stopped"},
}
DELIVERY_SECONDS = 15.0
"""From the first try to the last answer."""
TRY_SECONDS = 5.0
SUCH_AS = "Give an address such as https://ntfy.sh/my-topic."
PAUSES = (1.0, 2.0, 4.0)
"""Seconds before another try."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What there is to tell of a run: a headline, a sentence or two, and the same in figures."""

    occasion: Occasion
    title: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


class Notifier:
    """Sends the notices of one run."""

    def __init__(self, run: RunDir, settings: Settings) -> None:
        self._run, self._settings = run, settings

    def send(self, occasion: Occasion, title: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        """Tell of something that has happened to the run; what is sent is sent by a thread, so this returns at once."""
        url, when = _address(self._run, self._settings)
        told, attempt = url is not None and occasion in TOLD[when], self._attempt()
        self._record("notice", attempt, occasion=occasion, title=title, message=message, told=told)
        if url is None or not told:
            return
        notice = Notice(occasion, title, message, {**about(self._run), **(details or {})})
        outcome: list[str | None] = []
        # Two threads: the process waits for the second one when it ends, but not for a first one that hangs.
        sending = threading.Thread(
            target=lambda: outcome.append(self._deliver(parse_webhook(url), notice)), daemon=True
        )
        sending.start()
        threading.Thread(target=self._settle, args=(occasion, attempt, sending, outcome)).start()

    def _deliver(self, webhook: Webhook, notice: Notice) -> str | None:
        """Send a notice, again if that may help; returns `None`, or why it did not arrive."""
        # The client takes a tenth of a second and memory that a supervisor without notices does not need.
        from gemma_ft.jobs.delivery import NotDeliveredError, deliver  # noqa: PLC0415

        words = (notice.occasion, notice.title, notice.message, notice.details)
        deadline = time.monotonic() + DELIVERY_SECONDS
        why = ""
        for pause in (*PAUSES, None):
            try:
                patience = max(1.0, min(TRY_SECONDS, deadline - time.monotonic()))
                deliver(webhook, *words, seconds=patience, public_only=self._settings.on_space)
            except NotDeliveredError as exc:
                why = str(exc)
                if not exc.again or pause is None or time.monotonic() + pause >= deadline:
                    return why
                time.sleep(pause)
            else:
                return None
        return why

    def _attempt(self) -> int:
        try:
            return self._run.state().attempt
        except OSError:
            return 0

    def _settle(self, occasion: Occasion, attempt: int, sending: threading.Thread, outcome: list[str | None]) -> None:
        """Write down a notice that did not arrive."""
        sending.join(DELIVERY_SECONDS + 1)
        why = outcome[0] if outcome else "there was no answer in time"
        if why is None:
            return
        self._record("undelivered", attempt, occasion=occasion, why=why)
        with suppress(OSError), self._run.supervisor_log.open("a", encoding="utf-8") as log:
            log.write(f"WARNING {undelivered_in_words(occasion, why)}\n")

    def _record(self, event: str, attempt: int, **fields: Any) -> None:
        with suppress(OSError):  # The disk may be full, and that may be what there is to tell.
            writer = FactWriter(notices_file(self._run), secrets=(*self._run.secrets(), self._settings.notify_url))
            writer.append(event, attempt=attempt, **fields)
            writer.close()


def announce_end(run: RunDir, settings: Settings) -> None:
    """Tell of the end of a run's attempt, if it has ended and nobody has told of it; never fails.

    Whoever has written a last state calls this.
    """
    with suppress(OSError):
        state = run.state()
        ends = (fact for fact in _facts_of(run, "notice") if fact.get("occasion") != "attention")
        if state.status in ACTIVE or any(fact.get("attempt") == state.attempt for fact in ends):
            return
        notice = end_notice(run, state)
        Notifier(run, settings).send(notice.occasion, notice.title, notice.message, notice.details)


def announce_alert(run: RunDir, settings: Settings, title: str, message: str) -> None:
    """Tell that a run needs attention; returns at once and never fails."""
    of_run = about(run)
    Notifier(run, settings).send("attention", f"{of_run['name']} needs attention: {title}", message, of_run)


def notify_environment(settings: Settings) -> dict[str, str]:
    """Return what a supervisor's environment needs besides, so that it knows the address of this machine."""
    return {NOTIFY_URL: settings.notify_url} if settings.notify_url else {}


def try_address(url: str | None, settings: Settings) -> str:
    """Send a test to an address, or to that of this machine; returns what came back, in words.

    Tries once. Raises `ConfigError` when there is no address or it is none, `NoticeError` when the test did not arrive.
    """
    from gemma_ft.jobs.delivery import NotDeliveredError, deliver  # noqa: PLC0415 (as above)

    if not (address := url or settings.notify_url):
        raise ConfigError("There is no address to send to.", f"{SUCH_AS} Or set {NOTIFY_URL}.")
    title, message = "This is a test", "Notices about your fine-tuning runs will arrive like this one."
    try:
        webhook = parse_webhook(address)
        answer = deliver(webhook, "test", title, message, {}, seconds=TRY_SECONDS, public_only=settings.on_space)
    except ValueError as exc:
        raise ConfigError(f"Nothing was sent: {exc}.", SUCH_AS) from exc
    except NotDeliveredError as exc:
        raise NoticeError(f"The test did not arrive: {exc}.", "Check the address and the network.") from exc
    return f"Sent. The server answered {answer}; look whether it has arrived."


def notices_file(run: RunDir) -> Path:
    """What was to be told of a run, and what could not be: facts `notice` and `undelivered`."""
    return run.path / "notices.jsonl"


def undelivered(run: RunDir, state: RunState) -> list[str]:
    """Return in words which notices of a run's present attempt did not arrive, the newest three."""
    facts = [fact for fact in _facts_of(run, "undelivered") if fact.get("attempt") == state.attempt][-3:]
    return [undelivered_in_words(str(fact.get("occasion")), str(fact.get("why"))) for fact in facts]


def undelivered_in_words(occasion: str, why: str) -> str:
    """Say that a notice did not arrive, for the log and the page."""
    what = "needs attention" if occasion == "attention" else f"has ended ({occasion})"
    return f"The notice that this run {what} could not be delivered: {why}."


def alarms(run: RunDir) -> list[Fact]:
    """Return the notices that the run needs attention, with the time `t` of each."""
    return [fact for fact in _facts_of(run, "notice") if fact.get("occasion") == "attention"]


def about(run: RunDir) -> dict[str, Any]:
    """Return what every notice says of its run."""
    try:
        name = run.config().name
    except ConfigError:
        name = run.run_id
    return {"run_id": run.run_id, "name": name}


def end_notice(run: RunDir, state: RunState) -> Notice:
    """Put the end of an attempt into words, from what is on the disk; `state` is that end."""
    newest = newest_facts(run.events)
    last = newest.get("step", {})
    step = int(last.get("step", 0))
    held_out = newest.get("eval", {}).get("loss")
    error = state.error.model_dump() if state.error else None
    of_run = about(run)
    details = {**of_run, "status": state.status, "step": step, "max_steps": last.get("max_steps")}
    details |= {"held_out_loss": held_out, "seconds": _seconds(state), "error": error}
    advice = f"{state.error.what_happened} What to do: {state.error.what_to_do}" if state.error else ""
    checkpoint = newest.get("checkpoint", {}).get("step")
    saved = f"The last checkpoint is of step {checkpoint}" if checkpoint else "There is no checkpoint"
    name = of_run["name"]
    if state.status == "finished":
        figures = [
            f"{step:,} steps",
            f"held-out loss {held_out:.4g}" if isinstance(held_out, float) else "",
            _span(state),
        ]
        more = f" {state.error.title}: {advice}" if state.error else ""
        return Notice("finished", f"{name} has finished", f"{', '.join(filter(None, figures))}.{more}", details)
    if state.status == "failed":
        title = f"{name} failed: {state.error.title}" if state.error else f"{name} failed"
        return Notice("failed", title, advice or "Look at its log.", details)
    if state.status == "interrupted":
        why = advice or "The machine or its supervisor went away; resume the run to go on."
        return Notice("interrupted", f"{name} was interrupted", f"{why} {saved}.", details)
    return Notice("stopped", f"{name} has stopped", f"It was stopped after {step:,} steps. {saved}.", details)


def _address(run: RunDir, settings: Settings) -> tuple[str | None, Told]:
    """Return where to tell of a run and on which occasions: its own address, else that of this machine."""
    try:
        notify = run.config().notify
    except ConfigError:
        return settings.notify_url, "ended"
    return notify.url or settings.notify_url, notify.when


def _facts_of(run: RunDir, event: str) -> list[Fact]:
    return [fact for fact in read_facts(notices_file(run))[0] if fact.get("event") == event]


def _seconds(state: RunState) -> float | None:
    return round(state.ended_at - state.started_at, 1) if state.ended_at and state.started_at else None


def _span(state: RunState) -> str:
    """Say how long an attempt took, to the minute: 40 s, 3 min, 2 h 05 min."""
    seconds = _seconds(state)
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
