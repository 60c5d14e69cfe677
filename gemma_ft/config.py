"""A training run as one frozen value: `RunConfig`, every knob declared once.

A knob's declaration carries its default, range, unit and help; the form on the page, the check, the command line and
`docs/config.md` all read it from here. Promises that a config which exists is valid in itself (ranges, names, fields
that belong together) and that it round-trips through JSON and YAML. Whether the data, the model or the Hub repo exist
is not looked at here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from gemma_ft.errors import ConfigError
from gemma_ft.knob import Section, knob
from gemma_ft.reactions import AlertsConfig
from gemma_ft.webhook import SECRETS, NotifyConfig

DEMO_MODEL = "demo/gemma-3-tiny"
Format = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text", "translation", "preference"]
"""The shapes of rows that `data/formats.py` reads."""
PreferenceLoss = Literal["sigmoid", "ipo", "hinge", "apo_zero"]
"""Losses of DPO, by TRL's names."""
Targets = Literal["all", "attention", "mlp"]
"""Groups of the language model's linear layers."""
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(lambda v: ("off", "on")[v] if type(v) is bool else v)]
"""YAML reads on and off as truth."""
LONGEST_LENGTH = 131_072
"""Tokens; the longest row that can be asked for."""
LONGEST_NAME = 255
MOST_ACCUMULATED, MOST, MOST_SEED = 1024, 10_000_000, 2**32 - 1
"""Of batches that are added up, of steps (more can only be a mistake), and NumPy's largest seed."""
REPO_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*$")


def _expanded(path: str) -> str:
    """Return a path with `~` made plain. Raises `ValueError` for what can be no path."""
    try:
        return str(Path(_without_nul(path)).expanduser())
    except RuntimeError as exc:
        raise ValueError(f"{path!r} names a person whom this machine does not know") from exc


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a zero byte cannot be part of a name")
    if any(len(part.encode("utf-8", "replace")) > LONGEST_NAME for part in text.split("/")):
        raise ValueError(f"a name of more than {LONGEST_NAME} bytes cannot be on any disk")
    return text


class ModelConfig(Section):
    """Which Gemma is tuned."""

    id: str = knob(
        DEMO_MODEL,
        "The offline demo, a Gemma on the Hugging Face Hub, or a local folder.",
        min_length=1,
        max_length=500,
    )
    revision: str | None = knob(None, "Branch, tag or commit of a Hub model; empty means its main branch.")
    precision: Literal["auto", "bfloat16", "float32"] = knob(
        "auto",
        "Number format; auto computes in bfloat16 where the GPU has it, else in float32. No Gemma bears float16.",
    )

    @field_validator("id")
    @classmethod
    def _id_is_a_name_or_a_path(cls, text: str) -> str:
        return _expanded(text) if text.startswith("~") else _without_nul(text)

    @property
    def is_path(self) -> bool:
        """Whether the id can only be a folder of this machine, not a name on the Hub."""
        return self.id.startswith((".", "/")) or self.id.count("/") > 1

    @property
    def public_id(self) -> str:
        """The id as it may be published: of a folder only its name."""
        return Path(self.id).name if self.is_path else self.id


