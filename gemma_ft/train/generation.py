"""One answer of a model to a conversation, in pieces as it comes.

Promises the model's own chat template and stop tokens, greedy answers at temperature 0, and the same answer for the
same seed otherwise. Leaves the model in the mode (training or not) in which it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextStreamer

from gemma_ft.data.samples import Conversation
from gemma_ft.sampling import Sampling
from gemma_ft.train import ranks
from gemma_ft.train.encode import encode_prompt


class _Pieces(TextStreamer):
    """Hands over each piece of text when it can no longer change."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._on_text(text)


class _Stop(StoppingCriteria):
    """Ends the answer when the caller says so."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self._should_stop(), device=input_ids.device)


class _AsMain(LogitsProcessor):
    """Has every process choose its next token by the scores of the main one, so that none goes on alone."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return ranks.as_main(scores)


def answer(
    model: Any,
    tokenizer: Any,
    conversation: Conversation,
    sampling: Sampling,
    *,
    on_text: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
    together: bool = False,
) -> tuple[str, int]:
    """Return the answer and its number of tokens; `on_text` gets it in pieces, `should_stop` can end it early.

    A model whose weights are spread answers `together`: all processes call this, and `should_stop` says the same in
    each.
    """
    prompt = torch.tensor([encode_prompt(conversation, tokenizer)], device=model.device)
    chance: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampling.temperature > 0:
        chance = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(sampling.seed)
            output = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=sampling.max_new_tokens,
                streamer=_Pieces(tokenizer, on_text),
                stopping_criteria=StoppingCriteriaList([_Stop(should_stop)]),
                logits_processor=LogitsProcessorList([_AsMain()] if together else []),
                pad_token_id=tokenizer.pad_token_id,
                **chance,
            )
    finally:
        model.train(was_training)
    new = output[0, prompt.shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)), len(new)
