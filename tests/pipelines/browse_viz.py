"""What a headless browser of 1400 x 900 shows of Kedro-Viz, as JSON.

python browse_viz.py CHROMIUM ADDRESS FOLDER

FOLDER gets a screenshot. ``foreign`` has the requests that would leave the machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
_BOXES = """() => [...document.querySelectorAll(".pipeline-node")].map(node => {
  const box = node.getBoundingClientRect(), text = node.querySelector("text");
  return {label: text.textContent, letters: text.getBoundingClientRect().height,
          inside: box.left >= 0 && box.top >= 0 && box.right <= innerWidth
                  && box.bottom <= innerHeight};
})"""


def main() -> None:
    browser, address, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    foreign: list[str] = []
    errors: list[str] = []
    with sync_playwright() as kit:
        window = kit.chromium.launch(executable_path=browser, args=FLAGS, chromium_sandbox=False)
        page = window.new_context(viewport={"width": 1400, "height": 900}).new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        own = (address, "blob:", "data:")
        page.on("request", lambda r: None if r.url.startswith(own) else foreign.append(r.url))
        page.goto(address)
        page.wait_for_selector(".pipeline-node")
        page.wait_for_timeout(2000)  # the chart is moved into its place
        boxes = page.evaluate(_BOXES)
        banner = page.locator(".update-reminder-unexpanded").count()
        page.screenshot(path=folder / "viz.png")
        window.close()
    seen = {
        "foreign": foreign,
        "errors": errors,
        "labels": [box["label"] for box in boxes],
        "outside": [box["label"] for box in boxes if not box["inside"]],
        "letter_height": min(box["letters"] for box in boxes),
        "banner": banner,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