class DataConfig(Section):
    """What it learns from."""

    source: Literal["example", "file", "hub", "tfds"] = knob(
        "example", "Bundled rows, a file, a data set on the Hugging Face Hub, or one of TensorFlow Datasets."
    )
    id: str | None = knob("capitals", "Name of the example, or of the data set on the Hub or in TensorFlow Datasets.")
    config: str | None = knob(None, "Configuration of a data set that has several, such as `en`.")
    split: str = knob("train", "What to train on, with slices: `train`, `train[:10%]`, `train+test`.", min_length=1)
    revision: str | None = knob(None, "Branch, tag or commit of a data set on the Hub; empty means main.")
    path: str | None = knob(
        None, "The file: .jsonl, .json, .csv, .tsv, .parquet or .txt, also gzipped; or a folder prepared by TFDS."
    )
    format: Literal["auto", Format] = knob("auto", "Shape of the rows; auto looks at them.")
    columns: dict[str, str] = knob({}, "Which of your columns holds what, such as `prompt: question`; empty finds out.")
    validation_fraction: float = knob(
        0.1, "Share of the rows held out to measure progress, unless there is a split or file for that.", ge=0, le=0.5
    )
    validation_split: str | None = knob(None, "A split of the data set to measure progress with, such as `validation`.")
    validation_path: str | None = knob(None, "A second file to measure progress with.")
    max_rows: int | None = knob(
        None, "Use at most this many rows; empty (0 on the page) means all.", unit="rows", ge=2, le=100 * MOST
    )
    shuffle: bool = knob(True, "Mix the rows before they are split.")
    seed: int = knob(42, "Seed of the mixing and the split.", ge=0, le=MOST_SEED)
    drop_bad_rows: bool = knob(False, "Leave out rows that cannot be used instead of refusing to start.")

    @field_validator("path", "validation_path")
    @classmethod
    def _path_is_whole(cls, path: str | None) -> str | None:
        return _expanded(path) if path else None

    @field_validator("config")
    @classmethod
    def _config_is_a_name(cls, config: str | None) -> str | None:
        if config and (re.search(r"[<>:/\\|?*\0]", config) or ".." in config):
            raise ValueError(f"{config!r} is no name of a configuration")
        return config

    @model_validator(mode="after")
    def _source_is_complete(self) -> Self:
        if self.source == "file" and not self.path:
            raise ValueError("path is missing: the source `file` needs the file to read")
        if self.source in ("example", "hub") and not self.id:
            raise ValueError(f"id is missing: the source `{self.source}` needs the name of the data set")
        if self.source == "tfds" and not (self.id or self.path):
            raise ValueError("id is missing: the source `tfds` needs the name of a data set, or the path of a folder")
        if self.validation_split and self.source not in ("hub", "tfds"):
            raise ValueError(f"validation_split: the source `{self.source}` has no splits; use validation_fraction")
        if self.validation_path and self.source != "file":
            raise ValueError("validation_path goes with the source `file`; use validation_split instead")
        return self


class MethodConfig(Section):
    """How the weights may change."""

    objective: Literal["sft", "dpo"] = knob(
        "sft", "Supervised tuning (sft) learns the answers in the data; dpo learns which of two answers is better."
    )
    beta: float = knob(0.1, "How firmly DPO stays with the base model's answers.", gt=0, le=10)
    loss: PreferenceLoss = knob(
        "sigmoid",
        "What DPO minimises: sigmoid is usual, ipo bears wrong preferences better, apo_zero lifts good answers.",
    )
    adapter: Literal["lora", "qlora", "none"] = knob(
        "lora", "LoRA trains a small adapter, QLoRA does so on a model kept in 4 bits; none trains every weight."
    )
    rank: int = knob(16, "Width of the LoRA matrices; more can hold more, and costs more memory.", ge=1, le=256)
    alpha: int = knob(32, "Strength of the adapter, often twice the rank.", ge=1, le=512)
    dropout: float = knob(0.05, "Share of the adapter's inputs that is dropped while training.", ge=0, le=0.5)
    targets: Targets = knob("all", "Which layers of the language model get an adapter; all learns best.")
    dora: bool = knob(
        False, "Learn length and direction of the weights apart (DoRA): often better at a low rank, slower."
    )
    rslora: bool = knob(False, "Divide alpha by the root of the rank (rsLoRA): steadier at a high rank.")


