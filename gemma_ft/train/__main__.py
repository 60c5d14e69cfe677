"""`python -m gemma_ft.train RUN_DIR`: the trainer, one run from its configuration to its result.

Promises that its last fact is a `result` with the outcome, whatever happens short of SIGKILL, and an exit code that
agrees: 0 finished, 1 failed, 2 bad configuration or data, 3 stopped. Of several
processes that train together the main one tells it, and of failures the first. Cheap checks come first: the data and
the Hub repository are known to be good before torch is imported.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

from gemma_ft.data.prepare import prepare
from gemma_ft.errors import ErrorReport, HubError
from gemma_ft.events import FactWriter, read_facts
from gemma_ft.failures import STOPPED, exit_code, explain
from gemma_ft.hub.cards import model_card
from gemma_ft.hub.upload import ensure_repo, upload_model
from gemma_ft.redaction import redact_output
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings
from gemma_ft.train import ranks
from gemma_ft.train.control import Asked, Control, StopRequested
from gemma_ft.train.progress import Progress
from gemma_ft.train.resolve import resolve_model
from gemma_ft.train.room import wait_until_written

log = logging.getLogger("gemma_ft")


def main(path: str) -> int:
    """Train the run in this folder and return the exit code."""
    run = RunDir(Path(path))
    token = os.environ.get("HF_TOKEN")
    secrets = (token, *run.secrets())
    redact_output(*secrets)
    logging.basicConfig(
        level=logging.INFO if ranks.is_main() else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    facts = FactWriter(run.events, secrets=secrets)
    attempt = run.state().attempt
    control: Control | None = None
    try:
        control = Control(run)
        outcome, error = train(run, Progress(facts, control, heard=ranks.is_main()), control)
    except StopRequested as stop:
        outcome, error = outcome_of(stop.asked), None
    except Exception as exc:
        # The outermost frame of a child: what is not written down here is lost.
        log.exception("The training failed")
        if ranks.lost_peer(exc):
            exc = ranks.PeerLost()
            if control is not None and control.asked() == "interrupted":
                return STOPPED  # The supervisor is gone as well: an interruption, and no failure of this run.
        if ranks.count() == 1 or not _is_told(run, attempt):
            facts.append("result", sync=True, outcome="failed", attempt=attempt, error=explain(exc, token).model_dump())
            wait_until_written(facts, control)
        return exit_code(exc)
    if ranks.is_main():
        log.info("The run has %s", outcome)
        facts.append("result", sync=True, outcome=outcome, attempt=attempt, error=error and error.model_dump())
        wait_until_written(facts, control)
    return 0 if outcome == "finished" else STOPPED


def _is_told(run: RunDir, attempt: int) -> bool:
    """Tell whether another process has given a reason: those that fail because it failed know less."""
    return any(fact.get("event") == "result" and fact.get("attempt") == attempt for fact in read_facts(run.events)[0])


def train(run: RunDir, progress: Progress, control: Control) -> tuple[str, ErrorReport | None]:
    """Do the whole run; return its outcome, and an error if the result could not be published."""
    config, settings, token = run.config(), Settings.from_env(), os.environ.get("HF_TOKEN")
    ranks.require_possible(config)
    progress.phase("reading the data")
    data = prepare(config.data, config.method.objective, hub_token=token, folder=settings.datasets)
    found = data.survey
    if found.bad_rows:
        progress.warn(f"{found.bad_rows:,} of {found.rows:,} rows cannot be used and were left out.")
    repo = None
    if config.publish.repo and ranks.is_main():
        progress.phase("checking the Hub repository")
        repo = ensure_repo(config.publish, token)
    progress.phase("finding the model")
    base = resolve_model(config.model, settings.models, enter=progress.phase, report=progress.report, hub_token=token)
    progress.phase("starting PyTorch")
    from gemma_ft.train.callbacks import Tuned
    from gemma_ft.train.encode import encode_all
    from gemma_ft.train.tokenizer import load_tokenizer
    from gemma_ft.train.tuning import tune

    progress.phase("tokenising the data")
    tokenizer = load_tokenizer(base)
    limit = config.training.max_length
    rows, lost = encode_all(data.train, tokenizer, limit, progress.report)
    held_out, _ = encode_all(data.validation, tokenizer, limit)
    if lost:
        progress.warn(f"{lost:,} rows were left out: within {limit:,} tokens there is nothing in them to learn.")
    if shortened := sum(row.cut > 0 for row in rows):
        progress.warn(f"{shortened:,} rows are longer than {limit:,} tokens; what comes after was cut off.")
    progress.fact(
        "data",
        objective=config.method.objective,
        format=found.format,
        rows=found.rows,
        kept=found.kept,
        train=len(rows),
        validation=len(held_out),
    )

    def card(tuned: Tuned) -> str:
        measured = {"Training loss at the end": tuned.loss, "Held-out loss at the end": tuned.held_out_loss}
        figures = {name: f"{value:.4f}" for name, value in measured.items() if value is not None}
        return model_card(config, rows=len(rows), figures={"Steps": f"{tuned.steps:,}", **figures}, repo=repo)

    if not tune(run, config, base, tokenizer, (rows, held_out), control=control, progress=progress, card=card):
        return outcome_of(control.asked()), None
    return "finished", publish(run, repo, token, progress) if repo else None


def outcome_of(asked: Asked | None) -> str:
    """Return what a run came to that was asked to leave."""
    return "interrupted" if asked == "interrupted" else "stopped"


def publish(run: RunDir, repo: str, token: str | None, progress: Progress) -> ErrorReport | None:
    """Upload the result; a failure here loses nothing, so it is returned, not raised."""
    try:
        progress.phase("publishing")
        url = upload_model(run.model, repo, token)
    except HubError as exc:
        progress.warn(str(exc), kind=exc.report.kind)
        return exc.report.model_copy(update={"title": "Trained, but not published"})
    except StopRequested:
        return ErrorReport(
            kind="stop",
            title="Trained, but not published",
            what_happened="It was stopped while it was publishing; the model is safe on this machine.",
            what_to_do="Publish it again when you like.",
        )
    progress.fact("published", sync=True, repo=repo, url=url)
    return None


if __name__ == "__main__":
    ranks.leave(main(sys.argv[1]))
