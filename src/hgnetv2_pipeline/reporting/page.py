"""A ``Report`` as the text of an HTML page and of Markdown; texts are escaped here alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from hgnetv2_pipeline.printable import printable
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Bullets,
    Cards,
    Figure,
    Fold,
    KeyFigures,
    Link,
    Notice,
    Picture,
    Report,
    Section,
    Steps,
    Table,
    Text,
)
from hgnetv2_pipeline.reporting.figures import WIDTH
from hgnetv2_pipeline.reporting.style import CSS
from hgnetv2_pipeline.reporting.svg import escape

# The page forbids itself any load from anywhere: what it shows is inside it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(report: Report) -> str:
    """The whole page, self-contained: style, drawings and pictures are inside."""
    links = "\n".join(
        f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in report.sections
    )
    banner = f'<p class="banner" role="note">{escape(report.banner)}</p>\n' if report.banner else ""
    head = _blocks_html(report.head)
    body = "\n".join(_section_html(section) for section in report.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<title>{escape(report.title)}</title>
<style>{CSS}</style>
</head>
<body>
<main id="top">
<div class="head">
<h1>{escape(report.title)}</h1>
<p class="subtitle">{escape(report.subtitle)}</p>
{banner}{head}
</div>
<nav aria-label="Chapters">
<a href="#top">{escape(report.title)}</a>
{links}
</nav>
<div class="body">
{body}
<footer>Made by hgnetv2_pipeline; the page loads nothing.</footer>
</div>
</main>
</body>
</html>
"""


def _section_html(section: Section) -> str:
    body = _blocks_html(section.blocks)
    return f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n{body}\n</section>'


_FEW_COLUMNS = 4


def _is_narrow(block: Block) -> bool:
    """Whether two of it fit side by side on a desk."""
    if isinstance(block, Figure):
        widths = [float(found) for found in re.findall(r'<svg[^>]* width="([0-9.]+)"', block.svg)]
        return len(widths) == 1 and widths[0] <= WIDTH
    return isinstance(block, Table) and len(block.columns) <= _FEW_COLUMNS and not block.code


def _blocks_html(blocks: Sequence[Block]) -> str:
    """The blocks in their order; a narrow one shares its line with a narrow one or a text below."""
    parts: list[str] = []
    waiting = ""
    for block in blocks:
        made, narrow = _block_html(block), _is_narrow(block)
        if waiting and (narrow or isinstance(block, Text | Bullets)):
            parts.append(f'<div class="pair">\n<div>{waiting}</div>\n<div>{made}</div>\n</div>')
            waiting = ""
            continue
        if waiting:
            parts.append(f'<div class="alone">{waiting}</div>')
        waiting = made if narrow else ""
        parts += [] if narrow else [made]
    if waiting:
        parts.append(f'<div class="alone">{waiting}</div>')
    return "\n".join(parts)


