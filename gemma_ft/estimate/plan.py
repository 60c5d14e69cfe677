"""How many steps a run makes, how many tokens it works through, and how long and how much disk that takes.

Promises exact steps, and a range of seconds: the arithmetic of training over what the processor or GPU can do at best,
times the share of it that training usually reaches. That share differs by more than twofold between machines, so the
range is wide on purpose. Loading, downloading and evaluating are not in it. Measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma_ft.config import RunConfig
from gemma_ft.estimate.memory import (
    decide_checkpointing,
    decide_sharding,
    formats,
    optimizer_bytes,
    part_of_one,
    trained_weights,
)
from gemma_ft.estimate.workload import Workload, padded_mean, sequences, sequences_per_row
from gemma_ft.hardware import Gpu, Machine
from gemma_ft.shape import ModelShape
from gemma_ft.sharing import processes_for

TERA, GIGA = 1e12, 1e9
PEAKS = (
    ("rtx pro 6000", 252),
    ("h200", 989),
    ("h100", 989),
    ("b200", 2250),
    ("a100", 312),
    ("l40s", 362),
    ("l40", 181),
    ("l4", 121),
    ("a10g", 70),
    ("a10", 125),
    ("a40", 150),
    ("a6000", 155),
    ("v100", 125),
    ("t4", 65),
    ("rtx 5090", 210),
    ("rtx 4090", 165),
    ("rtx 4080", 97),
    ("rtx 3090", 71),
    ("rtx 3080", 60),
)
"""Dense tera-operations per second in 16 bits with sums in float32, by NVIDIA's data sheets; the first name found
counts."""
PEAKS_FLOAT32 = (("v100", 15.7), ("t4", 8.1), ("p100", 9.3))
"""The same in float32, for cards that do not compute bfloat16 natively."""
BY_CAPABILITY = {7: 60.0, 8: 80.0, 9: 600.0, 10: 1200.0, 12: 150.0}
"""For cards nobody listed, by the first number of their compute capability."""
FLOAT32_SHARE = 0.12
"""Of the speed in 16 bits, for cards that are not in `PEAKS_FLOAT32`, and for `precision: float32`."""
EFFICIENCY = (0.15, 0.45)
"""Share of the peak that training reaches."""
CORE = (6 * GIGA, 40 * GIGA)
"""Operations per second of one processor core in float32, in small models and in large ones."""
IN_4_BITS = (1.2, 1.8)
"""How many times longer QLoRA takes, for unpacking weights."""
TOGETHER, SPREAD = (1.0, 1.3), (1.1, 2.0)
"""How many times longer a step takes for what GPUs tell each other, with copies of the weights and with parts. Rules of
thumb: how fast they are connected counts for most of it."""
STEP_OVERHEAD = (0.02, 0.15)
"""Seconds of a batch that do not depend on its size."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of the optimizer, tokens that go through the model (padding included) and that are learned; seconds from
    low to high; bytes of one checkpoint, of all the disk that the run needs, and of the download of the model.
    """

    steps: int
    tokens: int
    supervised_tokens: int
    seconds_low: float
    seconds_high: float
    checkpoint_bytes: int
    disk_bytes: int
    download_bytes: int


def optimizer_steps(config: RunConfig, rows: int) -> int:
    """Return how many optimizer steps the run makes on so many rows, or packed sequences."""
    training = config.training
    if training.max_steps:
        return training.max_steps
    per_epoch = -(-rows // (training.batch_size * training.accumulation))
    return max(1, -(-int(per_epoch * training.epochs * 1000) // 1000))


def plan_run(config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine) -> Plan:
    """Return what the run will take on the GPUs that it uses or, without one, the processor."""
    part = part_of_one(config, machine)
    places = sequences(config, workload)
    steps = optimizer_steps(config, places)
    rows = min(steps * config.training.batch_size * config.training.accumulation, _rows_at_most(config, places))
    passing = rows * sequences_per_row(config)
    tokens = int(passing * padded_mean(part, workload))
    packed = workload.train_rows / places if config.training.packing else 1.0
    low, high = _seconds(config, shape, workload, machine, tokens, steps)
    weights = result_bytes(config, shape, machine)
    checkpoint = weights + optimizer_bytes(config, shape, formats(config, machine).trained)
    return Plan(
        steps=steps,
        tokens=tokens,
        supervised_tokens=int(passing * packed * workload.mean_supervised),
        seconds_low=low,
        seconds_high=high,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (config.training.keep_checkpoints + 1) + weights,
        download_bytes=2 * shape.parameters,
    )


def operations_per_token(config: RunConfig, shape: ModelShape, length: float, *, checkpointing: bool) -> float:
    """Return the arithmetic of one token of a sequence of `length` tokens, forward and backward.

    2 for each weight forward, 2 for the gradients of activations, 2 for those of weights when they are trained
    (https://arxiv.org/abs/2001.08361, section 2.1), and 2 more when the forward pass is done again. Attention adds
    4 x width x reach forward. DPO's reference adds a forward pass.
    """
    times = 6.0 if config.method.adapter == "none" else 4.0
    times += 2.0 * checkpointing + 2.0 * (config.method.objective == "dpo")
    sliding = shape.layers - shape.full_attention_layers
    reach = shape.full_attention_layers * length / 2 + sliding * min(length / 2, shape.window or length)
    attention = 4.0 * shape.heads * shape.head_dim * reach
    return times * shape.active + times / 2 * attention


def peak_operations(gpu: Gpu, *, half: bool) -> float:
    """Return the operations per second that a GPU can do at best, in 16 bits when it computes in `half` precision."""
    name = gpu.name.lower()
    fast = next((value for part, value in PEAKS if part in name), BY_CAPABILITY.get(gpu.capability[0], 60.0))
    if half:
        return fast * TERA
    known = next((value for part, value in PEAKS_FLOAT32 if part in name), None)
    return (known or fast * FLOAT32_SHARE) * TERA


def _rows_at_most(config: RunConfig, places: int) -> int:
    """Return how many rows the epochs have; `max_steps` may go beyond them, round and round."""
    if config.training.max_steps:
        return config.training.max_steps * config.training.batch_size * config.training.accumulation
    return max(1, int(places * config.training.epochs))


def _seconds(
    config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine, tokens: int, steps: int
) -> tuple[float, float]:
    checkpointing = decide_checkpointing(config, shape, workload, machine)
    part, gpus = part_of_one(config, machine), processes_for(config, machine) if machine.gpus else 1
    length = padded_mean(part, workload)
    work = tokens * operations_per_token(config, shape, length, checkpointing=checkpointing) / gpus
    telling = SPREAD if decide_sharding(config, shape, workload, machine) else TOGETHER if gpus > 1 else (1.0, 1.0)
    if machine.gpus:
        gpu = machine.gpus[0]
        peak = peak_operations(gpu, half=formats(config, machine).kind != "float32")
        slow, fast = peak * EFFICIENCY[0], peak * EFFICIENCY[1]
    else:
        slow, fast = CORE[0] * machine.cores, CORE[1] * machine.cores
    unpacking = IN_4_BITS if config.method.adapter == "qlora" else (1.0, 1.0)
    batches = steps * part.training.accumulation
    low = work / fast * unpacking[0] * telling[0] + STEP_OVERHEAD[0] * batches
    return low, work / slow * unpacking[1] * telling[1] + STEP_OVERHEAD[1] * batches


def result_bytes(config: RunConfig, shape: ModelShape, machine: Machine) -> int:
    """Return the bytes of the weights that a checkpoint or the result holds: an adapter, or the whole model."""
    if config.method.adapter == "none":
        return shape.parameters * formats(config, machine).trained
    return 4 * trained_weights(config, shape)
