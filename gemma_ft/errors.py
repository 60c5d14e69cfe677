"""Every error that is meant for a person.

Each one says what happened and what to do; nothing here knows how it will be shown. Bugs are not in this tree: they
stay ordinary exceptions and surface with their traceback.

    GemmaFtError
    ├── ConfigError        the configuration is wrong; the person edits it and tries again
    ├── DataError          the training data cannot be used; the person mends the file or the mapping
    │   └── NotHereYet     it can only be looked at once the run has fetched it; the person starts the run
    ├── ModelError         the model cannot be loaded; the person picks another or gets access
    ├── HubError           the Hub refused or did not answer; the person checks token, name or network
    ├── RunNotFound        no run has this id; the person picks one from the list
    ├── RunBusy            the run, or another one, is in a state that forbids this; the person waits or stops it
    ├── DiskError          the disk cannot hold what would be written; the person makes room
    ├── NoticeError        a notice did not arrive; the person checks the address and the network
    └── EngineError        the engine failed or refused; the person reads the reason and asks again
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ErrorReport(BaseModel):
    """A failure as it is stored in `state.json` and shown on the page and in the terminal.

    `kind` is a stable word for programs (docs/failures.md lists them). `details` is what only some want to read, the
    traceback or the end of the log; it is empty where there is nothing to add.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    title: str
    what_happened: str
    what_to_do: str
    details: str = ""


class GemmaFtError(Exception):
    """Base of all errors with a message for a person: a title, what happened, and what to do.

    The report has the kind and the title of the class, unless a more exact one is given.
    """

    kind = "error"
    title = "Something went wrong"

    def __init__(
        self, what_happened: str, what_to_do: str = "", *, title: str | None = None, kind: str | None = None
    ) -> None:
        super().__init__(f"{what_happened} {what_to_do}".strip())
        self.report = ErrorReport(
            kind=kind or self.kind,
            title=title or self.title,
            what_happened=what_happened,
            what_to_do=what_to_do,
        )


class ConfigError(GemmaFtError):
    """The configuration is wrong; edit it and try again."""

    kind = "config"
    title = "The configuration is not valid"


class DataError(GemmaFtError):
    """The training data cannot be used; mend the file or the column mapping.

    `columns` are those that were found, when what is wrong is which column is what.
    """

    kind = "data"
    title = "The training data cannot be used"
    columns: tuple[str, ...] = ()


class NotHereYet(DataError):
    """The data is not on this machine and cannot be looked at before the run fetches it; start, or fetch it before."""


class ModelError(GemmaFtError):
    """The model cannot be loaded; pick another one or get access to it."""

    kind = "model"
    title = "The model cannot be loaded"


class HubError(GemmaFtError):
    """The Hub refused or did not answer; check the token, the name and the network."""

    kind = "hub"
    title = "The Hugging Face Hub refused"


class RunNotFound(GemmaFtError):
    """No run has this id; pick one from the list."""

    kind = "run_not_found"
    title = "No such run"


class RunBusy(GemmaFtError):
    """The run, or another one, is in a state that forbids this; wait or stop it."""

    kind = "busy"
    title = "Not possible right now"


class DiskError(GemmaFtError):
    """The disk cannot hold what would be written; make room, or ask for less."""

    kind = "disk"
    title = "The disk has too little room"


class NoticeError(GemmaFtError):
    """A notice did not arrive; check the address and the network."""

    kind = "notice"
    title = "The notice did not arrive"


class EngineError(GemmaFtError):
    """The engine failed, or refused what it was asked; read the reason and ask again."""

    kind = "engine"
    title = "The model could not answer"

    @classmethod
    def reported(cls, report: ErrorReport) -> EngineError:
        """Return the error that an engine reports; its kind says whether it is the data, the model or the engine."""
        error = cls(report.what_happened, report.what_to_do)
        error.report = report
        return error
