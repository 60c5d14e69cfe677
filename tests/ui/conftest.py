"""A real browser, and pages in it that fail a test when anything on them goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # A busy machine is no mistake.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens a page; errors of its scripts, failed requests and requests elsewhere fail the test."""
    wrong: list[str] = []
    pages: list[Page] = []

    def open_at(url: str, **context: Any) -> Page:
        page = browser.new_context(
            viewport=context.pop("viewport", {"width": 1280, "height": 900}), **context
        ).new_page()
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("request", lambda r: None if r.url.startswith((url[:21], "data:", "blob:")) else wrong.append(r.url))
        page.set_default_timeout(30_000)
        page.goto(url)
        pages.append(page)
        return page

    yield open_at
    for page in pages:
        page.context.close()
    assert wrong == []