class TrainingConfig(Section):
    """How long and how hard it is trained."""

    epochs: float = knob(3.0, "How often each row is seen.", unit="passes over the data", gt=0, le=1000)
    max_steps: int | None = knob(
        None,
        "Stop after this many optimizer steps; empty (0 on the page) lets the epochs decide.",
        unit="steps",
        ge=1,
        le=MOST,
    )
    learning_rate: float = knob(
        2e-4, "Size of a step; LoRA likes about 2e-4, full tuning 2e-5, DPO a tenth of that or less.", gt=0, le=1
    )
    schedule: Literal["linear", "cosine", "constant"] = knob("linear", "How the learning rate falls over the run.")
    warmup_fraction: float = knob(0.05, "Share of the run in which the learning rate rises to full size.", ge=0, le=0.5)
    optimizer: Literal["adamw", "adamw_8bit", "adafactor"] = knob(
        "adamw", "AdamW; in 8 bits (NVIDIA only) it needs a quarter of its memory, Adafactor needs next to none."
    )
    weight_decay: float = knob(0.0, "Pull of the trained weights towards zero.", ge=0, le=1)
    max_grad_norm: float = knob(1.0, "Longer gradients are shortened to this norm.", gt=0)
    batch_size: int = knob(8, "Rows that go through the model at once.", unit="rows", ge=1, le=1024)
    accumulation: int = knob(
        1, "Batches that are added up before a step is made.", unit="batches", ge=1, le=MOST_ACCUMULATED
    )
    max_length: int = knob(1024, "Longer rows are cut to this length.", unit="tokens", ge=8, le=LONGEST_LENGTH)
    packing: bool = knob(
        False, "Join short rows to sequences of the maximum length: no padding, so faster. Supervised tuning only."
    )
    gradient_checkpointing: Switch = knob(
        "auto", "Compute activations twice to need less memory, about a third slower; auto does it only if it must."
    )
    neftune_alpha: float = knob(
        0.0,
        "Noise on the embeddings while training (NEFTune), against learning by heart: 5 is usual; 0 is off.",
        ge=0,
        le=50,
    )
    on_out_of_memory: Literal["smaller_batch", "stop"] = knob(
        "smaller_batch", "Halve the batch and double the accumulation, which learns the same, or stop with an error."
    )
    seed: int = knob(42, "Seed of the adapter's start, the dropout and the order of the rows.", ge=0, le=MOST_SEED)
    log_every: int = knob(1, "A point on the chart every so many steps.", unit="steps", ge=1, le=MOST)
    eval_every: int = knob(
        50, "Measure the held-out rows every so many steps; 0 only at the end.", unit="steps", ge=0, le=MOST
    )
    save_every: int = knob(
        50, "Save a checkpoint every so many steps; 0 only when it is stopped.", unit="steps", ge=0, le=MOST
    )
    keep_checkpoints: int = knob(2, "How many checkpoints stay on the disk.", unit="checkpoints", ge=1, le=100)
    keep_best: bool = knob(
        False, "Make the result of the weights that did best on the held-out rows, instead of the last ones."
    )
    early_stopping: int = knob(
        0,
        "End the run when so many evaluations in a row brought nothing better; 0 is off.",
        unit="evaluations",
        ge=0,
        le=1000,
    )


class EvaluationConfig(Section):
    """What is asked while it trains."""

    prompts: tuple[str, ...] = knob((), "Questions answered before, during and after training.", max_length=8)
    max_new_tokens: int = knob(64, "Longest answer to these questions.", unit="tokens", ge=1, le=2048)


class PublishConfig(Section):
    """Where the result goes."""

    repo: str | None = knob(None, "Hub repository for the result, as name or owner/name; empty keeps it here.")
    private: bool = knob(True, "Only you can see the repository.")

    @field_validator("repo")
    @classmethod
    def _repo_is_a_name(cls, repo: str | None) -> str | None:
        if repo is not None and (not REPO_NAME.match(repo) or ".." in repo or "--" in repo):
            raise ValueError(f"{repo!r} is no repository name; use letters, digits, '-', '_' and '.', as in owner/name")
        return repo


class ComputeConfig(Section):
    """Where it runs."""

    where: Literal["local"] = knob("local", "On this machine.")
    processes: int = knob(
        0, "How many GPUs train together, each on its own part of every batch; 0 takes all there are.", ge=0, le=64
    )
    sharding: Switch = knob(
        "auto", "Spread the weights over the GPUs (FSDP), slower; auto does it only if a copy for each does not fit."
    )


