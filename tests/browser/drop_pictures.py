"""The server's page: drop a picture, paste one, choose one, on a desktop and a phone.

    python drop_pictures.py CHROMIUM URL FOLDER

FOLDER has dropped.png, pasted.png, chosen.jpg and gets the screenshots. Prints the first answer to
each, for each of the two screens; fails where the page or its policy reports an error.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from window import Tab, window

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark",
              "has_touch": True, "is_mobile": True, "device_scale_factor": 2},
}  # fmt: skip
# What a browser does when a file is dropped on the page, or pasted into it.
_GIVE = """([how, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  const event = how === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
  document.getElementById("drop").dispatchEvent(event);
}"""


def give(page: Page, how: str, file: Path) -> None:
    content = base64.b64encode(file.read_bytes()).decode()
    page.evaluate(_GIVE, [how, file.name, content])


def first_answer(page: Page, name: str) -> str:
    """The best class and its share, once the answer to ``name`` is shown."""
    page.wait_for_function(
        "name => document.querySelector('figcaption')?.textContent === name", arg=name
    )
    best = page.locator("li").first.locator("span").all_inner_texts()
    assert page.locator("li").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    return f"{name}: {' '.join(best)}"


def main() -> None:
    chromium, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with window(chromium) as browser:
        for screen, options in SCREENS.items():
            tab = Tab(browser, url, **options)
            page = tab.page
            give(page, "drop", folder / "dropped.png")
            print(json.dumps(first_answer(page, "dropped.png")))
            page.screenshot(path=folder / f"{screen}.png", full_page=True)
            give(page, "paste", folder / "pasted.png")
            print(json.dumps(first_answer(page, "pasted.png")))
            page.locator("#file").set_input_files(folder / "chosen.jpg")
            print(json.dumps(first_answer(page, "chosen.jpg")))
            give(page, "drop", Path(__file__))  # no picture: its reason is shown
            page.wait_for_selector("figure .bad")
            page.screenshot(path=folder / f"{screen}_refused.png", full_page=True)
            said = [text for text in tab.said if "400 (Bad Request)" not in text]
            assert not (said or tab.errors or tab.foreign), (said, tab.errors, tab.foreign)


if __name__ == "__main__":
    main()
