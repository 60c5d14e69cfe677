"""The architecture as a test: which layer may import what, and what a fresh interpreter must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gemma_ft"

WORDS = {
    "config",
    "catalog",
    "recipes",
    "errors",
    "failures",
    "settings",
    "events",
    "rundir",
    "reference",
    "sampling",
    "redaction",
    "full_disk",
    "shape",
    "hardware",
    "knob",
    "webhook",
    "reactions",
    "sharing",
    "__init__",
}
TORCH = {"safetensors", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers"}
MAY_IMPORT: dict[str, tuple[set[str], set[str]]] = {
    **{word: (WORDS, {"pydantic", "annotated_types", "yaml"}) for word in WORDS},
    "data": (
        WORDS | {"hub"},
        {"datasets", "huggingface_hub", "numpy", "pyarrow", "fsspec", "tensorflow_datasets"},
    ),
    "estimate": (WORDS, set()),
    "monitor": (WORDS, {"psutil", "pynvml", "numpy", "orjson"}),
    "jobs": (WORDS | {"monitor", "estimate"}, {"psutil", "filelock", "httpx2"}),
    "hub": (WORDS, {"huggingface_hub"}),
    "check": (WORDS | {"data", "estimate", "hub"}, set()),
    "fit": (WORDS | {"estimate"}, set()),
    "doctor": (WORDS | {"data", "estimate", "hub", "monitor"}, set()),
    "train": (
        WORDS | {"data", "estimate", "hub", "monitor"},
        TORCH | {"huggingface_hub", "filelock", "jinja2", "psutil"},
    ),
    "engine": (WORDS | {"data", "estimate", "monitor", "hub", "train", "check", "doctor", "fit"}, TORCH),
    "ui": (
        WORDS | {"data", "estimate", "jobs", "monitor", "hub", "check", "engine.client"},
        {
            "gradio",
            "plotly",
            "starlette",
            "tensorboard",
            "a2wsgi",
            "werkzeug",
            "pydantic",
            "annotated_types",
            "numpy",
            "orjson",
        },
    ),
    "cli_storage": (WORDS | {"jobs", "monitor"}, {"typer"}),
    "__main__": (WORDS | {"jobs", "monitor", "check", "estimate", "engine.client", "cli_storage"}, {"typer"}),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which layer is meant"
            yield str(node.module)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations(path: Path) -> list[str]:
    ours, others = MAY_IMPORT[layer_of(path)]
    found = []
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        if top == "gemma_ft":
            inner = rest or "__init__"
            allowed = inner.split(".")[0] in ours | {layer_of(path)} or inner in ours
        else:
            allowed = top in others or top in sys.stdlib_module_names
        if not allowed:
            found.append(f"{path.relative_to(ROOT)} must not import {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_layer_imports_only_what_it_may(path: Path) -> None:
    assert violations(path) == []


def test_the_layer_test_sees_a_forbidden_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = PACKAGE / "ui" / "page.py"
    planted = tmp_path / "gemma_ft" / "ui" / "page.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(bad.read_text() + "\n\ndef later():\n    import torch\n    from gemma_ft.train import tuning\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "gemma_ft")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [line.rpartition(" ")[2] for line in violations(planted)] == ["torch", "gemma_ft.train"]


def test_the_engine_client_needs_only_the_standard_library() -> None:
    assert all(
        name.split(".")[0] in sys.stdlib_module_names
        or name.removeprefix("gemma_ft.") in {"errors", "rundir", "sampling"}
        for name in imports_of(PACKAGE / "engine" / "client.py")
    )


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("app", "torch"),
        ("app", "transformers"),
        ("app", "datasets"),
        ("app", "tensorboard"),
        ("app", "grpc"),
        ("gemma_ft.__main__", "torch"),
        ("gemma_ft.__main__", "gradio"),
        ("gemma_ft.jobs.supervisor", "httpx2"),
        ("gemma_ft.jobs.supervisor", "torch"),
        ("gemma_ft.jobs.supervisor", "gradio"),
    ],
)
def test_a_fresh_interpreter_does_not_load(module: str, forbidden: str) -> None:
    assert loads(module, forbidden) == "False"


@pytest.mark.train
@pytest.mark.parametrize(
    "module", ["gemma_ft.train.__main__", "gemma_ft.train.tuning", "gemma_ft.engine.chat", "gemma_ft.engine.data_room"]
)
def test_the_children_do_not_load_gradio(module: str) -> None:
    assert loads(module, "gradio") == "False"


def loads(module: str, other: str) -> str:
    """Import a module in a fresh interpreter and say whether another one came with it."""
    code = f"import sys, {module}; print({other!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip().splitlines()[-1]