class RunConfig(Section):
    """Everything that makes a run; enough to repeat it."""

    name: str = knob("my-gemma", "A label of your choice.", min_length=1, max_length=80)
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    method: MethodConfig = MethodConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    publish: PublishConfig = PublishConfig()
    compute: ComputeConfig = ComputeConfig()
    notify: NotifyConfig = NotifyConfig()
    alerts: AlertsConfig = AlertsConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        training, supervised = self.training, self.method.objective == "sft"
        if training.packing and not supervised:
            raise ValueError("training.packing: pairs cannot be packed; switch packing off for DPO")
        if (training.keep_best or training.early_stopping) and not training.eval_every:
            which = "keep_best" if training.keep_best else "early_stopping"
            raise ValueError(f"training.{which}: it needs measurements on the way; set training.eval_every")
        if self.compute.sharding == "on" and (self.method.adapter == "qlora" or training.optimizer != "adamw"):
            raise ValueError("compute.sharding: it needs training.optimizer adamw, and no 4-bit weights (qlora)")
        held_out = self.data.validation_fraction or self.data.validation_split or self.data.validation_path
        if (training.keep_best or training.early_stopping) and not held_out:
            raise ValueError("training.keep_best, early_stopping: they need held-out rows (data.validation_fraction)")
        return self

    def changed(self, changes: Mapping[str, Any]) -> RunConfig:
        """Return the config with other values of some knobs (`training.batch_size`). Raises `ConfigError`."""
        values = self.model_dump(mode="json", context=SECRETS)
        for path, value in changes.items():
            section, _, name = path.rpartition(".")
            (values[section] if section else values)[name] = value
        return parse_config(values)

    def to_yaml(self) -> str:
        """Return the config as YAML that `parse_config` reads back to an equal value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def knobs() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every knob as (`section.name`, declaration), in order; the run's own name comes first."""
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for inner, declared in field.annotation.model_fields.items():
                yield f"{name}.{inner}", declared
        else:
            yield name, field


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Make a `RunConfig` from plain values.

    Raises `ConfigError` with one line per mistake: where it is, what is wrong, and the nearest known key.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"A configuration is an object of settings, not {type(values).__name__}.", "See examples/.")
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as exc:
        lines = [_explain(error) for error in exc.errors()]
        raise ConfigError("\n".join(lines), "Change these settings and try again.") from exc


def load_config(path: Path) -> RunConfig:
    """Read a config from a YAML or JSON file; relative paths in it count from that file's folder.

    Raises `ConfigError` when the file is missing, is not YAML or JSON, or holds no valid config.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"There is no file {path}.", "Check the path.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}.", "Give a YAML or JSON text file.") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is neither YAML nor JSON: {exc}", "Mend the place that is named.") from exc
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings.", "Write `name: ...`, `model: ...` and so on; see examples/.")
    config = parse_config(values)
    beside = path.resolve().parent
    given = {name: getattr(config.data, name) for name in ("path", "validation_path")}
    paths = {name: str(beside / path) for name, path in given.items() if path is not None}
    config = config.model_copy(update={"data": config.data.model_copy(update=paths)})
    if config.model.id.startswith("."):
        model = config.model.model_copy(update={"id": str((beside / config.model.id).resolve())})
        config = config.model_copy(update={"model": model})
    return config


def config_from_json(text: str) -> RunConfig:
    """Read a stored `config.json`. Raises `ConfigError` when it is damaged."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"The stored configuration is damaged: {exc}.", "Start a new run.") from exc
    return parse_config(values)


def _explain(error: Any) -> str:
    """Say one pydantic error in words: `training.rank: must be at most 256, got 1000`."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such setting.{_nearest(error['loc'])}"
    limits = {"greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}"}
    limits |= {"greater_than": "more than {gt}", "less_than": "less than {lt}"}
    if wording := limits.get(error["type"]):
        return f"{where}: must be {wording.format(**error['ctx'])}, got {error['input']!r}"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    got = "" if error["loc"][0] == "notify" else f", got {error['input']!r}"  # An address is a secret.
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}{got}"


def _nearest(loc: tuple[str | int, ...]) -> str:
    """Name the known key that looks most like the last part of `loc`, in its own section or in another."""
    section = RunConfig.model_fields.get(str(loc[0])) if len(loc) > 1 else None
    kind = section.annotation if section else RunConfig
    known = list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
    if near := difflib.get_close_matches(str(loc[-1]), known, n=1):
        return f" Did you mean {near[0]!r}?"
    everywhere = {path.rpartition(".")[2]: path for path, _ in knobs()}
    if near := difflib.get_close_matches(str(loc[-1]), everywhere, n=1, cutoff=0.75):
        return f" Did you mean {everywhere[near[0]]!r}?"
    return f" Known here: {', '.join(known)}."


def choices(declared: FieldInfo) -> tuple[str, ...]:
    """Return the allowed words of a knob that is a choice, else an empty tuple."""
    return get_args(declared.annotation) if str(declared.annotation).startswith("typing.Literal") else ()
