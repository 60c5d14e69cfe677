"""Every knob as a page of Markdown, made from the declarations; `docs/config.md` is a copy that a test compares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from gemma_ft.config import RunConfig, choices, knobs

HEAD = """# Every setting of a run

A run is one YAML or JSON file; what is left out has the default given here. Unknown keys are an error.
This page is made by `python -m gemma_ft knobs`.
"""
WORDS = {Ge: "at least", Gt: "more than", Le: "at most"}


def reference() -> str:
    """Return the page."""
    lines = [HEAD]
    section = None
    for path, declared in knobs():
        here = path.rpartition(".")[0]
        if here != section:
            lines += [
                f"\n## {here or 'The run'}\n",
                f"{_about(here)}\n",
                "| setting | default | allowed | what it does |",
            ]
            lines += ["|---|---|---|---|"]
            section = here
        shown = json.dumps(declared.default, ensure_ascii=False)
        lines.append(f"| `{path}` | `{shown}` | {', '.join(_allowed(declared))} | {declared.description} |")
    return "\n".join(lines) + "\n"


def _about(section: str) -> str:
    kind = RunConfig.model_fields[section].annotation if section else RunConfig
    return (kind.__doc__ or "").strip() if isinstance(kind, type) else ""


def _allowed(declared: FieldInfo) -> Iterator[str]:
    """Yield the choices or the bounds of a knob, and its unit."""
    yield from (f"`{choice}`" for choice in choices(declared))
    for limit in declared.metadata:
        if isinstance(limit, Ge | Gt | Le):
            yield f"{WORDS[type(limit)]} {getattr(limit, type(limit).__name__.lower())}"
    extra = declared.json_schema_extra
    if isinstance(extra, Mapping) and extra.get("unit"):
        yield str(extra["unit"])
