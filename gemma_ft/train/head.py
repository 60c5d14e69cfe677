"""The model's output head and its loss, without the logits of a whole batch ever existing.

A Gemma has 262,144 words: the logits of 2,048 positions are 2 GiB in float32. TRL gives the model a head that works in
pieces; away from CUDA and XPU it also scores the positions that are not trained, and computes the logits twice. The
head here takes over what TRL asks of it (`model(..., labels=labels, fused_lm_head=True)`), and promises:

* only positions whose next token is trained are scored, a chunk at a time; no buffer grows with their number times the
  vocabulary;
* the logits are computed once when the words' weights are frozen, as with an adapter, and twice when they are trained;
* the gradients are exact, for any gradient of the log-probabilities: a supervised loss is a mean of them, DPO is not;
* projections are done in the number format of the weights or of autocast, everything after them in float32;
* a batch in which nothing is trained gives a zero that can be differentiated.

It leaves a GPU alone unless it is asked, because TRL has Triton kernels there and this was measured on CPUs only. It
changes nothing about a call without `fused_lm_head`, such as those of `generate`. It does not do what the Gemmas do not
need: biases, scaled logits, the load-balancing loss of mixtures, labels that are shifted already; a call that asks for
one of the last two gets TRL's own head.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from gemma_ft.train.encode import IGNORED

CHUNK_BYTES = 64 * 2**20
"""The size of one float32 buffer of logits, and there are two; a chunk has at least `FEWEST` positions."""
FEWEST = 64


@dataclass(frozen=True, slots=True)
class Scores:
    """What is known of each of N scored positions, float32 except for `top1`.

    `log_probs` are the log-probabilities of the targets and the only part with a gradient. `entropy` is that of the
    distribution in nats, `top1` whether the target is the likeliest word, `mean_logits` the mean over the vocabulary.
    """

    log_probs: Tensor
    entropy: Tensor
    top1: Tensor
    mean_logits: Tensor


def install_head(model: Any, *, anywhere: bool = False) -> bool:
    """Replace TRL's head of a causal language model by this one; return whether that was done.

    Call it once a trainer of TRL was made, with its model, which may have an adapter around it, and with the reference
    model of DPO if there is one. Away from the CPU nothing is done unless `anywhere`.
    """
    if isinstance(model, PeftModel):
        model = model.get_base_model()
    weight = model.get_output_embeddings().weight
    if weight.device.type != "cpu" and not anywhere:
        return False
    trls = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **given: Any) -> Any:
        if not fused_lm_head:
            return trls(*args, **given) if labels is None else trls(*args, labels=labels, **given)
        if labels is None or given.get("shift_labels") is not None or given.get("output_router_logits"):
            return trls(*args, fused_lm_head=True, labels=labels, **given)
        count = given.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **{**given, "use_cache": False}).last_hidden_state
        return _scored(self, hidden, labels, count)

    model.forward = types.MethodType(forward, model)
    return True


def _scored(model: Any, hidden: Tensor, labels: Tensor, count: Tensor | int | None) -> FusedCausalLMOutput:
    """Score the trained positions of `hidden` (rows x length x width) and lay the scores out as TRL does."""
    weight = model.get_output_embeddings().weight
    hidden, targets = hidden[:, :-1].to(weight.device), labels[:, 1:].to(weight.device)
    mask = targets != IGNORED
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    found = score(hidden[mask], weight, targets[mask], cap)

    def laid_out(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    log_probs = laid_out(found.log_probs)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / (mask.sum().clamp(min=1) if count is None else count),
        log_probs=log_probs,
        entropy=laid_out(found.entropy),
        mean_logits=laid_out(found.mean_logits),
        is_top1=laid_out(found.top1),
        label_mask=mask,
    )


def score(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None = None) -> Scores:
    """Return the scores of `targets` (N) after the states `hidden` (N x width); `weight` is words x width.

    `cap` soft-caps the logits y to cap * tanh(y / cap), as Gemma 2 (arXiv:2408.00118, section 2), 3n and 4 do.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(kind, enabled=False):
        return Scores(*_Score.apply(hidden.to(weight.dtype), weight, targets, cap, torch.is_grad_enabled()))


