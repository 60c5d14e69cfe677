"""The head gives what the whole logits would give, for every family of Gemma, and never makes them.

Compared are losses, gradients and figures with those of transformers' own forward pass, in float32 on models of random
weights. The memory is measured as the largest tensor that any operation of a step returns, and as all that is alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl.trainer.utils import add_fused_lm_head

from gemma_families import FAMILIES
from gemma_ft.train import head
from gemma_ft.train.head import install_head, score

WORDS = 300
CAP = 1.5
"""Where the logits of the families that have a cap are capped: low enough for these small models to feel it."""
GEMMA_WORDS = 262_144
Batch = dict[str, Tensor]


HERE = [name for name, family in FAMILIES.items() if family.available]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on models this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(family: str, words: int = WORDS) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family].make(words)
    if family not in ("gemma3", "gemma3_vision"):
        model.config.get_text_config().final_logit_softcapping = CAP
    return model


def with_head(model: Any, outputs: tuple[str, ...] = ("log_probs", "entropy", "is_top1", "mean_logits")) -> Any:
    """Put TRL's head on a model, as its trainers do, and then this one in its place."""
    add_fused_lm_head(model, outputs=outputs)
    assert install_head(model)
    return model


def with_adapter(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = r"(?!.*(vision|audio|embed)).*\.(q_proj|o_proj|down_proj)"
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    assert not adapted.get_output_embeddings().weight.requires_grad
    return adapted


def make_batch(rows: int = 3, length: int = 24, words: int = WORDS, seed: int = 1) -> Batch:
    """Return rows of unequal lengths, of which the second half is trained."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, words, (rows, length), generator=draw)
    sizes = torch.randint(length // 2, length + 1, (rows, 1), generator=draw)
    place = torch.arange(length)
    real = place < sizes
    return {
        "input_ids": ids.masked_fill(~real, 0),
        "attention_mask": real.long(),
        "labels": ids.masked_fill(~real | (place < sizes // 2), -100),
    }


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_same_gradients(model: Any, first: Callable[[], Tensor], second: Callable[[], Tensor]) -> None:
    """Two losses of a model are the same, and so is what they ask of its weights."""
    losses, asked = [], []
    for loss_of in (first, second):
        loss = loss_of()
        loss.backward()
        losses.append(loss.detach())
        asked.append(gradients(model))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    assert asked[0].keys() == asked[1].keys()
    assert len(asked[0]) > 1
    for name, gradient in asked[0].items():
        torch.testing.assert_close(
            gradient, asked[1][name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def log_probs_of_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits before each target, and its log-probability; zero where nothing is trained."""
    given = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**given).logits[:, :-1].float()
    targets = batch["labels"][:, 1:]
    found = logits.log_softmax(-1).gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    return logits, found.masked_fill(targets == -100, 0)


@pytest.mark.parametrize("family", HERE)
@pytest.mark.parametrize("adapter", [False, True], ids=["every_weight", "adapter"])
def test_a_supervised_step_is_that_of_the_whole_logits(family: str, adapter: bool) -> None:
    model = with_head(make_model(family))
    model = with_adapter(model) if adapter else model
    batch = make_batch()
    assert_same_gradients(model, lambda: model(**batch).loss, lambda: model(**batch, fused_lm_head=True).loss)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_any_gradient_of_the_log_probabilities_is_exact(family: str) -> None:
    """As those of DPO: larger for some rows, smaller for others, of either sign."""
    for model in (with_head(make_model(family)), with_adapter(with_head(make_model(family)))):
        batch = make_batch(rows=4)
        factors = torch.tensor([[0.7], [-0.2], [1.5], [-2.0]])
        assert_same_gradients(
            model,
            lambda: (log_probs_of_logits(model, batch)[1] * factors).sum(),  # noqa: B023
            lambda: (model(**batch, fused_lm_head=True).log_probs * factors).sum(),  # noqa: B023
        )


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_the_figures_are_those_of_the_whole_logits_and_of_trl(family: str) -> None:
    model, batch = make_model(family), make_batch()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1", "mean_logits"))
    with torch.no_grad():
        trls = model(**batch, fused_lm_head=True)
        install_head(model)
        ours = model(**batch, fused_lm_head=True)
        logits, log_probs = log_probs_of_logits(model, batch)
    mask = batch["labels"][:, 1:] != -100
    spread = logits.log_softmax(-1)
    torch.testing.assert_close(ours.log_probs, log_probs)
    torch.testing.assert_close(ours.entropy, -(spread.exp() * spread).sum(-1).masked_fill(~mask, 0))
    torch.testing.assert_close(ours.mean_logits, logits.mean(-1).masked_fill(~mask, 0))
    for name in ("loss", "log_probs", "entropy", "mean_logits", "is_top1", "label_mask"):
        torch.testing.assert_close(ours[name], trls[name])


