"""Gemma Doctor: one card of short lines that says whether a run would go well here, and what to change if not.

Promises the lines in a fixed order, each good, a warning, bad or not known; a remedy that is a change of knobs makes a
valid configuration and mends its line. Asks the Hub with this very token, for some seconds at most, and never raises
when it does not answer. Loads no model and no PyTorch: what needs them (the shape, the chat template's ways, the models
that the library knows) is handed in. Whether the data can be used is told by `check`, whether memory suffices by
`estimate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gemma_ft.catalog import find
from gemma_ft.config import DEMO_MODEL, RunConfig
from gemma_ft.hardware import Machine
from gemma_ft.hub import rights
from gemma_ft.shape import ModelShape

State = Literal["good", "warning", "bad", "unknown"]
Fix = dict[str, Any]
SystemTurns = Literal["own turn", "folded", "not known"]

SLOW_ON_A_PROCESSOR = 1_000_000_000
"""Weights; a larger model takes hours on a processor where a GPU takes minutes."""
TINY = 20_000_000
"""Weights; smaller models learn at rates that would destroy a larger one."""
RATES = {
    ("sft", "adapter"): (1e-5, 2e-4, 2e-3),
    ("sft", "full"): (1e-6, 2e-5, 1e-4),
    ("dpo", "adapter"): (5e-7, 2e-5, 1e-4),
    ("dpo", "full"): (5e-8, 2e-6, 1e-5),
}
"""The learning rates below which little is learned, that are usual, and above which training tends to fall apart."""
TOKENS = "https://huggingface.co/settings/tokens"
HUB = "https://huggingface.co/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the card. `fix` maps knobs (`training.optimizer`) to values; `fix_label` is for its button."""

    name: str
    state: State
    text: str
    fix: Fix | None = None
    fix_label: str = ""
    link: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """All that the lines are told from; `examine` says what each is."""

    config: RunConfig
    shape: ModelShape | None
    machine: Machine
    token: str | None
    system_turns: SystemTurns | None
    disk_needed: Callable[[RunConfig], int] | None
    disk_certain: Callable[[RunConfig], int] | None
    disk_free: int
    knows: Callable[[str], bool]
    installed: Callable[[str], bool]

    @property
    def is_local(self) -> bool:
        """Whether the model is on this machine and nobody has to be asked for it."""
        model = self.config.model
        return model.id == DEMO_MODEL or model.is_path or Path(model.id).is_dir()

    @property
    def tuning(self) -> Literal["adapter", "full"]:
        """Which weights learn."""
        return "full" if self.config.method.adapter == "none" else "adapter"


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    return find_spec(package) is not None


def examine(
    config: RunConfig,
    *,
    shape: ModelShape | None,
    machine: Machine,
    token: str | None,
    system_turns: SystemTurns | None,
    disk_needed: Callable[[RunConfig], int] | None,
    disk_certain: Callable[[RunConfig], int] | None,
    disk_free: int,
    knows: Callable[[str], bool],
    installed: Callable[[str], bool] = is_installed,
) -> list[Finding]:
    """Return the card of a run.

    `shape` is `None` while the model's configuration cannot be had, or when the library cannot build it.
    `system_turns` is what becomes of system messages, `None` when the data has none. `disk_needed` tells the bytes that
    a configuration writes (download, checkpoints and result), so that a remedy can be tried; `disk_certain` those that
    it writes at least, and only by them a run is refused; `disk_free` are those that are free. `knows` tells whether
    the installed transformers has an architecture. The Hub is asked up to four times, each time for some seconds.
    """
    case = Case(
        config=config,
        shape=shape,
        machine=machine,
        token=token,
        system_turns=system_turns,
        disk_needed=disk_needed,
        disk_certain=disk_certain,
        disk_free=disk_free,
        knows=knows,
        installed=installed,
    )
    return [finding for look in LINES if (finding := look(case))]


