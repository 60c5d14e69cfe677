"""What a Gemma is made of: the catalogue's figures against models that are built, adapters against those of PEFT."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gemma_families import FAMILIES
from gemma_ft import catalog
from gemma_ft.catalog import CATALOG, find
from gemma_ft.config import Targets
from gemma_ft.errors import ModelError
from gemma_ft.shape import ModelShape
from gemma_ft.train import demo_model, inspection, loading
from gemma_ft.train.inspection import inspect, shape_of

SHAPES = {f"{model.family} {model.size}": model.shape for model in CATALOG}
WORDS = 384
TOWERS = {"model_type", "architecture", "parameters", "towers", "modalities"}
"""Figures that need a whole model, and not its language model only."""

PUBLISHED = {  # id: billions of weights, LoRA weights for each unit of rank, layers that get an adapter
    "google/gemma-2-2b": (2.614, 1_297_920, 182),
    "google/gemma-2-9b": (9.242, 3_376_128, 294),
    "google/gemma-2-27b": (27.227, 7_136_256, 322),
    "google/gemma-3-270m": (0.268, 237_312, 126),
    "google/gemma-3-1b-pt": (1.000, 815_360, 182),
    "google/gemma-3-4b-pt": (4.300, 1_862_656, 238),
    "google/gemma-3-12b-pt": (12.187, 4_091_904, 336),
    "google/gemma-3-27b-pt": (27.432, 7_094_784, 434),
    "google/gemma-4-E2B": (5.104, 1_509_888, 205),
    "google/gemma-4-E4B": (7.941, 2_180_096, 258),
    "google/gemma-4-12B": (11.960, 4_098_048, 328),
    "google/gemma-4-26B-A4B": (25.806, 1_161_600, 205),
    "google/gemma-4-31B": (31.273, 7_651_840, 410),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", SHAPES)
def test_the_catalogue_has_what_is_counted(name: str) -> None:
    config = catalog.configs()[name]
    if config["model_type"] == "gemma3n" and not find_spec("timm"):
        config = {"model_type": "gemma3n_text", **config["text_config"]}
        counted, written = (
            {key: value for key, value in dataclasses.asdict(shape).items() if key not in TOWERS}
            for shape in (shape_of(config), SHAPES[name])
        )
        assert counted == written
    else:
        assert shape_of(config) == SHAPES[name]


@pytest.mark.parametrize("model_id", PUBLISHED)
def test_counts_are_the_published_ones(model_id: str) -> None:
    billions, each_rank, adapted = PUBLISHED[model_id]
    shape = find(model_id).shape
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert shape.adapter_weights(1, "all") == each_rank
    assert shape.attention.layers + shape.mlp.layers == adapted


@pytest.mark.parametrize(("model_id", "billions"), [("google/gemma-3n-E2B", 5.44), ("google/gemma-3n-E4B", 7.85)])
def test_gemma_3n_lacks_the_published_weights_that_nothing_uses(model_id: str, billions: float) -> None:
    """The files hold keys and values for layers that share those of others; transformers leaves them out."""
    shape = find(model_id).shape
    keys_and_values = 2 * shape.hidden * shape.kv_heads * shape.head_dim
    unused = (4 * shape.layers - shape.attention.layers) // 2 * keys_and_values
    assert (shape.parameters + unused) / 1e9 == pytest.approx(billions, abs=0.005)


def test_experts_and_tables() -> None:
    experts = find("google/gemma-4-26B-A4B").shape
    assert experts.experts == 128
    assert experts.active / 1e9 == pytest.approx(3.8, abs=0.05)
    assert experts.ffn == 2112 + 8 * 704
    assert experts.language - experts.quantisable - experts.embedding == pytest.approx(22.84e9, rel=0.005)
    small = find("google/gemma-4-E2B").shape
    assert small.per_layer_embedding / 1e9 == pytest.approx(2.349, abs=0.001)
    assert small.active / 1e9 == pytest.approx(2.3, abs=0.05), "its name says E2B: two billion effective weights"
    assert find("google/gemma-2-2b").shape.softcapped
    assert not find("google/gemma-3-1b-it").shape.softcapped


def test_the_demo_is_the_one_that_is_built() -> None:
    model = demo_model._new_model(demo_model.VOCABULARY)
    assert shape_of(model.config) == SHAPES["Offline demo Gemma 3 tiny"]


def test_the_layers_are_those_that_are_adapted() -> None:
    assert loading.LAYERS["attention"] == inspection.ATTENTION
    assert loading.LAYERS["mlp"] == inspection.MLP


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.available])
def test_a_folder_is_enough_and_it_is_what_is_loaded(family: str, tmp_path: Path) -> None:
    """Counts are those of the real model; 4 bits are for the layers that adapters go on."""
    torch.manual_seed(0)
    model = FAMILIES[family].make(WORDS)
    model.config.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    shape = inspect(tmp_path)
    assert shape == shape_of(model.config)
    assert shape.architecture == FAMILIES[family].kind
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    assert shape.towers == sum(
        each.numel()
        for name, each in model.named_parameters()
        if name.startswith(FAMILIES[family].inside_towers or ("none",))
    )
    assert shape.quantisable == sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.startswith(FAMILIES[family].language)
        and name.rpartition(".")[2] in loading.LAYERS["all"]
    )
    assert (shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (32, 2, 1, 16)
    assert (shape.vocabulary, shape.context, shape.window) == (WORDS, 512, 16)
    assert shape.full_attention_layers * 2 == shape.layers == len(model.get_decoder().layers)
    assert shape.experts == (4 if family == "gemma4_experts" else 0)


@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.available])
def test_adapters_are_as_large_as_peft_makes_them(family: str, targets: Targets) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    for dora in (False, True):
        model = FAMILIES[family].make(WORDS)
        shape = shape_of(model.config)
        chosen = loading.adapter_targets(model, targets)
        adapted = get_peft_model(model, LoraConfig(r=3, use_dora=dora, target_modules=chosen))
        trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
        assert shape.adapter_weights(3, targets, dora=dora) == trained


def test_the_first_gemma_and_the_private_one_are_known() -> None:
    for kind, layers in (("gemma", 28), ("vaultgemma", 26)):
        shape = shape_of({"model_type": kind})
        assert shape.architecture.endswith("ForCausalLM")
        assert shape.layers == layers
    first = shape_of({"model_type": "gemma"})
    assert first.parameters / 1e9 == pytest.approx(8.54, abs=0.01), "Gemma 7B, as its card counts"
    assert (first.full_attention_layers, first.window) == (28, 8192)


def test_an_output_layer_of_its_own_counts_and_the_table_does_not_work() -> None:
    tiny = {"model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": WORDS}
    tied, untied = (shape_of({**tiny, "tie_word_embeddings": tie}) for tie in (True, False))
    assert untied.parameters == untied.language == tied.parameters + WORDS * 32
    assert untied.active == tied.active


def test_a_configuration_is_left_as_it_is() -> None:
    config = transformers.Gemma3TextConfig(num_hidden_layers=2)
    before = config.to_json_string()
    shape_of(config)
    assert config.to_json_string() == before


def test_what_a_published_configuration_says_besides_is_no_matter() -> None:
    """Old names, wishes for packages that are not here, weights in 4 bits, and code that is never run."""
    published = {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "vocab_size": 262_144,
        "max_position_embeddings": 32_768,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10_000,
        "rope_scaling": None,
        "rope_theta": 1_000_000,
        "cache_implementation": "hybrid",
        "torch_dtype": "bfloat16",
    }
    besides = {
        "attn_implementation": "flash_attention_2",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    assert shape_of(published) == shape_of({**published, **besides}) == SHAPES["Gemma 3 1B"]


def refusal(config: Any) -> str:
    with pytest.raises(ModelError) as caught:
        shape_of(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("paligemma", "pictures"),
        ("shieldgemma2", "judges"),
        ("t5gemma", "encoder"),
        ("t5gemma2_text", "encoder"),
        ("recurrent_gemma", "recurrent"),
        ("diffusion_gemma", "diffusion"),
        ("embedding_gemma2", "vector"),
        ("gemma4_assistant", "drafts"),
        ("gemma4_unified_assistant", "drafts"),
        ("gemma3n_audio", "part of a model"),
        ("gemma4_vision", "part of a model"),
    ],
)
def test_gemmas_that_cannot_be_tuned_here(kind: str, why: str) -> None:
    said = refusal({"model_type": kind})
    assert repr(kind) in said
    assert why in said
    assert "google/gemma-3-1b-it" in said


def test_every_gemma_that_transformers_knows_is_measured_or_refused_by_name() -> None:
    """None of their own default configurations ends in anything but a shape or a reason; a new kind shows up here."""
    tuned, reasons = set(), {}
    for kind in (kind for kind in transformers.CONFIG_MAPPING if "gemma" in kind):
        try:
            assert isinstance(shape_of({"model_type": kind}), ModelShape)
            tuned.add(kind)
        except ModelError as error:
            reasons[kind] = error.report.what_happened
    assert [kind for kind, reason in reasons.items() if "damaged" in reason] == []
    text = {"gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "gemma4_unified_text", "vaultgemma"}
    assert text | {"gemma3", "gemma4", "gemma4_unified"} <= tuned
    assert "gemma4_audio" in reasons
    assert ("gemma3n" in tuned) == (find_spec("timm") is not None)


def test_an_embedding_model_in_the_clothes_of_gemma_3() -> None:
    embedder = {"model_type": "gemma3_text", "architectures": ["Gemma3TextModel"]}
    assert "Gemma3TextModel" in refusal(embedder)
    assert "embeds" in refusal({"model_type": "gemma3_text", "use_bidirectional_attention": True})
    assert "judges" in refusal({"model_type": "gemma2", "architectures": ["Gemma2ForSequenceClassification"]})


def test_no_gemma_and_a_gemma_of_tomorrow() -> None:
    assert "'llama', not a Gemma" in refusal({"model_type": "llama"})
    said = refusal({"model_type": "gemma9", "architectures": ["Gemma9ForCausalLM"]})
    assert "does not know" in said
    assert "Upgrade" in said


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_gemma_3n_asks_for_timm() -> None:
    said = refusal({"model_type": "gemma3n"})
    assert "requirements-gemma3n.txt" in said


@pytest.mark.parametrize(
    "damage",
    [
        {"hidden_size": "wide"},
        {"hidden_size": -1},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 2, "layer_types": ["sideways", "full_attention"]},
        {"num_hidden_layers": 0},
        {"head_dim": 0},
        {"model_type": None},
        {"model_type": 3},
    ],
)
def test_a_damaged_configuration(damage: dict[str, Any]) -> None:
    assert "damaged" in refusal({"model_type": "gemma3_text", **damage})


def test_a_damaged_part_of_a_configuration() -> None:
    assert "damaged" in refusal({"model_type": "gemma3", "text_config": "none"})
    assert "damaged" in refusal({"model_type": "gemma4", "text_config": {"num_hidden_layers": "many"}})


def test_folders_without_a_configuration(tmp_path: Path) -> None:
    def said() -> str:
        with pytest.raises(ModelError) as caught:
            inspect(tmp_path)
        return str(caught.value)

    assert "no config.json" in said()
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in said()
    for text in ("", "{", "[]", "3", "{}", '{"model_type": ' + "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        assert "damaged" in said()
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "damaged" in said()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    assert "not a Gemma" in said()