def test_micro_batches_of_unequal_size_add_up_to_one_batch() -> None:
    model = with_adapter(with_head(make_model("gemma2")))
    parts = [make_batch(rows=2, seed=2), make_batch(rows=1, seed=3), make_batch(rows=3, seed=4)]
    counts = [int((part["labels"][:, 1:] != -100).sum()) for part in parts]
    assert len(set(counts)) == 3
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def in_parts() -> Tensor:
        return sum(model(**part, fused_lm_head=True, num_items_in_batch=sum(counts)).loss for part in parts)

    assert_same_gradients(model, lambda: model(**whole).loss, in_parts)


def test_a_batch_in_which_nothing_is_trained_gives_a_zero_with_gradients() -> None:
    model = with_adapter(with_head(make_model("gemma3")))
    batch = make_batch()
    batch["labels"].fill_(-100)
    loss = model(**batch, fused_lm_head=True).loss
    loss.backward()
    found = gradients(model)
    assert loss == 0
    assert len(found) > 1
    assert all(not gradient.any() for gradient in found.values())


def test_gradient_checkpointing_changes_nothing() -> None:
    model = with_adapter(with_head(make_model("gemma3")))
    model.train()
    batch = make_batch()

    def checkpointed() -> Tensor:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return model(**batch, fused_lm_head=True).loss

    assert_same_gradients(model, lambda: model(**batch, fused_lm_head=True).loss, checkpointed)


def test_half_the_bits_compute_in_half_the_bits_and_sum_in_all() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(90, 64), torch.randn(500, 64) / 8, torch.randint(500, (90,))
    wanted = (hidden @ weight.T).log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    states = hidden.bfloat16().requires_grad_()
    found = score(states, weight.bfloat16(), targets).log_probs
    found.sum().backward()
    assert (found.dtype, states.grad.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(score(hidden, weight, targets).log_probs, found)


def test_generating_goes_on_as_before() -> None:
    model = make_model("gemma3").eval()
    asked = torch.tensor([[2, 17, 40, 33]])
    before = model.generate(asked, max_new_tokens=5, do_sample=False)
    after = with_adapter(with_head(model)).eval()
    with after.disable_adapter():
        assert torch.equal(after.generate(input_ids=asked, max_new_tokens=5, do_sample=False), before)


class Memory(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation returns, and the most bytes alive at once."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self.known = weakref.WeakSet(parameter.untyped_storage() for parameter in model.parameters())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            self.largest = max(self.largest, tensor.numel())
            storage = tensor.untyped_storage()
            if storage not in self.known:
                self.known.add(storage)
                self.add(storage.nbytes())
                weakref.finalize(storage, self.add, -storage.nbytes())
        return result

    def add(self, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)


def memory_of_a_step(model: Any, batch: Batch, **more: Any) -> Memory:
    with Memory(model) as memory:
        model(**batch, **more).loss.backward()
    gradients(model)
    return memory


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_the_whole_logits_are_never_made(family: str) -> None:
    model = with_adapter(with_head(make_model(family, GEMMA_WORDS)))
    batch = make_batch(rows=2, length=200, words=GEMMA_WORDS)
    trained = int((batch["labels"][:, 1:] != -100).sum())
    assert trained > head.FEWEST
    ours = memory_of_a_step(model, batch, fused_lm_head=True)
    whole = memory_of_a_step(model, batch)
    assert ours.largest == head.CHUNK_BYTES // 4 == head.FEWEST * GEMMA_WORDS < trained * GEMMA_WORDS
    assert whole.largest >= 400 * GEMMA_WORDS
    assert ours.peak < 2 * head.CHUNK_BYTES + 10e6
    assert ours.peak < 0.2 * whole.peak