def _licence(case: Case) -> Finding:
    name, model, page = "Licence", case.config.model.id, f"{HUB}{case.config.model.id}"
    if case.is_local:
        where = "The demo is built on this machine" if model == DEMO_MODEL else "The model is a folder of this machine"
        return Finding(name=name, state="good", text=f"{where}: nothing to accept.")
    answer = rights.may_read(model, case.token).answer
    if answer == "allowed":
        whose = "This token may" if case.token else "Everybody may"
        return Finding(name=name, state="good", text=f"{whose} download {model}.")
    if answer in NOT_KNOWN:
        return Finding(name=name, state="unknown", text=NOT_KNOWN[answer])
    if answer == "bad token":
        return Finding(name=name, state="bad", text=BAD_TOKEN, link=TOKENS)
    if answer == "narrow":
        text = f"This token may not read {model}. Allow it to read gated repositories, and accept the licence."
        return Finding(name=name, state="bad", text=text, link=TOKENS)
    if answer == "missing":
        text = f"The Hub has no model {model}, or it is private and this token may not see it. Check the spelling."
        return Finding(name=name, state="bad", text=text)
    known = find(model)
    terms = f"the licence ({known.licence})" if known else "the licence"
    text = f"Accept {terms} on its page with the account that this token belongs to; it takes a minute."
    if not case.token:
        text = f"This model is for those who accepted {terms}: do so on its page, then give a token of that account."
    return Finding(name=name, state="bad", text=text, link=page)


BAD_TOKEN = "The Hub does not know this token: it was mistyped, withdrawn, or has run out. Make a new one."
NOT_KNOWN = {
    "unreachable": "The Hub cannot be reached, so this could not be checked. Check the network of this machine.",
    "busy": "The Hub is busy, so this could not be checked. Try again in some minutes.",
}


def _publishing(case: Case) -> Finding:
    name, repo = "Publishing", case.config.publish.repo
    if not repo:
        return Finding(name=name, state="good", text="The result stays on this machine.")
    keep: dict[str, Any] = {"fix": {"publish.repo": None}, "fix_label": "Keep the result here"}
    if not case.token:
        text = f"Publishing to {repo} needs a token that may write."
        return Finding(name=name, state="bad", text=text, link=TOKENS, **keep)
    right = rights.may_publish(repo, case.token)
    if right.answer == "allowed":
        text = f"This token may write to {right.repo}, which is there already: the result is added to it."
        return Finding(name=name, state="good", text=text)
    if right.answer == "new":
        kind = "private" if case.config.publish.private else "public"
        return Finding(name=name, state="good", text=f"{right.repo} will be made, {kind}, with this token.")
    if right.answer in NOT_KNOWN:
        return Finding(name=name, state="unknown", text=NOT_KNOWN[right.answer])
    owner = right.repo.split("/")[0]
    reasons = {
        "bad token": BAD_TOKEN,
        "read only": "This token can only read. Make one that may write.",
        "narrow": f"This token may not write for {owner}. Give it that right, or make one that may write.",
        "foreign": f"The account of this token may not write for {owner}. Use your own name, or keep the result here.",
    }
    text = reasons.get(right.answer, f"{right.repo!r} is no name that the Hub allows.")
    return Finding(name=name, state="bad", text=text, link=TOKENS, **keep)


def _library(case: Case) -> Finding:
    name, kind = "Library", case.shape.model_type if case.shape else None
    if not kind:
        return Finding(name=name, state="unknown", text="The model's configuration could not be read yet.")
    if case.knows(kind):
        return Finding(name=name, state="good", text=f"The installed transformers knows this model ({kind}).")
    text = f"The installed transformers does not know {kind}. Upgrade it: pip install -U transformers"
    return Finding(name=name, state="bad", text=text)


