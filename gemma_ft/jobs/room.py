"""Refusing to start what the disk cannot hold.

Promises a refusal only when it is certain: for a model of the catalogue the checkpoints and the result are counted, for
any other a little room for facts and states (the trainer counts again, with the model's true shape, before it loads
anything). Downloads are not counted here.
"""

from __future__ import annotations

from gemma_ft.catalog import find
from gemma_ft.config import RunConfig
from gemma_ft.estimate.disk import SMALL_FILES, certain_bytes
from gemma_ft.monitor.disk import require_free, saved
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings


def require_room(settings: Settings, config: RunConfig, run: RunDir | None = None) -> None:
    """Raise `DiskError` when the disk certainly cannot hold a run of this configuration.

    `run` is the one that is to be resumed; what it has saved already is taken into account.
    """
    needed = SMALL_FILES
    known = find(config.model.id) if not config.model.revision else None
    if known is not None:
        done, have = saved(run) if run else (0, 0)
        machine = this_machine(settings.home)
        needed = certain_bytes(config, known.shape, machine, None, done=done, have=have)
    require_free(settings.runs, needed, apart_from=run.run_id if run else None)
