"""The Data step in a real browser: every source, the mapping, bad rows, and the X-ray with hostile data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from conftest import App
from contrast import CONTRAST
from hub_server import HubServer

pytestmark = [pytest.mark.browser, pytest.mark.train]

HOSTILE = "<img src=x onerror=window.hacked=1> ${window.hacked=1} {{window.hacked}} `a` *b*"
SECONDS_15 = 15_000


def open_data_step(page: Page) -> None:
    page.get_by_role("button", name="Next: Data").click()
    expect(verdict(page)).to_contain_text("135 to train on", timeout=SECONDS_15)


def upload(page: Page, path: Path) -> None:
    page.get_by_label("A file of mine").check()
    page.locator("#data-upload input[type=file]").set_input_files(path)


def verdict(page: Page) -> Locator:
    return page.locator("#data-verdict")


def tokens(page: Page, kind: str) -> str:
    return "".join(page.locator(f"#xray-rows .tokens .tok{kind}").all_text_contents())


def wait_for_xray(page: Page) -> None:
    expect(page.locator("#xray-rows .xray-row .tokens")).to_have_count(5, timeout=SECONDS_15)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_the_xray_shows_what_will_be_trained_and_pages_through_it(
    start_app: Callable[[], App],
    open_page: Callable[..., Page],
) -> None:
    page = open_page(start_app().url)
    open_data_step(page)
    rows = page.locator("#xray-rows .xray-row")
    expect(rows).to_have_count(5, timeout=SECONDS_15)
    expect(page.locator("#xray-figures")).to_contain_text("of 3,381 tokens are trained")
    trained = tokens(page, ".trained")
    assert trained.count("<end_of_turn>") == 5
    assert "<start_of_turn>" not in trained
    assert tokens(page, ".special").count("<bos>") == 5
    expect(rows.first.locator(".raw")).to_contain_text('"role": "assistant"')
    first = rows.first.inner_text()
    page.locator("#xray-forth").click()
    expect(rows.first).to_contain_text("Row 6")
    page.locator("#xray-back").click()
    expect(rows.first).to_contain_text("Row 1 ")
    assert rows.first.inner_text() == first
    expect(page.locator("#xray-back")).to_be_hidden()
    page.locator("#suggested-length").click()
    expect(page.locator("#suggested-length")).to_be_hidden(timeout=SECONDS_15)
    expect(page.locator("#xray-figures")).to_contain_text("Maximum length: 64")
    page.get_by_role("button", name="Next: Method").click()
    expect(page.get_by_label("Max length")).to_have_value("64")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_can_be_read(
    start_app: Callable[[], App],
    open_page: Callable[..., Page],
    scheme: str,
) -> None:
    page = open_page(start_app().url, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    open_data_step(page)
    wait_for_xray(page)
    for selector in (".xray-row h4", ".tokens .tok:not(.trained)", ".lengths p", ".raw"):
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_hostile_rows_stay_text_and_bad_ones_can_be_left_out(
    start_app: Callable[[], App],
    open_page: Callable[..., Page],
    tmp_path: Path,
) -> None:
    rows = [{"Frage": f"{HOSTILE} {n}", "Antwort": HOSTILE if n != 2 else ""} for n in range(12)]
    page = open_page(start_app().url)
    open_data_step(page)
    upload(page, write_rows(tmp_path / "rows.jsonl", rows))
    expect(verdict(page)).to_contain_text("prompt = Frage, completion = Antwort", timeout=SECONDS_15)
    expect(verdict(page)).to_contain_text("Row 3: 'Antwort' is empty")
    wait_for_xray(page)
    assert HOSTILE in tokens(page, ".trained")
    page.get_by_label("Leave out the 1 row that cannot be used").check()
    expect(verdict(page)).to_contain_text("✓ 12 rows", timeout=SECONDS_15)
    assert page.evaluate("() => window.hacked") is None
    page.get_by_role("button", name="Next: Method").click()
    page.get_by_role("button", name="Next: Review").click()
    expect(page.locator("#review-verdict")).to_contain_text("Ready to start", timeout=SECONDS_15)
    expect(page.locator("#review-verdict")).to_contain_text("tokens are trained", timeout=SECONDS_15)


def test_the_mapping_can_be_changed_column_by_column(
    start_app: Callable[[], App],
    open_page: Callable[..., Page],
    tmp_path: Path,
) -> None:
    rows = [{"question": f"q{n}", "answer": f"short {n}", "long_answer": f"long {n}"} for n in range(10)]
    page = open_page(start_app().url)
    open_data_step(page)
    upload(page, write_rows(tmp_path / "rows.jsonl", rows))
    expect(verdict(page)).to_contain_text("completion = answer", timeout=SECONDS_15)
    page.get_by_text("Which column is what").click()
    page.get_by_label("Completion").click()
    page.get_by_role("option", name="long_answer").click()
    expect(verdict(page)).to_contain_text("completion = long_answer", timeout=SECONDS_15)
    expect(page.locator("#xray-rows")).to_contain_text("long ", timeout=SECONDS_15)
    page.get_by_role("button", name="Next: Method").click()
    page.get_by_role("button", name="Next: Review").click()
    expect(page.locator("#review-config")).to_contain_text("long_answer", timeout=SECONDS_15)


def test_a_file_that_cannot_be_used_says_so_and_blocks_the_start(
    start_app: Callable[[], App],
    open_page: Callable[..., Page],
    tmp_path: Path,
) -> None:
    (tmp_path / "sheet.csv").write_bytes(b"PK\x03\x04 an Excel workbook")
    page = open_page(start_app().url)
    open_data_step(page)
    page.get_by_label("A file of mine").check()
    expect(verdict(page)).to_contain_text("Upload a file", timeout=SECONDS_15)
    upload(page, tmp_path / "sheet.csv")
    expect(verdict(page)).to_contain_text("sheet.csv is an Excel workbook or a zip archive", timeout=SECONDS_15)
    page.get_by_role("button", name="Next: Method").click()
    page.get_by_role("button", name="Next: Review").click()
    expect(page.locator("#review-verdict")).to_contain_text("Save the table as CSV", timeout=SECONDS_15)
    expect(page.locator("#start-button")).to_be_disabled()
    page.get_by_role("button", name="Try it", exact=True).click()
    expect(page.locator("#review-verdict")).to_contain_text("Ready to start", timeout=SECONDS_15)


def test_a_data_set_of_the_hub_is_searched_chosen_and_looked_at(
    start_app: Callable[[], App],
    open_page: Callable[..., Page],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {name: [{"prompt": f"{name} {n}", "completion": "a"} for n in range(20)] for name in ("train", "test")}
    files = {f"{name}.jsonl": "\n".join(map(json.dumps, held)).encode() for name, held in rows.items()}
    with HubServer() as hub:
        hub.add_user("me", "hf_me")
        hub.add_repo("me/riddles", files, repo_type="dataset", private=True)
        for name, value in {**hub.environment(), "HF_HOME": str(tmp_path / "hf")}.items():
            monkeypatch.setenv(name, value)
        page = open_page(start_app().url)
        page.get_by_text("Hugging Face token").click()
        page.get_by_label("Hub token").fill("hf_me")
        open_data_step(page)
        page.get_by_label("Hugging Face Hub").check()
        expect(verdict(page)).to_contain_text("Search the Hub", timeout=SECONDS_15)
        name = page.locator("#data-id input")
        name.fill("riddle")
        name.press("Enter")
        expect(verdict(page)).to_contain_text("me/riddles", timeout=SECONDS_15)
        page.locator("#search-button").click()
        expect(page.get_by_text("Open the list to choose.")).to_be_visible(timeout=SECONDS_15)
        name.click()
        name.fill("")
        page.get_by_role("option", name="me/riddles").click()
        expect(verdict(page)).to_contain_text("20 rows", timeout=SECONDS_15)
        split = page.locator("#data-validation-split input")
        split.click()
        page.get_by_role("option", name="test").click()
        expect(verdict(page)).to_contain_text("20 to train on, 20 held out", timeout=SECONDS_15)
        expect(page.locator("#xray-rows")).to_contain_text("train ", timeout=SECONDS_15)
        split = page.locator("#data-split input")
        split.fill("trian")
        split.press("Enter")
        expect(verdict(page)).to_contain_text(re.compile("train"), timeout=SECONDS_15)
        expect(verdict(page)).to_contain_text("trian")
