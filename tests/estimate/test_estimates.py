"""The estimates against what must hold of any honest ones: sums, order, and configurations that are valid and fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from estimate.shapes import ROWS, SIZES, config, machine, shape
from gemma_ft.config import RunConfig, parse_config
from gemma_ft.estimate.flavours import FLAVOURS, cheapest, live_flavours, price_list
from gemma_ft.estimate.memory import decide_checkpointing, decide_sharding, estimate_memory
from gemma_ft.estimate.plan import optimizer_steps, plan_run
from gemma_ft.estimate.presets import LABELS, PRESETS, Preset, preset
from gemma_ft.estimate.remedies import remedies
from gemma_ft.estimate.workload import Workload, sequences

ONE_B, FOUR_B, TINY = "google/gemma-3-1b-it", "google/gemma-3-4b-it", "demo/gemma-3-tiny"
TWELVE_B = "google/gemma-3-12b-it"
GIB = 2**30


def likely(workload: Workload = ROWS, where: str = "a100-large", model: str = ONE_B, **knobs: Any) -> int:
    return estimate_memory(config(**knobs), shape(model), workload, machine(where)).likely


def test_the_parts_sum_up_and_tell_what_is_there() -> None:
    memory = estimate_memory(config(), shape(ONE_B), ROWS, machine("l4x1"))
    assert {term.name for term in memory.terms} == {
        "weights",
        "adapter",
        "gradients",
        "optimizer",
        "activations",
        "loss",
        "runtime",
    }
    assert memory.low == sum(term.low for term in memory.terms) <= memory.likely <= memory.high
    assert all(term.why for term in memory.terms)
    assert (memory.where, memory.available) == ("GPU", machine("l4x1").gpus[0].free)


@pytest.mark.parametrize("model", SIZES.values(), ids=lambda model: f"{model.family} {model.size}")
def test_the_exact_parts_follow_from_the_counts(model: Any) -> None:
    for knobs, bits, trained in (
        ({"adapter": "lora", "rank": 8}, 16, model.shape.adapter_weights(8, "all")),
        ({"adapter": "none"}, 32, model.shape.language),
        ({"adapter": "none", "precision": "bfloat16"}, 16, model.shape.language),
    ):
        memory = estimate_memory(config(**knobs), model.shape, ROWS, machine("a100-large"))
        terms = {term.name: term for term in memory.terms}
        number = 2 if knobs.get("precision") else 4
        assert terms["weights"].low == terms["weights"].high == model.shape.parameters * bits // 8
        assert terms["gradients"].low == terms["gradients"].high == trained * number
        assert terms["optimizer"].low == terms["optimizer"].high == 2 * trained * number


def test_a_known_case_is_of_the_size_that_people_report() -> None:
    """QLoRA of a 4B model fits a card of 16 GB with bfloat16; full AdamW of a 1B model takes 16 bytes per weight."""
    four_bits = estimate_memory(
        config(adapter="qlora", batch_size=1, gradient_checkpointing="on"), shape(FOUR_B), ROWS, machine("l4x1")
    )
    assert 4 * GIB < four_bits.likely < 8 * GIB
    full = estimate_memory(config(adapter="none", batch_size=1), shape(ONE_B), ROWS, machine("a100-large"))
    assert 16e9 < full.likely < 28e9


@pytest.mark.parametrize("model", [ONE_B, "google/gemma-2-2b-it", "google/gemma-4-E2B-it"])
@pytest.mark.parametrize("where", ["a100-large", "t4-small", "cpu-upgrade"])
def test_more_work_needs_more_memory(model: str, where: str) -> None:
    given = {"model": model, "where": where}
    off = {"gradient_checkpointing": "off"}
    by_batch = [likely(batch_size=size, **off, **given) for size in (1, 2, 4, 8)]
    by_length = [likely(replace(ROWS, longest=length), **off, **given) for length in (128, 512, 1024, 4096)]
    by_rank = [likely(rank=rank, **off, **given) for rank in (4, 16, 64, 256)]
    for sizes in (by_batch, by_length, by_rank):
        assert all(less < more for less, more in pairwise(sizes))
    assert likely(gradient_checkpointing="on", **given) < likely(gradient_checkpointing="off", **given)
    assert likely(objective="dpo", **off, **given) > likely(**off, **given)
    assert likely(adapter="none", **off, **given) > likely(**off, **given) > likely(adapter="qlora", **off, **given)
    by_optimizer = [likely(adapter="none", batch_size=1, optimizer=o, **given) for o in ("adamw_8bit", "adamw")]
    assert by_optimizer[0] < by_optimizer[1]


def test_full_dpo_keeps_the_model_it_compares_with() -> None:
    terms = estimate_memory(config(adapter="none", objective="dpo"), shape(ONE_B), ROWS, machine("a100-large")).terms
    assert {term.name: term.low for term in terms}["reference model"] == 2 * shape(ONE_B).parameters


def test_checkpointing_is_chosen_only_when_it_must() -> None:
    auto = config(batch_size=16)
    assert not decide_checkpointing(auto, shape(ONE_B), ROWS, machine("a100-large"))
    assert decide_checkpointing(auto, shape(ONE_B), ROWS, machine("t4-small"))
    assert decide_checkpointing(config(gradient_checkpointing="on"), shape(TINY), ROWS, machine("a100-large"))


@pytest.mark.parametrize(
    ("rows", "knobs", "steps"),
    [
        (1, {}, 3),
        (8, {}, 3),
        (9, {}, 6),
        (999, {}, 375),
        (999, {"accumulation": 4}, 96),
        (50, {"epochs": 0.3}, 3),
        (50, {"epochs": 2.5}, 18),
        (1, {"epochs": 0.01}, 1),
        (999, {"max_steps": 5}, 5),
    ],
)
def test_steps_are_whole_batches_of_each_epoch(rows: int, knobs: dict[str, Any], steps: int) -> None:
    """The last batch of an epoch may be smaller; the steps of all epochs together are rounded up."""
    plan = plan_run(config(**knobs), shape(TINY), replace(ROWS, train_rows=rows), machine("l4x1"))
    assert plan.steps == optimizer_steps(config(**knobs), rows) == steps


def test_a_plan_counts_tokens_time_and_disk() -> None:
    plan = plan_run(config(epochs=2, keep_checkpoints=3), shape(ONE_B), ROWS, machine("l4x1"))
    adapter = 4 * shape(ONE_B).adapter_weights(16, "all")
    assert plan.supervised_tokens == 2 * 1000 * 150
    assert 2 * 1000 * 300 < plan.tokens <= 2 * 1000 * 700
    assert 0 < plan.seconds_low < plan.seconds_high
    assert plan.checkpoint_bytes == 3 * adapter
    assert plan.disk_bytes == 4 * plan.checkpoint_bytes + adapter
    assert plan.download_bytes == 2 * shape(ONE_B).parameters
    full = plan_run(config(adapter="none"), shape(ONE_B), ROWS, machine("l4x1"))
    assert full.checkpoint_bytes == 12 * shape(ONE_B).parameters


def test_time_follows_the_hardware_and_the_work() -> None:
    def high(where: str, model: str = ONE_B, **knobs: Any) -> float:
        return plan_run(config(**knobs), shape(model), ROWS, machine(where)).seconds_high

    assert high("cpu-upgrade") > high("t4-small") > high("l4x1") > high("a100-large") > high("h200")
    assert high("a100-large", FOUR_B) > high("a100-large", ONE_B)
    assert high("a100-large", adapter="none") > high("a100-large")
    assert high("a100-large", adapter="qlora") > high("a100-large")
    assert high("a100-large", packing=True) < high("a100-large")


def test_packing_makes_fewer_sequences() -> None:
    packed = config(packing=True, max_length=1024)
    assert sequences(config(), ROWS) == 1000
    assert 1000 * 300 / 1024 < sequences(packed, ROWS) < 1000 * 300 / 1024 * 1.2
    assert sequences(packed, replace(ROWS, train_rows=1)) == 1


def test_a_workload_is_read_from_an_xray() -> None:
    figures = {
        "rows": 10,
        "of": 500,
        "sequences": 20,
        "tokens": 2000,
        "supervised_tokens": 500,
        "max_length": 128,
        "lengths": {"longest": 300, "mean": 110.0},
    }
    seen = Workload.from_xray(figures, config(max_length=128))
    assert seen == Workload(500, 128, 100.0, 25.0, measured=True)
    assert Workload.from_xray(figures, config(max_length=64)).mean_tokens == 64
    assert Workload.from_xray(figures, config(max_length=1024)).longest == 300
    assumed = Workload.assumed(config(max_length=1024), 10)
    assert (assumed.longest, assumed.measured) == (1024, False)


def test_the_price_list_names_the_cheapest_that_fits() -> None:
    offers = price_list(config(gradient_checkpointing="on"), shape(FOUR_B), ROWS, FLAVOURS)
    assert [offer.flavour for offer in offers] == list(FLAVOURS)
    best = cheapest(offers)
    assert best is not None
    assert best.fits == "fits"
    assert best.flavour.machine.gpus
    rivals = [offer for offer in offers if offer.fits == "fits" and offer.flavour.machine.gpus]
    assert best.dollars_low + best.dollars_high == min(o.dollars_low + o.dollars_high for o in rivals)
    assert best.dollars_high == pytest.approx(best.hours_high * best.flavour.dollars_per_hour)
    tiny = cheapest(price_list(config(), shape(TINY), ROWS, FLAVOURS))
    assert tiny is not None
    assert tiny.flavour.name == "cpu-basic"
    assert cheapest(price_list(config(adapter="none"), shape("google/gemma-3-27b-it"), ROWS, FLAVOURS)) is None


def test_live_prices_replace_the_dated_ones() -> None:
    item = {
        "name": "l4x1",
        "label": "Nvidia L4",
        "dollars_per_hour": 0.5,
        "cores": 8,
        "memory": 30 * 10**9,
        "gpu": "L4",
        "gpus": 1,
        "gpu_memory": 24 * 10**9,
        "places": ["spaces"],
    }
    free = {"name": "cpu-new", "dollars_per_hour": 0, "cores": 2, "memory": 16 * 10**9, "gpu": None, "gpus": 0}
    first, second = live_flavours([item, free])
    assert (first.dollars_per_hour, first.places, first.machine.gpus[0].capability) == (0.5, ("spaces",), (8, 9))
    assert first.machine.disk_free == machine("l4x1").disk_free
    assert (second.label, second.machine.gpus) == ("cpu-new", ())


def test_there_are_no_remedies_for_what_fits() -> None:
    assert remedies(config(), shape(ONE_B), ROWS, machine("h200")) == []


def test_the_first_remedy_learns_the_same() -> None:
    given = config(batch_size=16, accumulation=3, gradient_checkpointing="off")
    first, *_ = remedies(given, shape(ONE_B), ROWS, machine("l4x1"))
    assert first.changes["training.batch_size"] * first.changes["training.accumulation"] == 48
    assert first.fits == "fits"


@pytest.mark.parametrize("where", ["t4-small", "l4x1", "cpu-basic"])
@pytest.mark.parametrize("knobs", [{"adapter": "none"}, {"adapter": "lora"}, {"objective": "dpo"}, {"packing": True}])
def test_remedies_are_true(where: str, knobs: dict[str, Any]) -> None:
    """Every remedy helps, is a valid configuration, and its effect is what the estimate says of it."""
    given = config(batch_size=8, gradient_checkpointing="off", **knobs)
    before = estimate_memory(given, shape(FOUR_B), ROWS, machine(where))
    found = remedies(given, shape(FOUR_B), ROWS, machine(where))
    assert found
    for remedy in found:
        changed = given.changed(remedy.changes)
        after = estimate_memory(changed, shape(FOUR_B), ROWS.cut_to(changed.training.max_length), machine(where))
        assert remedy.memory == after
        assert after.high < before.high
        assert remedy.label
        assert remedy.cost
    alone = [remedy for remedy in found[:-1] if remedy.fits == "fits"]
    if found[-1].fits == "fits" and not alone and len(found) > 1:
        assert len(found[-1].changes) >= 2 or len(found) == 1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("model", SIZES.values(), ids=lambda model: f"{model.family} {model.size}")
def test_a_preset_is_valid_and_fits_if_anything_does(name: Preset, model: Any) -> None:
    for where in ("cpu-basic", "t4-small", "l4x1", "a100-large"):
        for objective in ("sft", "dpo"):
            given = config(objective=objective, id=model.id)
            made = preset(name, given, model.shape, ROWS, machine(where))
            assert parse_config(made.model_dump(mode="json")) == made
            kept = made.model_copy(update={"method": given.method, "training": given.training})
            assert kept == given
            assert made.method.objective == objective
            assert made.training.max_length <= model.shape.context
            assert made.training.eval_every >= 1
            if made.method.adapter == "qlora":
                assert machine(where).gpus
            work = ROWS.cut_to(made.training.max_length)
            if estimate_memory(made, model.shape, work, machine(where)).fits != "fits":
                left = remedies(made, model.shape, work, machine(where))
                assert not any(remedy.fits == "fits" for remedy in left)


def test_the_presets_differ_in_what_they_are_for() -> None:
    def made(name: Preset, model: str = ONE_B, workload: Workload = ROWS, where: str = "a100-large") -> RunConfig:
        return preset(name, config(), shape(model), workload, machine(where))

    quick, balanced, best, small = (made(name) for name in PRESETS)
    assert (quick.method.rank, quick.training.max_steps) == (8, 60)
    assert (balanced.method.adapter, balanced.method.rank, balanced.training.learning_rate) == ("lora", 16, 2e-4)
    assert best.method.adapter == "none"
    assert best.training.keep_best
    assert small.method.adapter == "qlora"
    assert (small.training.batch_size, small.training.gradient_checkpointing) == (1, "on")
    larger = made("best", FOUR_B)
    assert (larger.method.adapter, larger.method.rslora) == ("lora", True)
    assert made("balanced", "google/gemma-3-12b-it").training.learning_rate == 1e-4
    assert made("balanced", TINY).training.learning_rate == 5e-3
    few = made("balanced", workload=replace(ROWS, train_rows=20))
    assert few.training.batch_size * few.training.accumulation == 4
    assert set(LABELS) == set(PRESETS)


def on_gpus(flavour: str, **knobs: Any) -> tuple[RunConfig, Any]:
    """A config with knobs of the section `compute` too, and a machine."""
    compute = {name: knobs.pop(name) for name in ("processes", "sharding") if name in knobs}
    return config(**knobs).changed({f"compute.{name}": value for name, value in compute.items()}), machine(flavour)


def terms_of(given: RunConfig, model: str, where: Any) -> dict[str, int]:
    return {term.name: term.low for term in estimate_memory(given, shape(model), ROWS, where).terms}


def test_each_of_several_gpus_needs_memory_for_its_own_rows() -> None:
    """With copies of the weights it is the run of one GPU on its rows, and the gradients that are exchanged."""
    off = {"gradient_checkpointing": "off"}
    _, four = on_gpus("l4x4")
    for rows, of_one in (({"batch_size": 8}, 2), ({"batch_size": 1, "accumulation": 4}, 1)):
        one = terms_of(config(batch_size=of_one, **off), ONE_B, machine("l4x1"))
        terms = terms_of(config(**rows, **off), ONE_B, four)
        assert terms.pop("exchange") == one["gradients"]
        assert terms["runtime"] >= one["runtime"]
        assert terms | {"runtime": 0} == one | {"runtime": 0}


def test_several_gpus_are_faster_and_make_the_same_steps() -> None:
    given = config(batch_size=8, gradient_checkpointing="off")
    one, four = (plan_run(given, shape(ONE_B), ROWS, machine(name)) for name in ("a100-large", "a100x4"))
    assert four.steps == one.steps
    assert one.seconds_high / 4 < four.seconds_high < one.seconds_high / 2


def test_weights_that_are_spread_are_divided_but_for_what_is_gathered() -> None:
    whole, where = on_gpus("a100x4", adapter="none", batch_size=4, sharding="off")
    parts = whole.changed({"compute.sharding": "on"})
    before, after = terms_of(whole, FOUR_B, where), terms_of(parts, FOUR_B, where)
    for name in ("weights", "gradients", "optimizer"):
        assert after[name] == -(-before[name] // 4)
    four_b = shape(FOUR_B)
    assert after["gathered"] > four_b.embedding * 4
    assert "gathered" not in before
    assert sum(after.values()) < sum(before.values())


def test_weights_are_spread_only_when_copies_do_not_fit() -> None:
    def decided(model: str, where: str, **knobs: Any) -> bool:
        given, on = on_gpus(where, adapter="none", batch_size=8, **knobs)
        return decide_sharding(given, shape(model), ROWS, on)

    assert not decided(ONE_B, "a100x4")
    assert decided(TWELVE_B, "a100x8")
    assert decided(ONE_B, "a100x4", sharding="on")
    assert not decided(TWELVE_B, "a100x8", sharding="off")
    assert not decided(TWELVE_B, "a100-large")
    assert not decided(TWELVE_B, "a100x8", processes=1)
    assert not decided(TWELVE_B, "cpu-upgrade", processes=2)
    assert not decided(TWELVE_B, "a100x8", optimizer="adamw_8bit")
    fits, where = on_gpus("a100x8", adapter="none", batch_size=8)
    assert estimate_memory(fits, shape(TWELVE_B), ROWS, where).fits == "fits"


def test_processes_without_a_gpu_share_the_memory() -> None:
    two, where = on_gpus("cpu-upgrade", batch_size=2, processes=2)
    assert estimate_memory(two, shape(TINY), ROWS, where).available == where.memory_free // 2


def test_spreading_is_offered_where_it_is_switched_off() -> None:
    given, where = on_gpus("a100x8", adapter="none", batch_size=8, sharding="off", gradient_checkpointing="on")
    offered = [
        remedy for remedy in remedies(given, shape(TWELVE_B), ROWS, where) if "compute.sharding" in remedy.changes
    ]
    assert [remedy.fits for remedy in offered] == ["fits"]
    on = given.changed({"compute.sharding": "on", "training.max_length": 131_072})
    for remedy in remedies(on, shape(TWELVE_B), replace(ROWS, longest=100_000), where):
        on.changed(remedy.changes)
