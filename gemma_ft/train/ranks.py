"""The processes that train together: which one this is, what they agree on, and how they share a batch.

Each has a rank; the main one (0) tells the world and writes the results. Promises that everything here is a matter of
course in a trainer that is alone, and that sharing a batch changes nothing about a step: it is made of as many rows.
Weights are copied to every process (DDP), unless `sharding` spreads them. Imports torch only once there is something
to agree on.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, NoReturn

from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError, GemmaFtError

LOST_PEER = ("closed by peer", "reset by peer", "Broken pipe", "remote process has exited", "NCCL")
"""Words in the errors of gloo and NCCL when another process is gone."""


class PeerLost(GemmaFtError):
    """Another of the processes that train together ended; the run goes on from its last checkpoint when resumed."""

    kind = "killed"
    title = "One of the training processes ended"

    def __init__(self) -> None:
        super().__init__(
            "The processes train together, and one of them ended without giving a reason. Most often the system killed "
            "it because memory ran out.",
            "Read the end of the log; use a smaller batch or fewer processes, and resume the run.",
        )


def count() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this is the process that writes facts and results."""
    return os.environ.get("RANK", "0") == "0"


def require_possible(config: RunConfig) -> None:
    """Raise `ConfigError` unless this many processes can do what the configuration asks for."""
    asked = config.compute.processes
    if asked > 1 and asked != count():
        raise ConfigError(
            f"compute.processes: {asked} GPUs are wanted, and this machine has fewer.",
            "Set it to 0 to use those that there are.",
        )
    if config.compute.sharding == "on" and count() == 1:
        raise ConfigError(
            "compute.sharding: there is one GPU to train on, and nothing to spread the weights over.",
            "Set it to auto, or use more GPUs; their number has to divide the batch.",
        )


def join() -> None:
    """Meet the other processes, if there are any: over NCCL on GPUs, else over gloo."""
    if count() == 1:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def highest(value: int) -> int:
    """Return the highest value that any process gives. All of them have to call it, at the same point."""
    if count() == 1:
        return value
    import torch

    held = torch.tensor([value], device="cuda" if torch.cuda.is_available() else "cpu")
    torch.distributed.all_reduce(held, op=torch.distributed.ReduceOp.MAX)
    return int(held.item())


def of_each(value: int) -> list[int]:
    """Return the value that each process gives, by rank. All of them have to call it."""
    import torch

    found: list[Any] = [None] * count()
    torch.distributed.all_gather_object(found, value)
    return found


def as_main(values: Any) -> Any:
    """Return the tensor that the main process gives. All of them have to call it, with tensors of one size."""
    import torch

    held = values.contiguous()
    torch.distributed.broadcast(held, src=0)
    return held


def wait() -> None:
    """Wait until every process has come here."""
    highest(0)


def leave(code: int) -> NoReturn:
    """End this process.

    Of several none takes PyTorch apart first: now and then that crashes, and the launcher then ends the others, of
    which one may still be saving.
    """
    if count() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def lost_peer(exc: BaseException) -> bool:
    """Tell whether an error only says that another process is gone."""
    return count() > 1 and isinstance(exc, RuntimeError) and any(words in str(exc) for words in LOST_PEER)