def _number_format(case: Case) -> Finding:
    name, wanted, gpus = "Number format", case.config.model.precision, case.machine.gpus
    automatic: dict[str, Any] = {"fix": {"model.precision": "auto"}, "fix_label": "Choose automatically"}
    if not gpus:
        if wanted == "bfloat16":
            text = "Most processors imitate bfloat16, slowly; float32 is right here."
            return Finding(name=name, state="warning", text=text, **automatic)
        if case.shape and case.shape.parameters > SLOW_ON_A_PROCESSOR:
            size = _weights(case.shape.parameters)
            text = f"No GPU: float32 on the processor is right, but slow with {size}. Use a machine with a GPU."
            return Finding(name=name, state="warning", text=text)
        return Finding(name=name, state="good", text="No GPU: the processor computes in float32.")
    gpu = gpus[0].name
    if not case.machine.has_bfloat16:
        if wanted == "bfloat16":
            text = f"{gpu} has no bfloat16 and imitates it, slowly."
            return Finding(name=name, state="warning", text=text, **automatic)
        text = f"{gpu} has no bfloat16: float32 works, but is slower and needs twice the memory. An L4 or newer has it."
        return Finding(name=name, state="warning", text=text)
    if wanted == "float32":
        text = f"float32 needs twice the memory and more time; {gpu} has bfloat16."
        return Finding(name=name, state="warning", text=text, **automatic)
    kept = " and keeps the weights that learn in float32" if case.tuning == "full" and wanted == "auto" else ""
    return Finding(name=name, state="good", text=f"{gpu} computes in bfloat16, Gemma's own format{kept}.")


def _attention(case: Case) -> Finding:
    text = "SDPA, PyTorch's own fast attention, is used."
    if not case.shape:
        text = "The kind that suits the model is chosen when it is loaded."
    elif case.shape.softcapped:
        text = "Eager attention is used: this family caps its scores, and SDPA cannot. Long rows take more memory."
    elif case.shape.model_type.startswith("gemma4"):
        text = "SDPA is used: some heads of Gemma 4 are 512 wide, more than FlashAttention 2 can do."
    return Finding(name="Attention", state="good", text=text)


def _towers(case: Case) -> Finding:
    name, shape = "What learns", case.shape
    if not shape:
        return Finding(name=name, state="unknown", text="The model's configuration could not be read yet.")
    senses = " and ".join(sense for sense in shape.modalities if sense != "text")
    if shape.towers:
        frozen = f"{_weights(shape.towers)} for {senses or 'other inputs'}"
        text = f"Only the language model learns. Its {frozen} stay frozen and get no adapter."
    elif senses:
        text = f"The language model learns, from text only; {senses} are not trained."
    elif case.tuning == "full":
        text = "Every weight learns; a text model has nothing that must stay frozen."
    else:
        text = "An adapter learns, and the model itself stays as it is."
    return Finding(name=name, state="good", text=text)


def _disk(case: Case) -> Finding:
    name, free = "Disk", case.disk_free
    if case.disk_needed is None:
        return Finding(name=name, state="unknown", text=f"{_size(free)} are free; what the run needs is not known yet.")
    needed = case.disk_needed(case.config)
    if needed <= free:
        return Finding(name=name, state="good", text=f"Needs about {_size(needed)}; {_size(free)} are free.")
    text = f"Needs about {_size(needed)}, but only {_size(free)} are free."
    certain = case.disk_certain is not None and case.disk_certain(case.config) > free
    state: State = "bad" if certain else "warning"
    usual = RATES[case.config.method.objective, "adapter"][1]
    fewer: Fix = {"training.keep_checkpoints": 1}
    adapter: Fix = {"method.adapter": "lora", "training.learning_rate": usual}
    tried = [(fewer, "Keep one checkpoint")]
    if case.tuning == "full":
        tried += [(adapter, "Train an adapter"), (fewer | adapter, "Train an adapter, keep one checkpoint")]
    for fix, label in tried:
        if case.disk_needed(case.config.changed(fix)) <= free:
            return Finding(name=name, state=state, text=text, fix=fix, fix_label=label)
    room = "Make room (`python -m gemma_ft disk` lists what the runs take), or choose a smaller model."
    return Finding(name=name, state=state, text=f"{text} {room}")


