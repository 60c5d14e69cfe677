"""Time and memory of our trainer against a plain TRL script that does the same work.

Both tune the same Gemma 3 of random weights with the same LoRA on the same rows, each in a process of its own, turn by
turn for several rounds. Printed are the medians of the rounds: seconds per supervised token (without the first step),
the peak of the resident memory, the same less what was resident before the model was loaded, and the ratios.

    python benchmarks/loss_and_memory.py                  # small layers, the 262,144 words of Gemma 3; ten minutes
    python benchmarks/loss_and_memory.py --all-trained    # the same, with the loss on every token
    python benchmarks/loss_and_memory.py --real           # the shapes of Gemma 3 270M in bfloat16, batches of 2
"""

# ruff: noqa: PLC0415 - what is measured is imported in the children, so that the parent stays small.
from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORDS = 262_144
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "sliding_window": 512,
}
REAL = {
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
}
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0}


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--all-trained", action="store_true", help="train the questions too, as in tuning on texts")
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        side, folder = asked.child
        print(json.dumps(measure(side, Path(folder), asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        call(["make", folder], asked)
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES if asked.only in (None, side)}
        for round_ in range(asked.rounds):
            for side, results in found.items():
                results.append(call([side, folder], asked))
                print(f"round {round_ + 1}, {side}: {results[-1]}", flush=True)
    report({side: middle(results) for side, results in found.items()})


def call(child: list[str], asked: argparse.Namespace) -> dict[str, float]:
    """Run this file in a process of its own and return what it measured."""
    command = [sys.executable, __file__, "--child", *child, "--steps", str(asked.steps)]
    command += ["--threads", str(asked.threads), *(["--real"] if asked.real else [])]
    command += ["--all-trained"] if asked.all_trained else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def middle(results: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def report(found: dict[str, dict[str, float]]) -> None:
    """Print the medians, and the ratios to plain TRL."""
    plain = found.get("trl")
    for side, figures in found.items():
        print(f"{side:>7}", "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    for side, figures in found.items():
        if plain and side != "trl":
            ratios = "  ".join(f"{name} x{figures[name] / plain[name]:.3f}" for name in figures if plain[name])
            print(f"{side:>7} to trl: {ratios}; faster x{plain['ms_per_token'] / figures['ms_per_token']:.2f}")


def measure(side: str, folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    """Make the model, or train on one side and return its figures. Runs in a child."""
    import datasets  # noqa: F401 - imported before the memory is read, as what the trainers import is not their doing
    import peft  # noqa: F401
    import torch
    import transformers
    import trl  # noqa: F401

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(asked.threads)
    if side == "make":
        make_model(folder, real=asked.real)
        return {}
    batch = 2 if asked.real else 4
    rows = make_rows(batch * asked.steps, all_trained=asked.all_trained)
    before = resident("VmRSS")
    trainer, clock = SIDES[side](folder, rows, batch, asked)
    trainer.train()
    seconds = [end - begin for begin, end in clock.steps][1:]
    trained = sum(label != -100 for row in rows for label in row["labels"])
    counted = trained * len(seconds) / len(clock.steps)
    peak = resident("VmHWM")
    return {
        "ms_per_token": 1000 * sum(seconds) / counted,
        "step_s": statistics.median(seconds),
        "cpu_ms_per_token": 1000 * sum(clock.busy[1:]) / counted,
        "peak_mb": peak,
        "peak_above_start_mb": peak - before,
        "loss": trainer.state.log_history[0]["loss"],
    }


def resident(name: str) -> float:
    """Return a figure of this process in MB (1e6 bytes): `VmRSS`, memory that is resident, or `VmHWM`, its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def make_model(folder: Path, *, real: bool) -> None:
    """Write a Gemma 3 of random weights, with a tokenizer of a few words that nothing is tokenised with."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = Gemma3TextConfig(**(REAL if real else SMALL), vocab_size=WORDS, pad_token_id=0, eos_token_id=1)
    Gemma3ForCausalLM(config).to(torch.bfloat16 if real else torch.float32).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<bos>": 2}, unk_token="<pad>"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    ).save_pretrained(folder)


def make_rows(number: int, *, all_trained: bool) -> list[dict[str, list[int]]]:
    """Return rows of up to 1,024 tokens, as conversations are: a question, usually not trained, and an answer."""
    draw = random.Random(0)
    rows = []
    for _ in range(number):
        asked, answered = draw.randint(50, 768), draw.randint(16, 256)
        ids = [2, *(draw.randrange(3, WORDS) for _ in range(asked + answered - 1))]
        rows.append({"input_ids": ids, "labels": ids if all_trained else [-100] * asked + ids[asked:]})
    return rows


def make_clock() -> Any:
    """Return a callback that notes when each step began and ended, and the processor time it took."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[tuple[float, float]] = []
            self.busy: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun, self.used = time.perf_counter(), time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps.append((self.begun, time.perf_counter()))
            self.busy.append(time.process_time() - self.used)

    return Clock()


def plain_trl(folder: Path, rows: list[dict[str, list[int]]], batch: int, asked: argparse.Namespace) -> tuple[Any, Any]:
    """What somebody would write with TRL alone."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    clock = make_clock()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if asked.real else torch.float32),
        args=SFTConfig(
            output_dir=str(folder / "plain"),
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            learning_rate=2e-4,
            bf16=asked.real,
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=LORA["rank"],
            lora_alpha=LORA["alpha"],
            lora_dropout=LORA["dropout"],
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
        callbacks=[clock],
    )
    return trainer, clock


def ours(
    folder: Path, rows: list[dict[str, list[int]]], batch: int, asked: argparse.Namespace, *, packing: bool = False
) -> tuple[Any, Any]:
    """The same through the trainer's own code; a packed sequence holds about two of the rows."""
    from gemma_ft.config import parse_config
    from gemma_ft.train.encode import Encoded
    from gemma_ft.train.loading import load_for_training
    from gemma_ft.train.tokenizer import load_tokenizer
    from gemma_ft.train.trainers import new_trainer

    precision = "bfloat16" if asked.real else "float32"
    config = parse_config(
        {
            "model": {"id": str(folder), "precision": precision},
            "method": LORA,
            "training": {
                "epochs": 1,
                "batch_size": batch // 2 if packing else batch,
                "packing": packing,
                "gradient_checkpointing": "off",
                "warmup_fraction": 0.0,
                "eval_every": 0,
                "save_every": 0,
            },
        }
    )
    encoded = [Encoded(row["input_ids"], row["labels"]) for row in rows]
    model = load_for_training(folder, config)
    trainer = new_trainer(model, lambda: None, load_tokenizer(folder), config, (encoded, []), folder / "ours")
    clock = make_clock()
    trainer.add_callback(clock)
    return trainer, clock


SIDES = {"trl": plain_trl, "ours": ours, "packed": partial(ours, packing=True)}

if __name__ == "__main__":
    main()
