"""Training steps of small Gemmas in this process, with the bytes that they take; run as a program, JSON in and out.

A dispatch mode sees every tensor that an operation of PyTorch returns and learns when its storage is freed: exact, and
the same on every run. What operations use inside is seen by the peak of the resident memory only.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gemma_ft.config import RunConfig

STEPS = 2
"""The second step is the one to look at: the optimizer's state is there."""


class Live(TorchDispatchMode):
    """The bytes of all storages that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def add(self, value: object) -> None:
        if not isinstance(value, torch.Tensor):
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_iter(found):
            self.add(value)
        return found


def bytes_of(tensors: Any) -> int:
    """Return the bytes of tensors; those that share a storage count once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def weights_and_tables(model: Any) -> list[torch.Tensor]:
    """Return the parameters, and the tables of 4-bit ones."""
    found = list(model.parameters())
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found += [state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset]
    return found


def measure(text_config: dict[str, Any], config: RunConfig, length: int, supervised: int) -> dict[str, Any]:
    """Train for two steps on rows of `length` tokens, the last `supervised` of which are learned."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    from gemma_ft.train.inspection import shape_of
    from gemma_ft.train.loading import load_for_training, load_reference

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    family = AutoConfig.for_model(**text_config)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(family, dtype=torch.float32).save_pretrained(folder)
        before = resident()
        model = load_for_training(Path(folder), config)
        full_dpo = config.method.objective == "dpo" and config.method.adapter == "none"
        reference = load_reference(Path(folder), config) if full_dpo else None
    found = _steps(model, reference, config, length, supervised)
    return {**found, "shape": asdict(shape_of(family)), "before": before, "peak_rss": peak_resident()}


def _steps(model: Any, reference: Any, config: RunConfig, length: int, supervised: int) -> dict[str, Any]:
    from peft import get_peft_model

    from gemma_ft.train.head import install_head
    from gemma_ft.train.loading import adapter_for

    model.config.use_cache = False
    adapter = adapter_for(model, config.method)
    checkpointing = config.training.gradient_checkpointing == "on"
    if adapter is not None:
        model = get_peft_model(model, adapter)
        if checkpointing:
            model.enable_input_require_grads()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    install_head(model)
    if reference is not None:
        install_head(reference)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(trained, config)
    live = Live()
    others = [*(reference.parameters() if reference is not None else [])]
    for tensor in [*weights_and_tables(model), *model.buffers(), *others]:
        live.add(tensor)
    start = live.now
    pairs = config.method.objective == "dpo"
    half = config.model.precision == "bfloat16"
    grads = 0
    with live, torch.autocast("cpu", torch.bfloat16, enabled=half):
        for _ in range(STEPS):
            for _ in range(config.training.accumulation):
                batch = _batch(config.training.batch_size * (1 + pairs), length, supervised, model.config)
                _loss(model, reference, batch, pairs=pairs).backward()
                del batch
            grads = bytes_of(parameter.grad for parameter in trained if parameter.grad is not None)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
    state = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, torch.Tensor)]
    adapters = bytes_of(trained) if adapter is not None else 0
    return {
        "weights": bytes_of(weights_and_tables(model)) - adapters,
        "adapter": adapters,
        "gradients": grads,
        "optimizer": bytes_of(value for value in state if value.ndim),
        "start": start,
        "peak": live.peak,
    }


def _optimizer(trained: list[Any], config: RunConfig) -> Any:
    if config.training.optimizer == "adafactor":
        from transformers import Adafactor

        return Adafactor(trained, lr=1e-4, relative_step=False, scale_parameter=False)
    return torch.optim.AdamW(trained, lr=1e-4, fused=True)


def _batch(rows: int, length: int, supervised: int, config: Any) -> dict[str, torch.Tensor]:
    """Return rows of which all but the first are a little shorter, as rows of a batch are."""
    ids = torch.randint(3, config.get_text_config().vocab_size, (rows, length))
    mask = torch.ones_like(ids)
    mask[1:, -3:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : length - supervised] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _loss(model: Any, reference: Any, batch: dict[str, torch.Tensor], *, pairs: bool) -> torch.Tensor:
    """Return the supervised loss, or that of DPO (https://arxiv.org/abs/2305.18290, equation 7, beta 0.1)."""
    found = model(**batch, fused_lm_head=True)
    if not pairs:
        return found.loss
    with torch.no_grad():
        if reference is not None:
            base = reference(**batch, fused_lm_head=True)
        else:
            with model.disable_adapter():
                base = model(**batch, fused_lm_head=True)
    chosen, rejected = (found.log_probs - base.log_probs).sum(1).chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    for asked in json.loads(sys.argv[1]):
        given = RunConfig.model_validate(asked["config"])
        print(json.dumps(measure(asked["model"], given, asked["length"], asked["supervised"])), flush=True)