class _Score(torch.autograd.Function):
    """Log-probabilities and figures about them, chunk by chunk.

    A log-probability depends on its own state only. So its gradient with respect to that state can be computed while
    the logits are at hand, and be multiplied later by whatever gradient comes in. The gradient of the weights is a sum
    over positions and has to wait for it: the logits are computed again then.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None, differentiate: bool
    ) -> tuple[Tensor, ...]:
        log_probs, entropy, mean_logits = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3))
        top1 = targets.new_empty(len(hidden), dtype=torch.bool)
        slope = torch.empty_like(hidden) if differentiate and ctx.needs_input_grad[0] else None
        for chunk in _chunks(hidden, weight, targets, cap):
            part = chunk.part
            log_probs[part], entropy[part], top1[part], mean_logits[part] = chunk.scores()
            if slope is not None:
                torch.mm(chunk.slope().to(weight.dtype), weight, out=slope[part])
        ctx.save_for_backward(hidden, weight, targets, slope)
        ctx.cap = cap
        ctx.mark_non_differentiable(entropy, top1, mean_logits)
        return log_probs, entropy, top1, mean_logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, slope = ctx.saved_tensors
        incoming = gradients[0].unsqueeze(1)
        to_hidden = (slope * incoming).to(hidden.dtype) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight, dtype=torch.float32)
            for chunk in _chunks(hidden, weight, targets, ctx.cap):
                chunk.scores()
                to_weight.addmm_(chunk.slope().t(), hidden[chunk.part] * incoming[chunk.part])
            to_weight = to_weight.to(weight.dtype)
        return to_hidden, to_weight, None, None, None


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The logits of some positions, and as much room again; both are overwritten on the way."""

    part: slice
    logits: Tensor
    room: Tensor
    targets: Tensor
    cap: float | None

    def scores(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log-probability, entropy, whether no word is likelier, and mean logit; leave the probabilities."""
        logits, probabilities = self.logits, self.room
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        mean = logits.mean(1)
        highest = logits.amax(1)
        torch.sub(logits, highest.unsqueeze(1), out=probabilities).exp_()
        total = probabilities.sum(1)
        probabilities.div_(total.unsqueeze(1))
        normaliser = highest + total.log()
        # One dot product for each position reads the two once; a product of the whole would need a third buffer.
        expected = torch.stack([row.dot(other) for row, other in zip(probabilities, logits, strict=True)])
        own = logits.gather(1, self.targets.unsqueeze(1)).squeeze(1)
        return own - normaliser, normaliser - expected, own == highest, mean

    def slope(self) -> Tensor:
        """Return the gradient of the log-probabilities with respect to the logits before the cap."""
        slope = self.room.neg_()
        rows = torch.arange(len(slope), device=slope.device)
        slope[rows, self.targets] += 1
        if self.cap is not None:
            bent = self.logits.div_(self.cap).square_()
            slope.addcmul_(slope, bent, value=-1)
        return slope


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None) -> Iterator[_Chunk]:
    """Yield all positions in chunks, each in the same memory: a chunk is no longer valid when the next one is there."""
    words = len(weight)
    positions = min(len(hidden), max(FEWEST, CHUNK_BYTES // (4 * words)))
    logits, room = (hidden.new_empty(positions, words, dtype=torch.float32) for _ in range(2))
    projected = logits if weight.dtype == torch.float32 else hidden.new_empty(positions, words)
    for start in range(0, len(hidden), max(positions, 1)):
        part = slice(start, min(start + positions, len(hidden)))
        size = part.stop - start
        torch.mm(hidden[part], weight.t(), out=projected[:size])
        if projected is not logits:
            logits[:size].copy_(projected[:size])
        yield _Chunk(part, logits[:size], room[:size], targets[part], cap)