def _system(case: Case) -> Finding:
    state, text = SYSTEM_TURNS[case.system_turns]
    return Finding(name="System messages", state=state, text=text)


SYSTEM_TURNS: dict[SystemTurns | None, tuple[State, str]] = {
    None: ("good", "The data has no system messages."),
    "own turn": ("good", "System messages get a turn of their own, as this model knows them."),
    "folded": (
        "good",
        "This model has no system turn: system messages go in front of the first question, also in use.",
    ),
    "not known": ("unknown", "The data has not been looked at with this model yet."),
}


def _learning_rate(case: Case) -> Finding:
    name, rate = "Learning rate", case.config.training.learning_rate
    low, usual, high = RATES[case.config.method.objective, case.tuning]
    tiny = case.shape.parameters < TINY if case.shape else case.config.model.id == DEMO_MODEL
    how = {"adapter": "an adapter", "full": "full tuning"}[case.tuning]
    what = how if case.config.method.objective == "sft" else f"DPO with {how}"
    fix: dict[str, Any] = {"fix": {"training.learning_rate": usual}, "fix_label": f"Use {usual:g}"}
    if rate > high and not tiny:
        text = f"{rate:g} is so high for {what} that the model may fall apart; {usual:g} is usual."
        return Finding(name=name, state="warning", text=text, **fix)
    if rate < low:
        text = f"{rate:g} is so low for {what} that little may be learned; {usual:g} is usual."
        return Finding(name=name, state="warning", text=text, **fix)
    return Finding(name=name, state="good", text=f"{rate:g} is fine for {'so small a model' if tiny else what}.")


def _optimizer(case: Case) -> Finding:
    name, chosen = "Optimizer", case.config.training.optimizer
    plain: dict[str, Any] = {"fix": {"training.optimizer": "adamw"}, "fix_label": "Use AdamW"}
    if chosen == "adamw_8bit" and not case.machine.gpus:
        text = "AdamW in 8 bits needs an NVIDIA GPU, and there is none here."
        return Finding(name=name, state="bad", text=text, **plain)
    if chosen == "adamw_8bit" and not case.installed("bitsandbytes"):
        text = "AdamW in 8 bits needs bitsandbytes: pip install bitsandbytes"
        return Finding(name=name, state="bad", text=text, **plain)
    called = {"adamw": "AdamW", "adamw_8bit": "AdamW in 8 bits", "adafactor": "Adafactor"}[chosen]
    return Finding(name=name, state="good", text=f"{called} works on this machine.")


def _four_bits(case: Case) -> Finding | None:
    """Only QLoRA has this line."""
    if case.config.method.adapter != "qlora":
        return None
    name = "4 bits"
    lora: dict[str, Any] = {"fix": {"method.adapter": "lora"}, "fix_label": "Use LoRA"}
    if not case.installed("bitsandbytes"):
        text = "QLoRA needs bitsandbytes: pip install bitsandbytes"
        return Finding(name=name, state="bad", text=text, **lora)
    if not case.machine.gpus:
        text = "QLoRA works without a GPU, but slowly; LoRA is faster where memory suffices."
        return Finding(name=name, state="warning", text=text, **lora)
    return Finding(name=name, state="good", text="The frozen weights are kept in 4 bits on the GPU.")


LINES: tuple[Callable[[Case], Finding | None], ...] = (
    _licence,
    _publishing,
    _library,
    _number_format,
    _attention,
    _towers,
    _disk,
    _system,
    _learning_rate,
    _optimizer,
    _four_bits,
)


def _weights(count: int) -> str:
    return f"{_figure(count / 1e9)} billion weights" if count >= 1e9 else f"{_figure(count / 1e6)} million weights"


def _size(count: int) -> str:
    return f"{_figure(count / 1e9)} GB" if count >= 1e8 else f"{_figure(count / 1e6)} MB"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"
