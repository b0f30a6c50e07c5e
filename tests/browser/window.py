"""Headless Chromium as all scripts of this folder drive it: no request of its own, all is noted.

They are started by ``tests/in_browser.py`` with the Python of an environment that has Playwright.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextmanager
def window(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as kit:
        browser = kit.chromium.launch(executable_path=chromium, args=FLAGS, chromium_sandbox=False)
        yield browser
        browser.close()


class Tab:
    """A page that is open: what it asked for elsewhere, what its console said, what it threw."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.foreign: list[str] = []
        self.said: list[str] = []
        self.errors: list[str] = []
        self.page: Page = browser.new_context(**options).new_page()
        scheme, _, rest = address.partition("://")
        own = "file:" if scheme == "file" else f"{scheme}://{rest.partition('/')[0]}/"
        known = (own, "data:", "blob:")
        self.page.on(
            "request", lambda r: None if r.url.startswith(known) else self.foreign.append(r.url)
        )
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
