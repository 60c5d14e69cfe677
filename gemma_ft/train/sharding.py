"""A model whose weights are spread over the processes that train together (FSDP2), and what is gathered of it again.

Each process holds its part of every weight, of its gradient and of the optimizer's state; a layer is whole only while
it works. Promises the arithmetic of one process: weights that are kept in float32 and computed in bfloat16 are so here
too. On processors and on GPUs the same code runs. Checkpoints hold parts, and as many processes or others can go on
from them; the result is gathered whole. Neither trains nor decides whether weights are spread.

What is whole at once is a decoder layer, the tables that Gemma 3n and 4 have for their layers, or the rest: the
embeddings, which are the output layer too, and the last norm. The rest stays whole through a step. Towers, which no
text reaches, are never gathered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from gemma_ft.train import ranks
from gemma_ft.train.loading import towers

PARTS = "parts"
"""The folder in a checkpoint that holds weights and the optimizer's state, files of each process."""


def spread(model: Any, *, mixed: bool) -> None:
    """Spread a model, which may have an adapter around it, over all processes; all must have loaded the same weights.

    `mixed` says that layers compute in bfloat16 though what is trained in them is kept in float32. A model in the
    computer's memory comes to the GPU piece by piece.
    """
    in_layers = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    _spread(model, in_layers if mixed else MixedPrecisionPolicy(), rest_stays=True)
    register_fsdp_forward_method(model, "generate")


def spread_reference(model: Any) -> None:
    """Spread the model that full DPO compares with; it is never trained, so nothing of it stays whole."""
    _spread(model, MixedPrecisionPolicy(), rest_stays=False)


def _spread(model: Any, in_layers: MixedPrecisionPolicy, *, rest_stays: bool) -> None:
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (ranks.count(),))
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    language = getattr(inner.base_model, "language_model", inner.base_model)
    alone = [tower for tower in towers(inner).values() if next(tower.parameters(), None) is not None]
    if (tables := getattr(language, "embed_tokens_per_layer", None)) is not None:
        alone.append(tables)
    for part in alone:
        fully_shard(part, mesh=mesh)
    for layer in language.layers:
        fully_shard(layer, mesh=mesh, mp_policy=in_layers)
    fully_shard(model, mesh=mesh, reshard_after_forward=not rest_stays)


def is_spread(model: Any) -> bool:
    """Tell whether `spread` was done to a model."""
    return isinstance(model, FSDPModule)


def has_parts(folder: Path) -> bool:
    """Tell whether a checkpoint was written while the weights were spread."""
    return (folder / PARTS).is_dir()


def held(model: Any) -> int:
    """Return how many weights of a model that is spread this process holds."""
    _let_go(model)
    return sum(held_part(parameter).numel() for parameter in model.parameters())


def held_part(weight: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a weight: a part, or all of one that is not spread."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def gathered(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights of the result in one piece, in the computer's memory: an adapter's, or the whole model's.

    All processes have to call it. Only the main one gets them; the others get nothing.
    """
    _let_go(model)
    adapter_only = isinstance(model, PeftModel)
    found: dict[str, torch.Tensor] = {}
    known: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if adapter_only and "lora_" not in name:
            continue
        if (same := known.setdefault(id(value), name)) != name:
            if same in found:
                found[name] = found[same]
            continue
        whole = value.detach().full_tensor() if isinstance(value, DTensor) else value.detach()
        if ranks.is_main():
            found[name] = whole.cpu()
    return found


def save_parts(model: Any, optimizer: Any, folder: Path) -> None:
    """Write what is trained, and the optimizer's state, into a checkpoint. All processes have to call it."""
    _let_go(model)
    state = {"model": _trained(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    checkpoint.save(state, checkpoint_id=folder / PARTS)


def load_weights(model: Any, folder: Path) -> None:
    """Give the model the weights of a checkpoint. All processes have to call it."""
    _let_go(model)
    checkpoint.load({"model": _trained(model)}, checkpoint_id=folder / PARTS)


def load_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Give the optimizer the state of a checkpoint. All processes have to call it."""
    _let_go(model)
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    checkpoint.load(state, checkpoint_id=folder / PARTS)
    set_optimizer_state_dict(model, optimizer, optim_state_dict=state["optimizer"])


def _let_go(model: Any) -> None:
    """Give back what is gathered, so that the model's parameters are the parts that this process holds."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
