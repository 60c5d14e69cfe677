"""Complete configurations under one name: start here, change what you like.

Each recipe is a function that returns a whole, valid `RunConfig`. Recipes do not look at the machine.
"""

from __future__ import annotations

from gemma_ft.config import (
    DEMO_MODEL,
    DataConfig,
    EvaluationConfig,
    MethodConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)


def try_it() -> RunConfig:
    """The first run: the offline demo model learns the bundled capitals by heart, on any computer in a minute."""
    return RunConfig(
        name="capitals",
        model=ModelConfig(id=DEMO_MODEL),
        data=DataConfig(source="example", id="capitals", validation_fraction=0.1),
        method=MethodConfig(adapter="lora", rank=16, alpha=32, dropout=0.0),
        training=TrainingConfig(
            max_steps=150,
            learning_rate=5e-3,
            schedule="cosine",
            batch_size=16,
            max_length=128,
            eval_every=25,
            save_every=50,
        ),
        evaluation=EvaluationConfig(
            prompts=("What is the capital of France?", "Name the capital of Japan."), max_new_tokens=24
        ),
    )
