"""A headless browser on a local page: python plots_in_browser.py CHROMIUM PAGE

Prints how many pictures the page shows, and every request that is not for a file of this machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_SHOWN = "[...document.images].filter(image => image.complete && image.naturalWidth > 0).length"


def main() -> None:
    browser, page_file = sys.argv[1], Path(sys.argv[2])
    with sync_playwright() as kit:
        window = kit.chromium.launch(executable_path=browser, chromium_sandbox=False)
        page = window.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri(), wait_until="networkidle")
        print(page.evaluate(_SHOWN), *(url for url in asked if not url.startswith("file:")))
        window.close()


if __name__ == "__main__":
    main()
