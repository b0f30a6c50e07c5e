"""The review page by keys alone, as JSON: after each key what the server knows and the page shows.

python review_keys.py CHROMIUM ADDRESS LIST=KEYS...

LIST is the title of a list, KEYS what is pressed there, divided by spaces: keys as Playwright names
them, and words in quotes, which are typed. ``reload`` loads the page again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from playwright.sync_api import Page
from window import Tab, window

_STATE = """async () => {
  const shown = id => { const one = document.getElementById(id);
                        return one.checkVisibility() ? one.textContent : ""; };
  const state = await (await fetch("/state.json")).json();
  return {decided: state.decided, key: shown("key"), said: shown("said"), empty: shown("empty"),
          error: shown("error"), progress: shown("progress"), focus: document.activeElement.id};
}"""


def press(page: Page, key: str) -> dict[str, Any]:
    if key == "reload":
        page.reload()
        page.wait_for_selector("nav button")
    elif key.startswith("'"):
        page.keyboard.type(key.strip("'"))
    else:
        page.keyboard.press(key)
    while page.evaluate("busy"):  # the page's own variable: a decision is on its way
        page.wait_for_timeout(20)
    return {"pressed": key, **page.evaluate(_STATE)}


def main() -> None:
    chromium, address, steps = sys.argv[1], sys.argv[2], sys.argv[3:]
    with window(chromium) as browser:
        tab = Tab(browser, address, viewport={"width": 1000, "height": 900})
        tab.page.wait_for_selector("nav button")
        for step in steps:
            title, _, keys = step.partition("=")
            tab.page.locator("nav button", has_text=title).focus()
            tab.page.keyboard.press("Enter")
            for key in keys.split():
                print(json.dumps(press(tab.page, key)))
        print(json.dumps({"foreign": tab.foreign, "said": [*tab.said, *tab.errors]}))


if __name__ == "__main__":
    main()
