"""Ending a whole group of processes.

`signal_group` takes a bare number: call it only for a leader that is known to live or not yet reaped.
"""

from __future__ import annotations

import os
import signal


def signal_group(leader: int, number: signal.Signals) -> bool:
    """Send a signal to every process of a group; returns whether there was anyone to get it."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True
