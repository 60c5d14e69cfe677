"""Any exception as a report that a person can act on.

Promises an answer for every exception; what is not recognised is called a bug and keeps its type and message. Foreign
errors are told by their types' names and their words, so that an early failure is explained without PyTorch. Never
quotes the environment, and takes a secret out of what it quotes. What an end without an exception means (a signal, a
log) is told in `jobs.outcome`.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gemma_ft.errors import ConfigError, DataError, ErrorReport, GemmaFtError
from gemma_ft.full_disk import says_full_disk
from gemma_ft.redaction import redact

FAILED, BAD_INPUT, STOPPED = 1, 2, 3
"""Exit codes of the trainer and of the command line; 0 is a finished run."""
LONGEST_REASON = 300
MOST_DETAILS = 6_000
"""Characters of a traceback or a log that a report keeps; the end is what matters."""

LESS_MEMORY = (
    "Halve the batch size and double the accumulation (the result stays the same), switch on gradient checkpointing, "
    "shorten the maximum length, or take a smaller model."
)
ROOM = "Free some space (old runs and checkpoints), then resume the run."
CALMER = (
    "Start again with a lower learning rate (a tenth) or a longer warm-up. If it happens again, look for rows that are "
    "very unlike the others, and compute in bfloat16 or float32."
)
CALL_US = "The details say where it happened. If you cannot explain it, please report it with the log."
INSTALL = "Install the requirements again: pip install -r requirements.txt"

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""What PyTorch's error names when the machine's memory is refused."""
GPU_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
FAILED_WRITER = ("PytorchStreamWriter failed", "unexpected pos")
"""PyTorch's words when a checkpoint cannot be written, which it says without a reason: most often the disk is full."""
GPU_WORDS = ("CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS", "CUDNN_STATUS", "HIP error")
NOT_FINITE_WORDS = ("probability tensor contains either `inf`, `nan`", "error_if_nonfinite")
HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "aiohttp")
NETWORK_WORDS = ("Name or service not known", "Temporary failure in name resolution", "Network is unreachable")


@dataclass(frozen=True, slots=True)
class _Cause:
    """A reason that an exception may have, by what tells it."""

    kind: str
    title: str
    what_to_do: str
    is_it: Callable[[BaseException], bool]


def explain(exc: BaseException, secret: str | None = None) -> ErrorReport:
    """Return what happened and what to do; `secret` is taken out of what the report quotes."""
    if isinstance(exc, GemmaFtError):
        report = exc.report
        return report.model_copy(update={"what_happened": redact(report.what_happened, secret)})
    found = ((cause, one) for one in _because(exc) for cause in CAUSES if cause.is_it(one))
    cause, one = next(found, (BUG, exc))
    reason = redact(f"{type(one).__name__}: {_reason(one)}" if cause is BUG else _reason(one), secret)
    return ErrorReport(
        kind=cause.kind,
        title=cause.title,
        what_happened=reason[:LONGEST_REASON],
        what_to_do=cause.what_to_do,
        details=shortened(redact("".join(traceback.format_exception(exc)), secret)),
    )


def exit_code(exc: BaseException) -> int:
    """Return the exit code that tells a shell what kind of failure this was."""
    passing = isinstance(exc, GemmaFtError) and exc.report.kind in PASSING
    return BAD_INPUT if isinstance(exc, (ConfigError, DataError)) and not passing else FAILED


PASSING = frozenset({"network", "hub_down", "rate_limit"})
"""Kinds for which the configuration and the data need not be changed: trying again later may do."""


def is_out_of_memory(exc: BaseException) -> bool:
    """Tell whether an allocation was refused, on a GPU or in the machine's memory."""
    refused = isinstance(exc, RuntimeError) and CPU_ALLOCATOR in str(exc)
    refused = refused or (isinstance(exc, OSError) and exc.errno == errno.ENOMEM)
    return isinstance(exc, MemoryError) or refused or _is_out_of_gpu_memory(exc)


def shortened(text: str, most: int = MOST_DETAILS) -> str:
    """Return the end of a long text, from the beginning of a line on, with a mark that something was left out."""
    text = text.rstrip()
    if len(text) <= most:
        return text
    end = text[-most:]
    return f"[...]\n{end.partition(chr(10))[2] or end}"


