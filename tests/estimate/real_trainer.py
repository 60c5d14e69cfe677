"""One step of the trainer that runs use, on a very small Gemma, and the bytes of what it keeps; run as a program."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from estimate.measuring import bytes_of, weights_and_tables
from gemma_ft.config import RunConfig
from gemma_ft.train.encode import encode_all
from gemma_ft.train.inspection import inspect
from gemma_ft.train.loading import load_for_training, load_reference
from gemma_ft.train.trainers import new_trainer
from tiny_gemmas import save_gemma, tokenizer_for

TALK = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]


def one_step(config: RunConfig) -> dict[str, Any]:
    """Return the bytes of the parts that are there after a step, and the model's shape."""
    with tempfile.TemporaryDirectory() as place:
        base, writing = Path(place) / "base", Path(place) / "writing"
        save_gemma(base, "gemma3")
        rows = encode_all([TALK] * 4, tokenizer_for("gemma3"), config.training.max_length)[0]
        model = load_for_training(base, config)
        reference = lambda: load_reference(base, config)  # noqa: E731
        trainer = new_trainer(model, reference, tokenizer_for("gemma3"), config, (rows, []), writing)
        trainer.train()
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        adapters = bytes_of(trained) if config.method.adapter != "none" else 0
        states = (
            trainer.optimizer.optimizer.state if hasattr(trainer.optimizer, "optimizer") else trainer.optimizer.state
        )
        values = [each for state in states.values() for each in state.values() if isinstance(each, torch.Tensor)]
        return {
            "weights": bytes_of(weights_and_tables(trainer.model)) - adapters,
            "adapter": adapters,
            "gradients": bytes_of(trained),
            "optimizer": bytes_of(each for each in values if each.ndim),
            "shape": asdict(inspect(base)),
        }


if __name__ == "__main__":
    for values in json.loads(sys.argv[1]):
        print(json.dumps(one_step(RunConfig.model_validate(values))), flush=True)
