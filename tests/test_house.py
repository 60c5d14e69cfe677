"""The house rules that a program can check: modules say what they are for, stay small, and tests use the real thing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "app.py", *sorted((ROOT / "gemma_ft").rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES = 400, 80


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is_for_and_stays_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert text.count("\n") <= MOST_LINES
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > MOST_FUNCTION_LINES]
    assert long == []


def test_the_readme_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name_of(path) for path in SOURCES if path.name != "__init__.py" and path.name not in readme]
    assert missing == []


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_use_the_real_thing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = {str(getattr(node, "module", "")) for node in ast.walk(ast.parse(text))}
    assert not any("mock" in module for module in imported)
    if path.name != "conftest.py":
        assert not re.search(r"^\s*time\.sleep\(", text, re.MULTILINE), "wait for a condition instead"


def test_the_errors_are_drawn_as_they_are() -> None:
    """The tree in the docstring of `errors` names exactly its classes."""
    from gemma_ft import errors

    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"GemmaFtError"}
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.GemmaFtError)
    }
    assert drawn == defined