def _because(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it says it was raised from; what only happened before it is no reason."""
    one: BaseException | None = exc
    while one is not None:
        yield one
        one = one.__cause__


def _reason(exc: BaseException) -> str:
    """Return the first line of an exception's message that says anything."""
    lines = (line.strip() for line in str(exc).splitlines())
    return next((line for line in lines if line), type(exc).__name__)


def _is_out_of_gpu_memory(exc: BaseException) -> bool:
    """Tell by name, so that explaining an early failure needs no torch."""
    return type(exc).__name__ == "OutOfMemoryError" or _says(GPU_MEMORY)(exc)


def _is_full_disk(exc: BaseException) -> bool:
    return says_full_disk(exc) or _says(FAILED_WRITER)(exc)


def _is_network(exc: BaseException) -> bool:
    """Tell a lost connection to elsewhere; a broken pipe is one to another process of ours."""
    lost = isinstance(exc, (ConnectionError, TimeoutError)) and not isinstance(exc, BrokenPipeError)
    from_client = type(exc).__module__.partition(".")[0] in HTTP_LIBRARIES
    return lost or from_client or (isinstance(exc, OSError) and any(words in str(exc) for words in NETWORK_WORDS))


def _says(words: tuple[str, ...]) -> Callable[[BaseException], bool]:
    """Return what tells an error of a library by its words; ours and Python's own mistakes have types of their own."""

    def is_it(exc: BaseException) -> bool:
        plain = (ValueError, TypeError, KeyError, AttributeError)
        return not isinstance(exc, plain) and any(one in str(exc) for one in words)

    return is_it


def _cuda(title: str, what_to_do: str, *words: str) -> _Cause:
    said = _says(words)
    return _Cause("cuda", title, what_to_do, lambda exc: isinstance(exc, RuntimeError) and said(exc))


def _is_cuda(exc: BaseException) -> bool:
    named = type(exc).__name__ in ("AcceleratorError", "CudaError", "DeferredCudaCallError", "DistBackendError")
    return named or (isinstance(exc, RuntimeError) and _says(GPU_WORDS)(exc))


CUDA = (
    _cuda(
        "The GPU was given an impossible value",
        "Most often a token that the model does not have, or numbers that are not finite. Check that the tokenizer "
        "belongs to the model, try a lower learning rate, and set CUDA_LAUNCH_BLOCKING=1 for a traceback that names "
        "the place.",
        "device-side assert",
    ),
    _cuda(
        "This PyTorch does not know this GPU",
        "Install a PyTorch that was built for this GPU (see https://pytorch.org/get-started), or use another GPU.",
        "no kernel image",
        "PTX was compiled with an unsupported toolchain",
    ),
    _cuda(
        "The GPU's driver does not fit",
        "Update the NVIDIA driver, or install a PyTorch for the driver that there is; after an update of the driver "
        "restart the machine. `nvidia-smi` shows its version.",
        "CUDA driver version is insufficient",
        "NVIDIA driver on your system is too old",
        "Found no NVIDIA driver",
        "driver/library version mismatch",
        "forward compatibility was attempted",
        "system not yet initialized",
        "CUDA unknown error",
    ),
    _cuda(
        "The GPU is busy or not there",
        "End other programs that use it (`nvidia-smi` lists them), and check CUDA_VISIBLE_DEVICES.",
        "busy or unavailable",
        "invalid device ordinal",
        "no CUDA-capable device",
        "No CUDA GPUs are available",
    ),
    _cuda(
        "The GPU failed",
        "Look for Xid messages in the system's log (`dmesg`), restart the machine, and resume the run. If it happens "
        "again, the GPU, its memory or its cooling may be broken.",
        "GPU is lost",
        "fallen off the bus",
        "uncorrectable ECC",
        "hardware stack error",
        "Xid",
    ),
    _cuda(
        "The GPUs lost each other",
        "Resume the run. If it happens again, use one GPU, or set NCCL_DEBUG=INFO and read the end of the log.",
        "NCCL",
        "ncclInternalError",
        "ncclSystemError",
        "ncclRemoteError",
    ),
    _cuda(
        "The GPU's library could not start",
        "Most often its memory is full: use a smaller batch, end other programs that use the GPU, and resume the run.",
        "CUBLAS_STATUS_NOT_INITIALIZED",
        "CUDNN_STATUS_NOT_INITIALIZED",
    ),
    _Cause(
        "cuda",
        "The GPU reported an error",
        "Resume the run. If it happens again at the same step, set CUDA_LAUNCH_BLOCKING=1 for a traceback that names "
        "the place, and try another version of PyTorch or of the driver.",
        _is_cuda,
    ),
)
"""Errors of a GPU, the exact ones first."""

CAUSES = (
    _Cause("memory", "The GPU ran out of memory", LESS_MEMORY, _is_out_of_gpu_memory),
    _Cause("memory", "The machine ran out of memory", LESS_MEMORY, is_out_of_memory),
    _Cause("disk", "The disk is full", ROOM, _is_full_disk),
    _Cause("not_finite", "The training fell apart", CALMER, _says(NOT_FINITE_WORDS)),
    *CUDA,
    _Cause("network", "The network was lost", "Check the network of this machine, then resume the run.", _is_network),
    _Cause("install", "A package is missing or broken", INSTALL, lambda exc: isinstance(exc, ImportError)),
)
BUG = _Cause("bug", "The training failed", CALL_US, lambda exc: True)
