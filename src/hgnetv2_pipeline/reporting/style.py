"""The page's style sheet: quiet on paper, light and dark on a screen, nothing from outside."""

from __future__ import annotations

from hgnetv2_pipeline.reporting.svg import PALETTE

DARK = ("#58b0ea", "#ff8a3d", "#35c79a", "#e79cc4", "#e0ac3c", "#8fd0f7", "#a3a9b3", "#d18b6c")


def _palette(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{place}:{colour};" for place, colour in enumerate(colours))


_CLASSES = "\n".join(
    f"svg .f{place} {{ fill: var(--c{place}); }} svg .s{place} {{ stroke: var(--c{place}); }}"
    for place in range(len(PALETTE))
)

_LIGHT_VALUES = (
    "--paper:#ffffff; --ink:#1c1f24; --faint:#5f6670; --rule:#dfe3e8; --soft:#f5f7f9; "
    "--accent:#0b5c94; --warn:#8a4b00; --warn-soft:#fff5e6; --shade:#00000055; " + _palette(PALETTE)
)
_DARK_VALUES = (
    "--paper:#14171b; --ink:#e6e9ed; --faint:#9aa3ae; --rule:#30363d; --soft:#1c2026; "
    "--accent:#7cc4f5; --warn:#ffc069; --warn-soft:#2b2316; --shade:#ffffff2e; " + _palette(DARK)
)

CSS = f"""
:root {{ color-scheme: light dark; {_LIGHT_VALUES} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK_VALUES} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 28px 28px 64px; }}
h1 {{ font-size: 27px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }}
h2 {{ font-size: 20px; line-height: 1.3; margin: 44px 0 12px; padding-top: 14px;
  border-top: 2px solid var(--ink); }}
p, ul, ol {{ max-width: 78ch; margin: 10px 0; overflow-wrap: anywhere; }}
ul, ol {{ padding-left: 20px; }} li {{ margin: 5px 0; }}
a {{ color: var(--accent); }}
:target {{ scroll-margin-top: 8px; }}
.subtitle {{ color: var(--faint); margin: 0 0 16px; max-width: none; overflow-wrap: anywhere; }}
nav {{ font-size: 13px; margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; }}
nav a {{ text-decoration: none; }} nav a:hover {{ text-decoration: underline; }}
nav a:first-child {{ display: none; }}
.banner, .warning {{ background: var(--warn-soft); color: var(--warn);
  border-left: 4px solid var(--warn); padding: 10px 14px; margin: 14px 0; max-width: none; }}
.missing {{ background: var(--soft); color: var(--faint); border-left: 4px solid var(--faint);
  padding: 10px 14px; margin: 14px 0; max-width: none; overflow-wrap: anywhere; }}
.missing code {{ color: var(--ink); }}
.cards, .answers {{ display: grid; gap: 12px; margin: 18px 0; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); }}
.answers {{ grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); }}
.card, .answers > div {{ border: 1px solid var(--rule); border-radius: 6px; padding: 12px 14px;
  min-width: 0; overflow-wrap: anywhere; }}
.answers dt {{ font-size: 13px; color: var(--accent); font-weight: 600; }}
.answers dd {{ margin: 0; }}
.card b, .answers b {{ display: block; font-size: 25px; line-height: 1.25; letter-spacing: -0.01em;
  font-variant-numeric: tabular-nums; }}
.card span, .answers span {{ display: block; font-size: 13px; font-weight: 600; margin-top: 4px; }}
.card small, .answers small {{ display: block; font-size: 12.5px; color: var(--faint);
  margin-top: 2px; }}
.next {{ background: var(--soft); border-left: 4px solid var(--accent); padding: 10px 16px; }}
.next h3 {{ font-size: 15px; margin: 0; }}
.next ol {{ max-width: none; margin: 6px 0 0; }}
.next code {{ background: var(--paper); padding: 1px 5px; border: 1px solid var(--rule);
  border-radius: 4px; overflow-wrap: anywhere; }}
.pair {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 36px;
  align-items: start; }}
.scroll, figure .drawings {{ overflow-x: auto; scrollbar-width: thin;
  scrollbar-color: var(--faint) transparent;
  background: linear-gradient(90deg, var(--paper) 40%, transparent) left / 36px 100%,
    linear-gradient(270deg, var(--paper) 40%, transparent) right / 36px 100%,
    linear-gradient(90deg, var(--shade), transparent) left / 14px 100%,
    linear-gradient(270deg, var(--shade), transparent) right / 14px 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }}
.scroll {{ margin: 14px 0 18px; }}
table {{ border-collapse: collapse; font-size: 13px; line-height: 1.4;
  font-variant-numeric: tabular-nums; min-width: min(100%, 440px); }}
caption {{ color: var(--faint); font-size: 13px; text-align: left; padding: 0 0 6px;
  overflow-wrap: anywhere; }}
caption span {{ display: block; position: sticky; left: 0;
  max-width: min(100ch, calc(100vw - 36px)); }}
th, td {{ padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }}
th {{ font-weight: 600; text-align: right; border-bottom: 1.5px solid var(--faint);
  vertical-align: bottom; }}
td {{ text-align: right; white-space: nowrap; }}
th.l, td.l {{ text-align: left; white-space: normal; min-width: 64px; max-width: 420px;
  overflow-wrap: break-word; }}
td.code {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 11.5px; text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 90px; max-width: 330px; }}
th.code {{ text-align: left; }}
th:first-child, td:first-child {{ position: sticky; left: 0; background: var(--paper);
  z-index: 1; }}
code {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 12.5px; overflow-wrap: anywhere; }}
figure {{ margin: 14px 0 20px; }}
figure .drawings {{ display: flex; flex-wrap: wrap; gap: 14px 20px; align-items: flex-start; }}
figcaption {{ color: var(--faint); font-size: 13px; max-width: 88ch; margin-top: 4px;
  overflow-wrap: anywhere; }}
figure img {{ max-width: 100%; height: auto; border: 1px solid var(--rule); background: #fff; }}
figure svg {{ max-width: 100%; height: auto; }}
.alone figure {{ display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0 36px;
  align-items: center; }}
details {{ margin: 10px 0; border-top: 1px solid var(--rule); padding-top: 8px; }}
summary {{ cursor: pointer; font-weight: 600; font-size: 14px; overflow-wrap: anywhere; }}
footer {{ margin-top: 48px; color: var(--faint); font-size: 12.5px; }}
svg .ink {{ fill: var(--ink); }} svg .faint {{ fill: var(--faint); }}
svg .halo {{ stroke: var(--paper); }}
svg .grid {{ stroke: var(--rule); }} svg .axis {{ stroke: var(--faint); }}
{_CLASSES}
@media screen and (min-width: 1330px) {{
  main {{ max-width: 1310px; display: grid; gap: 0 40px; align-items: start;
    grid-template-columns: 190px minmax(0, 1080px); }}
  .head, .body {{ grid-column: 2; }}
  nav {{ grid-column: 1; grid-row: 1 / span 2; position: sticky; top: 24px; margin: 4px 0 0;
    flex-direction: column; gap: 8px; max-height: calc(100vh - 48px); overflow-y: auto; }}
  nav a:first-child {{ display: block; font-weight: 600; }}
}}
@media (max-width: 900px) {{
  .pair, .alone figure {{ display: block; }}
}}
@media (max-width: 600px) {{
  main {{ padding: 18px 16px 48px; }}
  h1 {{ font-size: 23px; }}
  td.l {{ min-width: 130px; }} td.n {{ min-width: 0; white-space: nowrap; }}
  td.code {{ min-width: 150px; }}
  th:first-child, td:first-child {{ max-width: 42vw; padding-right: 10px;
    border-right: 1px solid var(--rule); }}
  th.l:first-child, td.l:first-child, td.code:first-child {{ min-width: 116px;
    white-space: normal; overflow-wrap: anywhere; }}
}}
@media screen and (prefers-color-scheme: dark) {{
  figure img {{ filter: brightness(0.72); background: none; border-color: #000; }}
}}
@media print {{
  :root {{ {_LIGHT_VALUES} }}
  @page {{ margin: 16mm 14mm 18mm; @bottom-right {{ content: counter(page) " / " counter(pages);
    font: 8pt system-ui, sans-serif; color: #5f6670; }} }}
  body {{ font-size: 9.5pt; }} main {{ max-width: none; padding: 0; }} nav {{ display: none; }}
  h2, summary, caption, thead {{ break-after: avoid; }} h2 {{ margin-top: 26px; }}
  .card, .answers > div, .next, tr, svg, figure, caption, .missing, .warning {{
    break-inside: avoid; }}
  figure:has(svg:nth-of-type(7)) {{ break-inside: auto; }}
  .cards {{ grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); gap: 8px; }}
  .answers {{ grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px; }}
  .pair, .alone figure {{ display: block; }}
  .card b, .answers b {{ font-size: 15pt; }} .card, .answers > div {{ padding: 8px 10px; }}
  figure svg:not(:only-child) {{ max-width: 48%; }}
  figure img {{ max-height: 190mm; width: auto; }}
  table {{ font-size: 8pt; min-width: 330px; }} th, td {{ padding-right: 7px; }}
  td.code {{ font-size: 7pt; }}
  .scroll, figure .drawings {{ overflow: visible; background: none; }}
  td.l, th.l {{ min-width: 0; overflow-wrap: anywhere; }}
  details::details-content {{ content-visibility: visible; height: auto; }}
  details.screen > :not(summary) {{ display: none; }}
  details.screen > summary::after {{ content: " (not printed)"; font-weight: 400; }}
  a {{ color: inherit; text-decoration: none; }}
}}
"""
