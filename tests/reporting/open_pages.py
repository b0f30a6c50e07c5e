"""Pages in a headless browser on a desk and a telephone, light and dark, and printed.

    python open_pages.py CHROMIUM FOLDER PAGE...

Writes screenshots and PDFs into FOLDER. Prints one JSON object per view: what was asked for besides
the file, what the console said, how wide the page is, and whether the contents stay in view.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

_SEEN = """() => ({
  width: document.documentElement.scrollWidth,
  screen: window.innerWidth,
  contents: getComputedStyle(document.querySelector("nav")).position,
  cut: [...document.querySelectorAll("svg")].filter(
    (one) => one.getBoundingClientRect().right > one.closest(".drawings").getBoundingClientRect()
      .left + one.closest(".drawings").scrollWidth + 1).length,
})"""


def main() -> None:
    browser, folder, pages = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    with sync_playwright() as kit:
        window = kit.chromium.launch(
            executable_path=browser, args=["--disable-gpu"], chromium_sandbox=False
        )
        for file in map(Path, pages):
            for scheme in ("light", "dark"):
                for width in (1400, 390):
                    screen = {"width": width, "height": 900}
                    page = window.new_context(viewport=screen, color_scheme=scheme).new_page()
                    asked: list[str] = []
                    said: list[str] = []
                    page.on("request", lambda request, found=asked: found.append(request.url))
                    page.on("console", lambda message, found=said: found.append(message.text))
                    page.on("pageerror", lambda error, found=said: found.append(str(error)))
                    page.goto(file.as_uri())
                    seen: dict[str, Any] = page.evaluate(_SEEN)
                    foreign = [url for url in asked if not url.startswith(("file:", "data:"))]
                    view = {"page": file.name, "scheme": scheme, **seen}
                    print(json.dumps({**view, "foreign": foreign, "said": said}))
                    name = f"{file.stem}-{width}-{scheme}"
                    page.screenshot(path=folder / f"{name}.png", full_page=True)
            page.pdf(path=folder / f"{file.stem}.pdf")
        window.close()


if __name__ == "__main__":
    main()
