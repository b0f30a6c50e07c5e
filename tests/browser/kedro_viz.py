"""What a screen of 1400 x 900 shows of Kedro-Viz, as JSON.

python kedro_viz.py CHROMIUM ADDRESS FOLDER

FOLDER gets a screenshot. ``foreign`` has the requests that would leave the machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from window import Tab, window

_BOXES = """() => [...document.querySelectorAll(".pipeline-node")].map(node => {
  const box = node.getBoundingClientRect(), text = node.querySelector("text");
  return {label: text.textContent, letters: text.getBoundingClientRect().height,
          inside: box.left >= 0 && box.top >= 0 && box.right <= innerWidth
                  && box.bottom <= innerHeight};
})"""


def main() -> None:
    chromium, address, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with window(chromium) as browser:
        tab = Tab(browser, address, viewport={"width": 1400, "height": 900})
        tab.page.wait_for_selector(".pipeline-node")
        tab.page.wait_for_timeout(2000)  # the chart is moved into its place
        boxes = tab.page.evaluate(_BOXES)
        banner = tab.page.locator(".update-reminder-unexpanded").count()
        tab.page.screenshot(path=folder / "viz.png")
    seen = {
        "foreign": tab.foreign,
        "errors": tab.errors,
        "labels": [box["label"] for box in boxes],
        "outside": [box["label"] for box in boxes if not box["inside"]],
        "letter_height": min(box["letters"] for box in boxes),
        "banner": banner,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
