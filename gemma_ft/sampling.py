"""How the words of an answer are drawn: one value, shared by the page, the engine and the trainer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Temperature 0 takes the likeliest token, so the answer is the same each time; `top_p` is a share of 1."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
