"""What is wrong with pages on a desk and a telephone, light and dark, by keyboard and on paper.

    python open_pages.py CHROMIUM FOLDER ADDRESS...

FOLDER gets a screenshot of each view, a PDF and a picture of each of its pages. Prints per address
{"view": ..., "faults": [...]} for each of its views, and one for its print with its "pages". An
address may end in #give=FILE: the file is put into the page's input, and its answer waited for.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pypdfium2
from playwright.sync_api import Browser, Page
from window import Tab, window

SEEN = Path(__file__).with_name("seen.js").read_text(encoding="utf-8")
_PICTURES = "[...document.images].filter(image => image.complete && image.naturalWidth > 0).length"
_OPEN = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
# All that a keyboard must reach, in the order in which it should, and what scrolls sideways.
_REACHED = """() => {
  const usable = "a[href], button, input, select, textarea, summary, [tabindex]";
  window.reached = [...document.querySelectorAll(usable)].filter(one => !one.disabled
    && one.tabIndex >= 0 && one.checkVisibility({visibilityProperty: true})
    && one.getClientRects().length && (one.type !== "radio" || one.checked) && !one.hidden);
  window.scrolling = [...document.querySelectorAll("*")].filter(one =>
    one.scrollWidth > one.clientWidth + 1
    && ["auto", "scroll"].includes(getComputedStyle(one).overflowX) && one.checkVisibility());
  return [window.reached.length, window.scrolling.length];
}"""
_FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const label = one.closest("label") || one.labels?.[0];
  const ring = element => element && getComputedStyle(element).outlineStyle !== "none"
    && parseFloat(getComputedStyle(element).outlineWidth) > 0;
  return {place: window.reached.indexOf(one), scroller: window.scrolling.indexOf(one),
          ring: ring(one) || ring(label) || style.boxShadow !== "none",
          name: one.outerHTML.slice(0, 80)};
}"""
# Marks at two corners of each drawing and at the end of each fold, to be found again in the PDF.
_MARK = """() => {
  const marks = [], made = "http://www.w3.org/2000/svg";
  const printed = one => one.getClientRects().length > 0;
  [...document.querySelectorAll("svg[role=img]")].filter(printed).forEach((svg, at) => {
    const {width, height} = svg.viewBox.baseVal;
    [["a", 1, 3], ["b", width - 12, height - 1]].forEach(([end, x, y]) => {
      const mark = document.createElementNS(made, "text");
      mark.setAttribute("x", x); mark.setAttribute("y", y); mark.setAttribute("font-size", 2);
      mark.textContent = `Qdrawing${at}${end}Q`;
      svg.append(mark);
    });
    marks.push(`Qdrawing${at}`);
  });
  document.querySelectorAll("details").forEach((fold, at) => {
    const inner = fold.lastElementChild;
    const note = getComputedStyle(fold.querySelector("summary"), "::after").content;
    if (!printed(fold) || (!printed(inner) && note.includes("not printed"))) return;
    const mark = document.createElement("p");
    mark.style.fontSize = "2px";
    mark.textContent = `Qfold${at}aQ`;
    fold.append(mark);
    marks.push(`Qfold${at}`);
  });
  return marks;
}"""
# Colours that change slowly are at their end.
_SETTLED = """async () => {
  for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  for (const one of document.getAnimations())
    if (one.effect.getComputedTiming().endTime < Infinity) one.finish();
}"""
_MARGIN = 24.0  # points at the right that no letter may be in
_PAPER = {"width": 688, "height": 994}  # of A4 inside the margins of our pages


def look(browser: Browser, address: str, folder: Path, name: str) -> None:
    """Print what is wrong in each of the four views."""
    address, _, given = address.partition("#give=")
    for scheme in ("light", "dark"):
        for width in (1400, 390):
            screen = {"width": width, "height": 900}
            tab = Tab(browser, address, viewport=screen, color_scheme=scheme)
            tab.page.wait_for_load_state("networkidle")
            _give(tab.page, given)
            faults: list[str] = tab.page.evaluate(SEEN)
            if scheme == "light":
                faults += by_keyboard(tab.page)
            tab.page.evaluate(_OPEN)
            faults += tab.page.evaluate(SEEN)
            faults += [f"asks for {url}" for url in tab.foreign]
            faults += [f"says {text}" for text in [*tab.said, *tab.errors]]
            tab.page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
            contents = tab.page.locator("nav[aria-label=Chapters]")
            sticky = contents.count() and contents.evaluate("n => getComputedStyle(n).position")
            view = {"view": f"{width} {scheme}", "faults": sorted({*faults}), "contents": sticky}
            print(json.dumps({**view, "pictures": tab.page.evaluate(_PICTURES)}))
            tab.page.context.close()


