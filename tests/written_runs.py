"""Run folders written by hand, as trainer and supervisor would have written them, of any length and in any state."""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any, TextIO

from gemma_ft import recipes
from gemma_ft.config import RunConfig
from gemma_ft.monitor.identity import identify, uptime
from gemma_ft.rundir import RunDir, RunState, create_run

GPU = {"name": "NVIDIA L4", "memory_total": 24_000_000_000}
STEP_SECONDS = 0.5
TOKENS = 512


class WrittenRun:
    """A run of a tuned Gemma 3 1B; the test is its trainer, and its process stands for the supervisor."""

    def __init__(self, home: Path, *, max_steps: int = 1000, config: RunConfig | None = None, seed: int = 1) -> None:
        given = config or recipes.try_it()
        self.config = given.model_copy(update={"model": given.model.model_copy(update={"id": "google/gemma-3-1b-it"})})
        self.run: RunDir = create_run(home / "runs", self.config)
        self.max_steps = max_steps
        self.chance = random.Random(seed)
        self.now = self.began = time.time() - max_steps * STEP_SECONDS
        self.step = 0

    def state(self, status: str, **more: Any) -> WrittenRun:
        """Write the state; the test's process is the supervisor of an active run."""
        active = status in ("preparing", "training", "stopping")
        # A beat from the future: a supervisor that is never silent for too long.
        self.run.supervisor_lock.write_text(f"{uptime() + 1e6:20.3f}\n", encoding="ascii")
        alive = {"supervisor": identify(os.getpid())} if active else {"ended_at": self.now}
        given = {"status": status, "created_at": self.began, "started_at": self.began, "phase": status, **alive, **more}
        self.run.write_state(RunState.model_validate(given))
        return self

    def begin(self) -> WrittenRun:
        """Write what comes before the first step."""
        with self.run.events.open("a") as file:
            self._tell(file, "phase", phase="reading the data")
            self._tell(file, "phase", phase="loading the model")
            self._tell(file, "data", objective="sft", format="chat", rows=150, kept=150, train=135, validation=15)
            figures = {"parameters": 999_885_952, "trained": 13_045_760, "layers": 26, "context": 32_768}
            self._tell(file, "model", id=self.config.model.id, kind="Gemma", precision="bfloat16", **figures)
            self._tell(file, "phase", phase="training", step=0, max_steps=self.max_steps)
        self.log("12:00:00 INFO Reading the data", "12:00:01 INFO Loading the model", "12:00:02 INFO Training")
        self.loop_began = self.now
        return self

    def steps(self, number: int, *, eval_every: int = 0, spike: int | None = None, log: bool = True) -> WrittenRun:
        """Write so many more steps."""
        lines = []
        with self.run.events.open("a") as file:
            for _ in range(number):
                self.step += 1
                self.now += STEP_SECONDS
                self._step(file, spike=spike)
                if eval_every and self.step % eval_every == 0:
                    self.now += 1.25
                    loss = 0.5 + 2.3 * math.exp(-4 * self.step / self.max_steps)
                    self._tell(file, "eval", step=self.step, loss=loss, token_accuracy=0.8, seconds=1.2)
                    self._tell(file, "checkpoint", step=self.step, path=f"checkpoints/checkpoint-{self.step}")
                lines.append(f"12:00:03 INFO Step {self.step} of {self.max_steps}: loss 1.0000")
        if log:
            self.log(*lines)
        return self

    def machine(self, seconds: int, *, gpus: int = 1) -> WrittenRun:
        """Write samples of the machine, one a second."""
        with self.run.system.open("a") as file:
            for second in range(seconds):
                use = {"utilisation": self.chance.randint(80, 99), "memory_used": 14_000_000_000}
                gpu = GPU | use | {"temperature": 60, "power": 65.5}
                sample = {
                    "cpu_percent": self.chance.randint(10, 30),
                    "cores": 8,
                    "memory_used": 9_000_000_000,
                    "memory_total": 30_000_000_000,
                    "disk_used": 80_000_000_000,
                    "disk_total": 400_000_000_000,
                    "gpus": [gpu] * gpus,
                    "own": {"cpu_percent": 120.5, "memory_used": 4_000_000_000},
                }
                line = {"t": round(self.began + second, 3), "event": "sample", **sample}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        return self

    def log(self, *lines: str) -> WrittenRun:
        """Write lines of the log."""
        with self.run.log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        return self

    def tell(self, event: str, **fields: Any) -> WrittenRun:
        """Write any other fact."""
        with self.run.events.open("a") as file:
            self._tell(file, event, **fields)
        return self

    def _step(self, file: TextIO, *, spike: int | None) -> None:
        done = self.step / self.max_steps
        loss = 50.0 if self.step == spike else 0.4 + 2.5 * math.exp(-4 * done) + 0.3 * self.chance.random()
        self._tell(
            file,
            "step",
            step=self.step,
            max_steps=self.max_steps,
            seconds=round(self.now - self.loop_began, 3),
            loss=round(loss, 4),
            learning_rate=2e-4 * (1 - done),
            grad_norm=0.5 + 2 * self.chance.random(),
            epoch=3 * done,
            tokens=self.step * TOKENS,
            token_accuracy=0.9 - 0.5 * math.exp(-4 * done),
            entropy=0.3 + 1.2 * math.exp(-3 * done),
        )

    def _tell(self, file: TextIO, event: str, **fields: Any) -> None:
        file.write(json.dumps({"t": round(self.now, 3), "event": event, **fields}, separators=(",", ":")) + "\n")
