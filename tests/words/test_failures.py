"""Exceptions in words: real classes of the libraries, with the messages that they have in the field.

What a GPU raises cannot be raised here; those are real classes of PyTorch made by hand.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.errors import ConfigError, DataError, ErrorReport, HubError, ModelError
from gemma_ft.failures import MOST_DETAILS, exit_code, explain, is_out_of_memory, shortened
from gemma_ft.rundir import RunState

DOCS = Path(__file__).resolve().parents[2] / "docs" / "failures.md"
ASSERT = (
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API "
    "call, so the stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
)


def raised(make: Callable[[], Any]) -> BaseException:
    """Return what a call raises, as it was caught."""
    try:
        make()
    except Exception as exc:  # noqa: BLE001 - any at all
        return exc
    raise AssertionError("nothing was raised")


def throw(exc: BaseException) -> None:
    raise exc


@pytest.mark.train
@pytest.mark.parametrize(
    ("name", "message", "kind", "title"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.", "memory", "GPU ran out of memory"),
        ("AcceleratorError", "CUDA error: out of memory", "memory", "GPU ran out of memory"),
        (
            "RuntimeError",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "memory",
            "GPU ran",
        ),
        ("RuntimeError", "MPS backend out of memory (MPS allocated: 9 GB)", "memory", "GPU ran out of memory"),
        ("AcceleratorError", ASSERT, "cuda", "impossible value"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling", "cuda", "could not start"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling", "cuda", "reported an error"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "cuda", "reported an error"),
        (
            "AcceleratorError",
            "CUDA error: no kernel image is available for execution on the device",
            "cuda",
            "does not know this GPU",
        ),
        ("AcceleratorError", "CUDA error: an illegal memory access was encountered", "cuda", "reported an error"),
        ("AcceleratorError", "CUDA error: unspecified launch failure", "cuda", "reported an error"),
        ("AcceleratorError", "CUDA error: uncorrectable ECC error encountered", "cuda", "The GPU failed"),
        ("RuntimeError", "CUDA error: GPU is lost. Reboot the system to recover this GPU", "cuda", "The GPU failed"),
        (
            "RuntimeError",
            "The NVIDIA driver on your system is too old (found version 11040).",
            "cuda",
            "driver does not fit",
        ),
        ("RuntimeError", "CUDA driver version is insufficient for CUDA runtime version", "cuda", "driver does not fit"),
        ("RuntimeError", "Found no NVIDIA driver on your system.", "cuda", "driver does not fit"),
        ("RuntimeError", "No CUDA GPUs are available", "cuda", "busy or not there"),
        ("AcceleratorError", "CUDA error: all CUDA-capable devices are busy or unavailable", "cuda", "busy or not"),
        ("DistBackendError", "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error", "cuda", "lost each"),
    ],
)
def test_an_error_of_a_gpu_says_what_to_do(name: str, message: str, kind: str, title: str) -> None:
    import torch

    places = (torch, torch.cuda, torch.distributed)
    error = next((getattr(place, name) for place in places if hasattr(place, name)), RuntimeError)
    report = explain(raised(lambda: throw(error(message))))
    assert (report.kind, title in report.title) == (kind, True), report
    assert report.what_happened == message.splitlines()[0]
    assert report.what_to_do
    assert "in throw" in report.details


@pytest.mark.train
def test_what_torch_itself_raises_is_understood(tmp_path: Path) -> None:
    import torch

    huge = explain(raised(lambda: torch.zeros(10**15)))
    assert (huge.kind, huge.title) == ("memory", "The machine ran out of memory")
    broken = explain(raised(lambda: torch.multinomial(torch.tensor([float("nan"), 1.0]), 1)))
    assert broken.kind == "not_finite"
    with Path("/dev/full").open("wb", buffering=0) as file:
        assert explain(raised(lambda: torch.save(torch.zeros(10**6), file))).kind == "disk"
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # Whoever would rename a file into this place would hit the link, not the device.
    named = explain(raised(lambda: torch.save(torch.zeros(10**6), full)))
    assert named.kind == "disk"
    assert "unexpected pos" in named.what_happened


def full_disk_in_a_library() -> None:
    """As `datasets` does it: the library's error comes from the system's."""
    try:
        Path("/dev/full").write_bytes(b"x")
    except OSError as exc:
        raise RuntimeError("An error occurred while generating the dataset") from exc


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: Path("/dev/full").write_bytes(b"x"), "disk", "No space left"),
        (full_disk_in_a_library, "disk", "No space left"),
        (lambda: throw(OSError(errno.EDQUOT, "Disk quota exceeded")), "disk", "quota"),
        (lambda: throw(OSError(errno.ENOMEM, "Cannot allocate memory")), "memory", "Cannot allocate"),
        (lambda: bytearray(1 << 62), "memory", "MemoryError"),
        (lambda: __import__("no_such_package"), "install", "no_such_package"),
        (lambda: throw(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")), "network", "reset"),
        (lambda: throw(TimeoutError("The read operation timed out")), "network", "timed out"),
        (lambda: throw(BrokenPipeError(errno.EPIPE, "Broken pipe")), "bug", "BrokenPipeError"),
        (lambda: throw(ValueError("a row speaks of CUDA error: device-side assert")), "bug", "ValueError"),
        (lambda: {}["missing"], "bug", "KeyError: 'missing'"),
        (lambda: throw(AssertionError()), "bug", "AssertionError"),
    ],
)
def test_an_error_of_the_system_or_a_bug_is_told_apart(make: Callable[[], Any], kind: str, said: str) -> None:
    exc = raised(make)
    report = explain(exc)
    assert report.kind == kind, report
    assert said in report.what_happened
    assert report.details.splitlines()[0].startswith("Traceback")
    assert exit_code(exc) == 1
    assert is_out_of_memory(exc) == (kind == "memory")


def test_a_client_that_loses_the_hub_is_a_lost_network() -> None:
    from huggingface_hub.utils import get_session

    exc = raised(lambda: get_session().get("http://127.0.0.1:9/nothing", timeout=5))
    assert explain(exc).kind == "network"


def test_what_only_happened_before_is_no_reason() -> None:
    def bug_while_falling_back() -> None:
        try:
            raise ImportError("no fast kernel")
        except ImportError:
            raise ValueError("wrong shape")  # noqa: B904 - without a cause, as libraries do it

    assert explain(raised(bug_while_falling_back)).kind == "bug"


def test_our_own_errors_keep_their_words_and_have_no_traceback() -> None:
    error = ModelError("There is no folder.", "Give another.", kind="no_model", title="There is no such model")
    report = explain(error)
    assert report == error.report
    assert (report.kind, report.title, report.details) == ("no_model", "There is no such model", "")
    assert [exit_code(one("x")) for one in (ConfigError, DataError, ModelError, HubError)] == [2, 2, 1, 1]
    assert exit_code(DataError("The Hub is down.", kind="hub_down")) == 1


def test_a_secret_is_in_no_part_of_a_report() -> None:
    secret = "hf_very_secret"
    for exc in (ValueError(f"bad header {secret}"), ModelError(f"refused {secret}")):
        assert secret not in explain(raised(lambda exc=exc: throw(exc)), secret).model_dump_json()


def test_details_keep_the_end_and_stay_small() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            throw(ValueError("x" * 100_000 + "\nthe end"))

    details = explain(raised(lambda: deep(200))).details
    assert len(details) < MOST_DETAILS + 10
    assert details.endswith("the end")
    assert shortened("one\ntwo\nthree", 9) == "[...]\nthree"
    assert shortened("short\n") == "short"


def test_a_state_that_was_written_before_there_were_details_is_read() -> None:
    old = {"kind": "bug", "title": "t", "what_happened": "w", "what_to_do": "d"}
    state = RunState.model_validate_json(json.dumps({"created_at": 1.0, "status": "failed", "error": old}))
    assert state.error == ErrorReport(**old)
    assert state.error.details == ""


def test_every_kind_is_listed_in_the_documentation() -> None:
    """All words that the code gives as a kind of a report, and no others."""
    listed = set(re.findall(r"^\| `(\w+)`", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    package = DOCS.parents[1] / "gemma_ft"
    files = [*package.glob("*.py"), *(path for folder in REPORTING for path in (package / folder).glob("*.py"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    classes = set(re.findall(r'^    kind = "(\w+)"', text, re.MULTILINE))
    causes = set(re.findall(r'_Cause\(\s*"(\w+)"', text)) | set(re.findall(r'told = \("(\w+)"', text))
    given = set(re.findall(r'kind(?:=|": )"(\w+)"', text)) - WARNINGS
    assert classes | causes | given | {"no_model", "no_dataset", "install", "memory", "disk"} == listed


REPORTING = ("hub", "jobs", "train", "monitor")
WARNINGS = {"passed_over", "disk_full", "out_of_memory", "stopped_early", "best", "error"}
"""Kinds of warnings, which are not reports."""
