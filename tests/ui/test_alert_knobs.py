"""What alerts do is chosen on the page, one choice for each rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from conftest import App
from gemma_ft.reactions import AlertsConfig

pytestmark = pytest.mark.browser


def test_each_rule_has_a_choice_on_the_method_step_and_it_is_part_of_the_run(
    start_app: Callable[[], App], open_page: Callable[..., Page]
) -> None:
    # So tall that the whole configuration is drawn: its viewer draws only the lines that can be seen.
    page = open_page(start_app().url, viewport={"width": 1280, "height": 4000})
    for step in ("Data", "Method"):
        page.get_by_role("button", name=f"Next: {step}").click()
    page.get_by_role("button", name="What alerts do").click()
    for rule in AlertsConfig.model_fields:
        expect(page.locator(f"#alerts-{rule.replace('_', '-')} input")).to_have_value("nothing")
    page.get_by_label("Loss explodes").click()
    page.get_by_role("option", name="stop", exact=True).click()
    page.get_by_role("button", name="Next: Review").click()
    expect(page.locator("#review-config")).to_contain_text("loss_explodes: stop", timeout=60_000)
    expect(page.locator("#review-config")).to_contain_text("stalled: nothing")