def _block_html(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Link(before, text, href, after):
            link = f'<a href="{escape(quote(href))}">{escape(text)}</a>'
            return f"<p>{escape(before)}{link}{escape(after)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Notice(text, command, kind):
            made = f" Made by: <code>{escape(command)}</code>" if command else ""
            return f'<p class="{kind}">{escape(text)}{"." if made else ""}{made}</p>'
        case Table():
            return _table_html(block)
        case Figure(_, caption):
            inner = block.svg
            below = f"<figcaption>{escape(caption)}</figcaption>"
            return f'<figure>\n<div class="drawings">{inner}</div>\n{below}</figure>'
        case Picture(uri, caption):
            image = f'<img src="{escape(uri)}" alt="{escape(caption)}">'
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
        case Cards(items):
            cards = "\n".join(
                f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span>'
                f"<small>{escape(behind)}</small></div>"
                for value, what, behind in items
            )
            return f'<div class="cards">\n{cards}\n</div>'
        case KeyFigures(questions):
            boxes = "\n".join(
                f"<div><dt>{escape(question)}</dt><dd><b>{escape(value)}</b> "
                f"<span>{escape(what)}</span> <small>{escape(behind)}</small></dd></div>"
                for question, value, what, behind in questions
            )
            return f'<dl class="answers">\n{boxes}\n</dl>'
        case Steps(steps):
            rows = "".join(
                f"<li>{escape(why)} <code>{escape(command)}</code></li>" for why, command in steps
            )
            return f'<div class="next"><h3>What to do next</h3><ol>{rows}</ol></div>'
        case Fold(title, blocks, is_open, printed):
            inner = _blocks_html(blocks)
            state = ("" if printed else ' class="screen"') + (" open" if is_open else "")
            return f"<details{state}><summary>{escape(title)}</summary>\n{inner}\n</details>"


_SHORT = 34  # letters of a column that stays on one line on a phone


def _kind(table: Table, place: int) -> str:
    """The classes of a column's cells."""
    if table.columns[place] in table.code:
        return "code"
    if table.columns[place] not in table.left:
        return ""
    return "l n" if all(len(row[place]) <= _SHORT for row in table.rows) else "l"


def _table_html(table: Table) -> str:
    kinds = [_kind(table, place) for place in range(len(table.columns))]

    def cells(tag: str, row: tuple[str, ...]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f'<{tag}{scope} class="{kind}">{_cell(cell, kind)}</{tag}>'
            if kind
            else f"<{tag}{scope}>{escape(cell)}</{tag}>"
            for cell, kind in zip(row, kinds, strict=True)
        )

    caption = f"<caption><span>{escape(table.caption)}</span></caption>" if table.caption else ""
    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    head = f"<thead><tr>{cells('th', table.columns)}</tr></thead>"
    body = f"<tbody>\n{rows}\n</tbody>"
    return f'<div class="scroll"><table>{caption}\n{head}\n{body}</table></div>'


def _cell(text: str, kind: str) -> str:
    """Long paths and ids may go on in the next line after a slash, a comma or an underscore."""
    if kind != "code" or len(text) <= _SHORT:
        return escape(text)
    return re.sub(r"(?<=[/,_])(?=.)", "<wbr>", escape(text))


_MARKDOWN = re.compile(r"([\\`*_\[\]|#~$])")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table and where HTML is let through."""
    flat = printable(" ".join(text.split()))
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        flat = flat.replace(sign, entity)
    return _MARKDOWN.sub(r"\\\1", flat)


def _code_markdown(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{printable(text)}{fence}"


def to_markdown(report: Report) -> str:
    """The same tables and texts; figures are named, they are drawn in ``report.html`` only."""
    parts = [f"# {escape_markdown(report.title)}", escape_markdown(report.subtitle)]
    if report.banner:
        parts.append(f"> **{escape_markdown(report.banner)}**")
    parts += [_block_markdown(block) for block in report.head]
    for section in report.sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts += [_block_markdown(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block_markdown(block: Block) -> str:
    match block:
        case Text(text):
            return escape_markdown(text)
        case Link(before, text, href, after):
            link = f"[{escape_markdown(text)}]({quote(href)})"
            # A space at the end of what is escaped would go with it.
            return " ".join(filter(None, [escape_markdown(before), link, escape_markdown(after)]))
        case Bullets(items):
            return "\n".join(f"- {escape_markdown(item)}" for item in items)
        case Notice(text, command, _):
            made = f". Made by: {_code_markdown(command)}" if command else ""
            return f"> {escape_markdown(text)}{made}"
        case Table():
            return _table_markdown(block)
        case Figure(_, caption):
            return f"*Figure (drawn in report.html): {escape_markdown(caption)}*"
        case Picture(_, caption, file):
            return f"*Picture ({escape_markdown(file)}): {escape_markdown(caption)}*"
        case Cards(items):
            cells = [tuple(map(escape_markdown, item)) for item in items]
            return "\n".join(f"- **{value}** {what} ({behind})" for value, what, behind in cells)
        case KeyFigures(questions):
            cells = [tuple(map(escape_markdown, item)) for item in questions]
            return "\n".join(
                f"- {ask}: **{value}** {what} ({why})" for ask, value, what, why in cells
            )
        case Steps(steps):
            rows = [f"{escape_markdown(why)} {_code_markdown(command)}" for why, command in steps]
            return "\n".join(["What to do next:", "", *(f"1. {row}" for row in rows)])
        case Fold(title, blocks):
            inner = [_block_markdown(inner) for inner in blocks]
            return "\n\n".join([f"### {escape_markdown(title)}", *filter(None, inner)])


def _table_markdown(table: Table) -> str:
    words = set(table.left) | set(table.code)
    rule = [":---" if name in words else "---:" for name in table.columns]
    rows = [
        [escape_markdown(name) for name in table.columns],
        rule,
        *([escape_markdown(cell) for cell in row] for row in table.rows),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    caption = [f"*{escape_markdown(table.caption)}*", ""] if table.caption else []
    return "\n".join([*caption, *lines])
