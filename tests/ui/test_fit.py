"""Model, Method and Review as a person uses them: cards, presets, the fit, the Doctor's remedies, a measurement."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from conftest import App
from gemma_ft.catalog import CATALOG, FAMILIES, find
from gemma_ft.config import MethodConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.estimate.workload import Workload
from gemma_ft.fit import fit_report
from gemma_ft.hardware import Gpu, Machine
from gemma_ft.ui.fit_view import doctor_html, fit_html, measured_html
from gemma_ft.ui.model_cards import BASE, INSTRUCT, cards_html, needs, offered
from gemma_ft.ui.present import size

GIB = 2**30
L4 = Machine(
    name="L4",
    gpus=(Gpu(name="NVIDIA L4", memory=24 * GIB, free=23 * GIB, capability=(8, 9)),),
    cores=8,
    memory=30 * GIB,
    memory_free=28 * GIB,
    disk_free=400 * GIB,
)
MODEL = "google/gemma-3-12b-it"


def fit_of(adapter: str, batch_size: int) -> dict[str, object]:
    config = RunConfig(
        model=ModelConfig(id=MODEL),
        method=MethodConfig(adapter=adapter),  # type: ignore[arg-type]
        training=TrainingConfig(batch_size=batch_size, max_length=2048),
    )
    model = find(MODEL)
    assert model
    return fit_report(config, model.shape, Workload(1000, 2048, 900.0, 400.0, measured=True), L4)


@pytest.mark.parametrize(
    ("number", "said"),
    [(None, "–"), (512, "1 kB"), (640e6, "640 MB"), (1.34e9, "1.3 GB"), (27.4e9, "27 GB"), (999.6e6, "1,000 MB")],
)
def test_sizes(number: float | None, said: str) -> None:
    assert size(number) == said


def test_every_model_of_the_catalogue_is_on_one_card() -> None:
    shown = [model.id for family in FAMILIES for kind in (INSTRUCT, BASE) for model in offered(family, kind)]
    assert set(shown) == {model.id for model in CATALOG}
    html = cards_html(offered("Gemma 3", INSTRUCT), "google/gemma-3-4b-it", L4)
    assert html.count('class="model-card"') == 4
    assert html.count('class="model-card chosen"') == 1
    assert "34 layers" in html


def test_needs_grow_with_the_method_and_decide_what_fits() -> None:
    model = find(MODEL)
    assert model
    (_, four_bits, first), (_, lora, second), (_, full, third) = needs(model.shape, L4)
    assert four_bits < lora < full
    assert (first, second, third) == ("fits", "no", "no")


def test_what_does_not_fit_has_remedies_with_their_price() -> None:
    html = fit_html(fit_of("lora", 8))
    assert "It does not fit" in html
    assert "QLoRA: the base in 4 bits" in html
    assert "&quot;method.adapter&quot;: &quot;qlora&quot;" in html
    assert "Prices of 2026-08-22" in html
    assert "What would make it fit" not in fit_html(fit_of("qlora", 1))


def test_texts_of_others_stay_texts() -> None:
    bad = "<img src=x onerror=alert(1)>"
    line = {"name": bad, "state": "bad", "text": bad, "fix": {"name": bad}, "fix_label": bad, "link": f'"{bad}'}
    assert "<img" not in doctor_html([line])
    assert "<img" not in fit_html(None, {"what_happened": bad})


def test_a_measurement_says_what_the_whole_run_takes() -> None:
    fit = fit_of("qlora", 1)
    found = {"peak": 15.2e9, "where": "GPU", "step_seconds": 2.0, "first_step_seconds": 3.0, "step_tokens": 2048}
    html = measured_html({**found, "run_tokens": 1024.0}, fit)
    steps = fit["plan"]["steps"]  # type: ignore[index]
    assert f"{steps:,} steps at this pace" in html
    assert "1.0 k tokens/s" in html or "1,024 tokens/s" in html


@pytest.mark.browser
def test_a_card_chooses_a_model_and_a_typed_one_finds_its_card(
    start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    page = open_page(start_app().url)
    page.get_by_label("Gemma 2", exact=True).check()
    page.locator(".model-card button").filter(has_text="9B").click()
    model = page.get_by_label("Model", exact=True)
    expect(model).to_have_value("Gemma 2 9B instruction-tuned")
    expect(page.locator(".model-card.chosen")).to_contain_text("42 layers")
    model.fill("google/gemma-3-1b-pt")
    model.press("Enter")
    expect(page.locator(".model-card.chosen")).to_contain_text("26 layers")
    expect(page.get_by_label("Base", exact=True)).to_be_checked()
    expect(page.get_by_label("Gemma 3", exact=True)).to_be_checked()


@pytest.mark.browser
def test_a_preset_fills_in_and_a_remedy_of_the_doctor_lets_it_start(
    start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    page = open_page(start_app().url)
    page.get_by_role("button", name="Next: Data").click()
    expect(page.locator("#data-verdict")).to_contain_text("135 to train on", timeout=60_000)
    page.get_by_role("button", name="Next: Method").click()
    page.get_by_label("Balanced", exact=True).check()
    expect(page.locator("#preset-filled")).to_contain_text("LoRA of rank 16, learning rate 0.005", timeout=60_000)
    expect(page.get_by_label("Learning rate")).to_have_value("0.005")
    page.get_by_role("button", name="Learning: schedule").click()
    optimizer = page.get_by_label("Optimizer", exact=True)
    optimizer.click()
    page.get_by_role("option", name="adamw_8bit").click()
    page.get_by_role("button", name="Next: Review").click()
    expect(page.locator("#review-fit")).to_contain_text("It fits", timeout=60_000)
    bad = page.locator('#review-doctor li[data-state="bad"]')
    expect(bad).to_contain_text("Optimizer")
    expect(page.locator("#start-button")).to_be_disabled()
    bad.get_by_role("button").click()
    expect(page.locator("#review-verdict")).to_contain_text("Ready to start", timeout=60_000)
    expect(page.locator("#review-config")).to_contain_text("optimizer: adamw")
    expect(page.locator("#review-doctor li[data-state='good']")).to_have_count(10)
    expect(page.locator("#start-button")).to_be_enabled()


@pytest.mark.browser
def test_one_press_makes_a_run_fit_that_learns_the_same(
    start_app: Callable[[], App], open_page: Callable[..., Page], tmp_path: Path
) -> None:
    data = tmp_path / "long.jsonl"
    rows = [{"prompt": f"Say {n}", "completion": f"word {n} " * 6000} for n in range(12)]
    data.write_text("\n".join(map(json.dumps, rows)))
    page = open_page(start_app().url)
    page.get_by_role("button", name="Next: Data").click()
    page.get_by_label("A file of mine").check()
    expect(page.locator("#data-verdict")).to_contain_text("Upload a file")
    page.get_by_label("File or folder on this machine").fill(str(data))
    expect(page.locator("#data-verdict")).to_contain_text("11 to train on", timeout=60_000)
    page.get_by_role("button", name="Next: Method").click()
    page.get_by_label("Batch size").fill("1024")
    page.get_by_label("Max length").fill("16384")
    page.get_by_role("button", name="Next: Review").click()
    expect(page.locator("#review-fit")).to_contain_text("It does not fit", timeout=60_000)
    page.locator("#review-fit .remedies button").filter(has_text="atches of").first.click()
    expect(page.locator("#review-fit")).to_contain_text("It fits", timeout=60_000)
    whole = page.locator("#review-config").inner_text()
    size, added = (int(re.findall(rf"{name}: (\d+)", whole)[0]) for name in ("batch_size", "accumulation"))
    assert size * added == 1024
    assert size < 1024


@pytest.mark.browser
@pytest.mark.train
def test_measure_makes_three_steps_and_shows_them(start_app: Callable[[], App], open_page: Callable[..., Page]) -> None:
    app = start_app()
    page = open_page(app.url)
    page.locator("#try-button").click()
    expect(page.locator("#measure-button")).to_be_enabled(timeout=60_000)
    page.locator("#measure-button").click()
    expect(page.locator("#review-measured")).to_contain_text("Measured on this machine", timeout=200_000)
    expect(page.locator("#review-measured")).to_contain_text("150 steps at this pace")
    assert app.manager.runs() == []
