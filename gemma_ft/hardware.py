"""What a run has to run on, in plain figures: the machine at hand, or one that can be rented.

Promises nothing about where the figures come from: `monitor/hardware.py` reads this machine, `estimate/flavours.py`
knows those of Hugging Face. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

AMPERE = (8, 0)
"""The first CUDA compute capability with native bfloat16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One NVIDIA GPU. `free` is what nobody uses now; `capability` is CUDA's compute capability."""

    name: str
    memory: int
    free: int
    capability: tuple[int, int]

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes bfloat16 natively; older cards imitate it, slowly."""
        return self.capability >= AMPERE


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A computer: its GPUs (none means that the processor trains), processor cores, memory and disk."""

    name: str
    gpus: tuple[Gpu, ...]
    cores: int
    memory: int
    memory_free: int
    disk_free: int

    @property
    def has_bfloat16(self) -> bool:
        """Whether the first GPU has it; a processor counts as not having it."""
        return bool(self.gpus) and self.gpus[0].has_bfloat16
