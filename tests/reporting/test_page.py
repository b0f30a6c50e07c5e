from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from synthetic_inputs import HOSTILE

from hgnetv2_pipeline.reporting import figures, style, svg
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Bullets,
    Cards,
    Figure,
    Fold,
    Notice,
    Picture,
    Report,
    Section,
    Table,
    Text,
)
from hgnetv2_pipeline.reporting.page import escape_markdown, to_html, to_markdown

NASTY = [
    HOSTILE,
    "</table><script>alert(1)</script>",
    "a|b\nc",
    "&amp;",
    "*x* _y_ [l](http://e)",
    "\u202eright to left",
]
VOID = {"meta", "img", "br", "wbr"}


def page_of(*blocks: Block) -> Report:
    return Report("t", "s", None, (), (Section("One", "one", tuple(blocks)),))


class Reader(HTMLParser):
    """Checks that elements nest and collects texts, names and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.cells: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("text", NASTY)
def test_a_hostile_name_is_shown_as_it_is_and_breaks_nothing(text: str) -> None:
    blocks: list[Block] = [
        Table((text, "n"), ((text, "1"),), text, left=(text,)), Text(text), Bullets((text,)),
        Notice(text, text), Cards(((text, text, text),)), Fold(text, (Text(text),)),
        Figure(("<svg></svg>",), text), Picture("data:image/png;base64,AA==", text, text),
    ]  # fmt: skip
    reader = read(to_html(page_of(*blocks)))
    assert text.replace("\u202e", "\\u202e") in reader.cells
    assert "script" not in reader.names
    # <b> is ours once, in the card; a name must not add another.
    assert to_html(page_of(*blocks)).count("<b>") == 1


@pytest.mark.parametrize("text", NASTY)
def test_a_hostile_name_keeps_the_columns_of_a_markdown_table(text: str) -> None:
    lines = to_markdown(page_of(Table(("class", "n"), ((text, "1"),)))).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert "<" not in rows[2]


def test_markdown_signs_are_escaped() -> None:
    assert escape_markdown("*a* <b> [x]") == r"\*a\* &lt;b&gt; \[x\]"


def test_nothing_is_loaded_and_the_page_forbids_it() -> None:
    text = to_html(page_of(Picture("data:image/png;base64,AA==", "c", "f.png")))
    assert all(link.startswith(("#", "data:")) for link in read(text).links)
    assert "default-src &#x27;none&#x27;" in text
    assert "@import" not in text
    assert "url(" not in text


def test_markdown_has_the_same_tables() -> None:
    table = Table(("a", "b"), (("1", "2"), ("3", "4")), "caption", left=("a",))
    markdown = to_markdown(page_of(table, Fold("more", (table,))))
    assert markdown.count("| 1 | 2 |\n| 3 | 4 |") == 2
    assert markdown.count("| :--- | ---: |") == 2


def test_a_missing_part_names_the_command_in_both_forms() -> None:
    page = page_of(Notice("Mining: not made yet", "kedro run --pipeline mining"))
    assert "<code>kedro run --pipeline mining</code>" in to_html(page)
    assert "`kedro run --pipeline mining`" in to_markdown(page)


def test_a_row_that_does_not_fit_its_columns_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="does not fit"):
        Table(("a", "b"), (("1",),))


def _half(name: str) -> Figure:
    return Figure((svg.drawing(figures.WIDTH, 10, name, []),), name)


def test_narrow_blocks_share_a_line_and_wide_ones_do_not() -> None:
    few = Table(("a", "b"), (("1", "2"),))
    many = Table(tuple("abcdef"), (("1",) * 6,))
    text = to_html(page_of(_half("one"), few, many, _half("two"), Text("beside"), _half("three")))
    read(text)
    assert text.count('class="pair"') == 2
    assert text.count('class="alone"') == 1
    assert text.index("one</figcaption>") < text.index("two</figcaption>") < text.index("beside")


def test_a_table_has_its_caption_and_its_headings_a_scope() -> None:
    text = to_html(page_of(Table(("a", "b"), (("1", "2"),), "What it shows")))
    assert "<table><caption><span>What it shows</span></caption>" in text
    assert text.count('<th scope="col">') == 2


def test_only_long_paths_may_break_and_only_short_words_stay_on_a_line() -> None:
    path, words = "data/08_reporting/sample/ingestion/summary.json", "one two three " * 4
    rows = (("a/b.png", "short", words), (path, "short", "x"))
    text = to_html(page_of(Table(("p", "s", "w"), rows, left=("s", "w"), code=("p",))))
    assert ">a/b.png</td>" in text and path not in text and path in read(text).cells
    assert text.count('class="l n">short') == 2 and f'class="l">{words}' in text


def test_a_fold_that_is_not_printed_says_so() -> None:
    folds = Fold("shown", (Text("a"),)), Fold("left out", (Text("b"),), printed=False)
    text = to_html(page_of(*folds))
    assert "<details><summary>shown" in text
    assert '<details class="screen"><summary>left out' in text
    assert 'summary::after { content: " (not printed)"' in style.CSS


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("paper", "colours"), [("#ffffff", svg.PALETTE), ("#14171b", style.DARK)], ids=str
)
def test_every_colour_of_a_drawing_is_seen_on_its_paper(
    paper: str, colours: tuple[str, ...]
) -> None:
    """WCAG 1.4.11: graphics have a contrast of 3:1."""
    for colour in colours:
        low, high = sorted((_luminance(paper), _luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour
