"""Alert rules on the machine: memory, disk, and what the GPUs do.

Promises that a figure which is not there (no GPU, a card that does not report it) is no alarm, and that a short peak
is none: each rule waits, and waits as long until it takes its word back.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemma_ft.events import Fact
from gemma_ft.monitor.rules import Lasting, Rule, Sample, Setup, number

GB = 1e9
CHECKPOINT_BYTES_PER_WEIGHT = 12
"""A trained weight in float32 and AdamW's two numbers for it."""


class MemoryFull(Rule):
    """The next allocation may end the run."""

    name = "memory_full"
    severity = "critical"
    title = "The machine's memory is nearly full"
    why = (
        "Above 95 % for 10 seconds, of what this container may use: what can be given back (the cache of files) does "
        "not count as used, and the kernel kills a process soon after. Over after 10 seconds below 90 %."
    )
    advice = (
        "The system may end the training at any moment. Save a checkpoint, end other programs, and resume with a "
        "smaller batch or a shorter maximum length if it was the training."
    )
    SECONDS, WRONG, RIGHT = 10.0, 0.95, 0.90

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._full = Lasting(self.SECONDS)

    def look(self, sample: Sample, now: float) -> None:
        """Compare used with total."""
        share = _share(sample.get("memory_used"), sample.get("memory_total"))
        if share is None:
            return
        on = self._full.add(now, wrong=share > self.WRONG, right=share < self.RIGHT)
        if on and not self.found:
            used, total = (float(sample[name]) / GB for name in ("memory_used", "memory_total"))
            share_of_run = sample.get("own")
            own = number(share_of_run.get("memory_used")) if isinstance(share_of_run, dict) else None
            by = f", {own / GB:.1f} GB of it by this run" if own is not None else ""
            self.found = f"{used:.1f} of {total:.1f} GB ({share:.0%}) are in use{by}."
        elif not on:
            self.found = ""


class GpuMemoryFull(Rule):
    """A longer batch may not fit."""

    name = "gpu_memory_full"
    severity = "warning"
    title = "A GPU's memory is nearly full"
    why = (
        "Above 98 % for a minute. PyTorch keeps what it once had, so 90 % and more are healthy; at 98 % a longer batch "
        "may not fit. Over after a minute below 95 %."
    )
    advice = (
        "If memory runs out, a run on one GPU goes on with smaller batches (`training.on_out_of_memory`). To be safe, "
        "halve the batch and double the accumulation, or end other programs on this GPU."
    )
    SECONDS, WRONG, RIGHT = 60.0, 0.98, 0.95

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._full = Lasting(self.SECONDS)

    def look(self, sample: Sample, now: float) -> None:
        """Compare used with total on the fullest GPU."""
        shares = [
            (share, place)
            for place, gpu in _gpus(sample)
            if (share := _share(gpu.get("memory_used"), gpu.get("memory_total"))) is not None
        ]
        if not shares:
            return
        share, place = max(shares)
        on = self._full.add(now, wrong=share > self.WRONG, right=share < self.RIGHT)
        if on and not self.found:
            self.found = f"{share:.1%} of the memory of GPU {place} have been in use for a minute."
        elif not on:
            self.found = ""


class DiskFull(Rule):
    """The next checkpoint may not fit."""

    name = "disk_full"
    severity = "critical"
    title = "The disk is nearly full"
    why = (
        "Less free than 1 GB, or than two checkpoints of this run need (12 bytes a trained weight, with the "
        "optimizer): one that is written while the old ones are still there, and the result. A share of the disk "
        "would say nothing about that. For 3 seconds; over after 3 seconds with a tenth more."
    )
    advice = "Delete old runs, checkpoints or downloads, or lower `training.keep_checkpoints`."
    SECONDS, LEAST, CHECKPOINTS, RIGHT = 3.0, 1e9, 2, 1.1

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._full = Lasting(self.SECONDS)
        self._checkpoint = 0.0

    def take(self, fact: Fact) -> None:
        """Learn how large a checkpoint is."""
        if fact.get("event") == "model":
            self._checkpoint = (number(fact.get("trained")) or 0.0) * CHECKPOINT_BYTES_PER_WEIGHT

    def look(self, sample: Sample, now: float) -> None:
        """Compare what is free with what will be needed."""
        used, total = number(sample.get("disk_used")), number(sample.get("disk_total"))
        if used is None or not total:
            return
        free, needed = total - used, max(self.LEAST, self.CHECKPOINTS * self._checkpoint)
        on = self._full.add(now, wrong=free < needed, right=free > self.RIGHT * needed)
        if on and not self.found:
            self.found = f"{free / GB:.2f} of {total / GB:,.1f} GB are free; this run should have {needed / GB:.1f} GB."
        elif not on:
            self.found = ""


class GpuThrottled(Rule):
    """Heat costs speed."""

    name = "gpu_throttled"
    severity = "warning"
    title = "A GPU slows down because it is hot"
    why = (
        "The driver itself says that it lowers the clocks because of heat, for 30 seconds: fans need some seconds to "
        "react, and no temperature is right for all cards. Being held to a power limit is normal and does not count. "
        "Over after 30 seconds without."
    )
    advice = "Check the fans and the air around the machine, or lower the GPU's power limit (`nvidia-smi -pl`)."
    SECONDS = 30.0

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._hot = Lasting(self.SECONDS)

    def look(self, sample: Sample, now: float) -> None:
        """Ask whether any GPU is throttled."""
        told = [(gpu.get("throttled"), gpu, place) for place, gpu in _gpus(sample)]
        if not any(isinstance(throttled, bool) for throttled, _, _ in told):
            return
        hot = [(gpu, place) for throttled, gpu, place in told if throttled]
        on = self._hot.add(now, wrong=bool(hot), right=not hot)
        if on and hot and not self.found:
            gpu, place = hot[0]
            degrees = number(gpu.get("temperature"))
            at = f" at {degrees:.0f} °C" if degrees is not None else ""
            self.found = f"GPU {place} has lowered its clocks{at}."
        elif not on:
            self.found = ""


class GpuIdle(Rule):
    """The GPU waits, and whoever rents it pays."""

    name = "gpu_idle"
    severity = "warning"
    title = "No GPU is working"
    why = (
        "Every GPU of the machine was at most 2 % busy for 3 minutes of training: loading, evaluating and saving leave "
        "shorter gaps, and a GPU that trains is never that idle. Any work ends it at once."
    )
    advice = (
        "If this machine is rented, that costs money for nothing. Either the training hangs (then stop it), or it runs "
        "on the processor because PyTorch does not see the GPU: look at the beginning of the log."
    )
    SECONDS, BUSY = 180.0, 2.0

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._idle = Lasting(self.SECONDS)
        self._trains = False

    def take(self, fact: Fact) -> None:
        """Learn whether the training is on."""
        if fact.get("event") == "phase":
            self._trains = fact.get("phase") == "training"
        elif fact.get("event") == "result":
            self._trains = False

    def look(self, sample: Sample, now: float) -> None:
        """Ask whether any GPU is busy."""
        uses = [use for _, gpu in _gpus(sample) if (use := number(gpu.get("utilisation"))) is not None]
        if not uses or max(uses) > self.BUSY or not self._trains:
            self._idle, self.found = Lasting(self.SECONDS), ""
        if uses and self._idle.add(now, wrong=self._trains, right=False) and not self.found:
            which = "The GPU has" if len(uses) == 1 else f"All {len(uses)} GPUs have"
            self.found = f"{which} done next to nothing for {self.SECONDS / 60:.0f} minutes of training."


def _gpus(sample: Sample) -> Iterator[tuple[int, Sample]]:
    """Yield each GPU of a sample with its place."""
    gpus = sample.get("gpus")
    yield from (
        (place, gpu) for place, gpu in enumerate(gpus if isinstance(gpus, list) else ()) if isinstance(gpu, dict)
    )


def _share(used: object, total: object) -> float | None:
    part, whole = number(used), number(total)
    return part / whole if part is not None and whole else None