def _give(page: Page, file: str) -> None:
    if file:
        page.locator("input[type=file]").set_input_files(file)
        page.wait_for_selector("figcaption")


def by_keyboard(page: Page) -> list[str]:
    """What Tab does not come to, in order and seen; folds that Enter and Space do not open."""
    count, scrolling = page.evaluate(_REACHED)
    order: list[int] = []
    scrolled: set[int] = set()
    faults = []
    for _ in range(count + scrolling + 2):
        page.keyboard.press("Tab")
        found: dict[str, Any] = page.evaluate(_FOCUSED)
        if found["place"] in order:
            break
        if found["place"] >= 0:
            order.append(found["place"])
        if found["place"] >= 0 or found["scroller"] >= 0:
            faults += [] if found["ring"] else [f"no focus is seen on {found['name']}"]
        scrolled.add(found["scroller"])
    if order != list(range(count)):
        missed = sorted({*range(count)} - {*order})
        faults.append(f"Tab reaches {len(order)} of {count}; missed {missed}, order {order}")
    blind = page.evaluate(
        """seen => window.scrolling.filter((one, at) => !seen.includes(at)
             && !window.reached.some(other => one.contains(other)))
             .map(one => one.outerHTML.slice(0, 60))""",
        sorted(scrolled),
    )
    faults += [f"no keyboard scrolls {one}" for one in blind]
    for fold in page.locator("details > summary").all():
        if not fold.is_visible():
            continue  # in a fold that is closed
        fold.focus()
        was = fold.evaluate("one => one.parentElement.open")
        states = []
        for key in ("Enter", "Space"):
            page.keyboard.press(key)
            states.append(fold.evaluate("one => one.parentElement.open"))
        if states != [not was, was]:
            faults.append(f"keys do not open the fold {fold.inner_text()}")
    return faults


def print_out(browser: Browser, address: str, folder: Path, name: str) -> None:
    """Print the page from a dark screen, on A4, and what is wrong with the paper."""
    address, _, given = address.partition("#give=")
    tab = Tab(browser, address, viewport=_PAPER, color_scheme="dark")
    tab.page.wait_for_load_state("networkidle")
    _give(tab.page, given)
    tab.page.emulate_media(media="print")
    tab.page.evaluate(_SETTLED)
    faults: list[str] = tab.page.evaluate(SEEN)
    marks = tab.page.evaluate(_MARK)
    tab.page.pdf(path=folder / f"{name}.pdf", format="A4", print_background=True)
    document = pypdfium2.PdfDocument(folder / f"{name}.pdf")
    found: dict[str, set[int]] = {}
    for number, sheet in enumerate(document, start=1):
        faults += [f"page {number}: {fault}" for fault in _sheet_faults(sheet)]
        for mark in re.findall(r"Q((?:drawing|fold)\d+)[ab]Q", _text(sheet)):
            found.setdefault(f"Q{mark}", set()).add(number)
        picture = sheet.render(scale=1).to_pil()
        picture.save(folder / f"{name}-print-{number:02d}.png")
        if picture.convert("L").getpixel((3, 3)) < 250:
            faults.append(f"page {number} is not white")
    faults += [f"{mark} is not printed" for mark in marks if mark not in found]
    faults += [
        f"{mark} is split over pages {sorted(pages)}"
        for mark, pages in found.items()
        if mark.startswith("Qdrawing") and len(pages) > 1
    ]
    view = {"view": "print", "faults": sorted({*faults}), "pages": len(document)}
    pictures = tab.page.evaluate(_PICTURES)
    print(json.dumps({**view, "marks": len(marks), "pictures": pictures}))
    tab.page.context.close()


def _text(sheet: Any) -> str:
    return str(sheet.get_textpage().get_text_range())


def _sheet_faults(sheet: Any) -> list[str]:
    width, height = sheet.get_size()
    letters = sheet.get_textpage()
    faults = []
    count = letters.count_chars()
    boxes = [letters.get_charbox(place) for place in range(count)]
    if any(right > width - _MARGIN and right > left for left, _, right, _ in boxes):
        faults.append("text is cut at the right")
    pictures = list(sheet.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]))
    for picture in pictures:
        left, bottom, right, top = picture.get_bounds()
        if left < 0 or bottom < 0 or right > width or top > height:
            faults.append(f"a picture is cut: {left:.0f} {bottom:.0f} {right:.0f} {top:.0f}")
    if count < 40 and not pictures:
        faults.append("is all but empty")
    return faults


def main() -> None:
    chromium, folder, addresses = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    with window(chromium) as browser:
        for place, address in enumerate(addresses):
            name = f"{place:02d}-{re.sub(r'[^A-Za-z0-9]+', '-', address.rpartition('/')[2])[:40]}"
            look(browser, address, folder, name)
            print_out(browser, address, folder, name)


if __name__ == "__main__":
    main()
