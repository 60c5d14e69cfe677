"""What a setting of a run is declared with: `knob` for one, `Section` for those that belong together.

Promises nothing about a setting's meaning; the settings themselves stand in `config.py` and `webhook.py`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def knob(default: Any, text: str, *, unit: str = "", **limits: Any) -> Any:
    """Declare one setting: its default, its help in one line, its unit, and its limits (`ge`, `gt`, `le`, `lt`)."""
    return Field(default=default, description=text, json_schema_extra={"unit": unit}, **limits)


class Section(BaseModel):
    """Base of the sections: frozen, and a key nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
