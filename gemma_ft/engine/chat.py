"""Answers of a run's base and tuned model to the same conversation.

Promises that both sides come from one loaded model when the run made an adapter (it is switched off for the base),
that only one run's models are in memory at a time, and that what is called tuned was answered with the tuned weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from gemma_ft.data.samples import Conversation
from gemma_ft.errors import EngineError
from gemma_ft.rundir import RunDir
from gemma_ft.sampling import Sampling
from gemma_ft.settings import Settings
from gemma_ft.train.generation import answer
from gemma_ft.train.loading import load_model, load_result
from gemma_ft.train.resolve import resolve_model
from gemma_ft.train.tokenizer import load_tokenizer

Side = Literal["base", "tuned"]


class Pair:
    """A run's base and tuned model, loaded."""

    def __init__(self, run: RunDir, hub_token: str | None) -> None:
        if not run.model.is_dir():
            raise EngineError(f"The run {run.run_id} has no finished model.", "Choose a run that has finished.")
        config = run.config()
        base = resolve_model(
            config.model, Settings.from_env().models, enter=_ignore, report=_ignore, hub_token=hub_token
        )
        self.run_id = run.run_id
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tuned, self._tokenizer = load_result(base, run.model, config)
        self._tuned.to(device)
        self._has_adapter = config.method.adapter != "none"
        self._base = None if self._has_adapter else load_model(base, config.model.precision).eval().to(device)
        self._base_tokenizer = self._tokenizer if self._has_adapter else load_tokenizer(base)

    def answer(
        self,
        side: Side,
        conversation: Conversation,
        sampling: Sampling,
        *,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> tuple[str, int]:
        """Return one side's answer and its number of tokens, streaming it to `on_text`."""
        with self._speaker(side) as (model, tokenizer):
            return answer(model, tokenizer, conversation, sampling, on_text=on_text, should_stop=should_stop)

    @contextmanager
    def _speaker(self, side: Side) -> Iterator[tuple[Any, Any]]:
        if side == "base" and self._base is not None:
            yield self._base, self._base_tokenizer
            return
        with self._tuned.disable_adapter() if side == "base" else nullcontext():
            yield self._tuned, self._tokenizer


class ChatRoom:
    """Keeps the last run's models loaded."""

    def __init__(self) -> None:
        self._pair: Pair | None = None

    def pair(self, run_path: str, hub_token: str | None) -> Pair:
        """Return the models of a run, loading them if another run's were loaded. Raises `EngineError`, `ModelError`."""
        run = RunDir(Path(run_path))
        if self._pair is None or self._pair.run_id != run.run_id:
            self._pair = None
            self._pair = Pair(run, hub_token)
        return self._pair


def _ignore(*_: object) -> None:
    """Loading for a chat has no bar of its own."""
