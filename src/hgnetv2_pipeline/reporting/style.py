"""The page's style sheet: quiet on paper, light and dark on a screen, nothing from outside."""

from __future__ import annotations

from hgnetv2_pipeline.reporting.svg import PALETTE

_DARK = ("#58b0ea", "#ff8a3d", "#35c79a", "#e79cc4", "#e0ac3c", "#8fd0f7", "#a3a9b3", "#d18b6c")


def _palette(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{place}:{colour};" for place, colour in enumerate(colours))


_CLASSES = "\n".join(
    f"svg .f{place} {{ fill: var(--c{place}); }} svg .s{place} {{ stroke: var(--c{place}); }}"
    for place in range(len(PALETTE))
)

_LIGHT_VALUES = (
    "--paper:#ffffff; --ink:#1c1f24; --faint:#5f6670; --rule:#dfe3e8; --soft:#f5f7f9; "
    "--accent:#0b5c94; --warn:#8a4b00; --warn-soft:#fff5e6; --onfill:#ffffff; " + _palette(PALETTE)
)
_DARK_VALUES = (
    "--paper:#14171b; --ink:#e6e9ed; --faint:#9aa3ae; --rule:#30363d; --soft:#1c2026; "
    "--accent:#7cc4f5; --warn:#ffc069; --warn-soft:#2b2316; --onfill:#0d1013; " + _palette(_DARK)
)

CSS = f"""
:root {{ color-scheme: light dark; {_LIGHT_VALUES} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK_VALUES} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 32px 28px 64px; }}
h1 {{ font-size: 27px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }}
h2 {{ font-size: 20px; line-height: 1.3; margin: 48px 0 12px; padding-top: 14px;
  border-top: 2px solid var(--ink); }}
p, ul {{ max-width: 78ch; margin: 10px 0; }}
ul {{ padding-left: 20px; }} li {{ margin: 5px 0; }}
a {{ color: var(--accent); }}
.subtitle {{ color: var(--faint); margin: 0 0 18px; max-width: none; overflow-wrap: anywhere; }}
nav {{ font-size: 13px; margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; }}
nav a {{ text-decoration: none; }} nav a:hover {{ text-decoration: underline; }}
.banner, .warning {{ background: var(--warn-soft); color: var(--warn);
  border-left: 4px solid var(--warn); padding: 10px 14px; margin: 14px 0; max-width: none; }}
.missing {{ background: var(--soft); color: var(--faint); border-left: 4px solid var(--rule);
  padding: 10px 14px; margin: 14px 0; max-width: none; overflow-wrap: anywhere; }}
.missing code {{ color: var(--ink); }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 12px;
  margin: 20px 0; padding: 0; }}
.card {{ border: 1px solid var(--rule); border-radius: 6px; padding: 12px 14px; }}
.card b {{ display: block; font-size: 25px; line-height: 1.2; letter-spacing: -0.01em;
  font-variant-numeric: tabular-nums; }}
.card span {{ display: block; font-size: 13px; font-weight: 600; margin-top: 4px; }}
.card small {{ display: block; font-size: 12px; color: var(--faint); margin-top: 2px;
  overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; margin: 14px 0 18px; }}
table {{ border-collapse: collapse; font-size: 13px; line-height: 1.4;
  font-variant-numeric: tabular-nums; }}
.caption {{ color: var(--faint); font-size: 13px; margin: 0 0 6px; max-width: 100ch; }}
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
code {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 12.5px; }}
figure {{ margin: 16px 0 22px; }}
figure .drawings {{ display: flex; flex-wrap: wrap; gap: 14px 20px; align-items: flex-start;
  overflow-x: auto; }}
figcaption {{ color: var(--faint); font-size: 13px; max-width: 88ch; margin-top: 4px; }}
figure img {{ max-width: 100%; height: auto; }}
figure svg {{ max-width: max(100%, 500px); height: auto; flex: none; }}
figure img {{ border: 1px solid var(--rule); background: #fff; }}
details {{ margin: 10px 0; border-top: 1px solid var(--rule); padding-top: 8px; }}
summary {{ cursor: pointer; font-weight: 600; font-size: 14px; overflow-wrap: anywhere; }}
footer {{ margin-top: 48px; color: var(--faint); font-size: 12.5px; }}
svg .ink {{ fill: var(--ink); }} svg .faint {{ fill: var(--faint); }}
svg .onfill {{ fill: var(--onfill); }}
svg .grid {{ stroke: var(--rule); }} svg .axis {{ stroke: var(--faint); }}
{_CLASSES}
@media print {{
  :root {{ {_LIGHT_VALUES} }}
  body {{ font-size: 9.5pt; }} main {{ max-width: none; padding: 0; }} nav {{ display: none; }}
  h2, summary, .caption {{ break-after: avoid; }} .card, tr, table, svg {{ break-inside: avoid; }}
  .cards {{ grid-template-columns: repeat(auto-fit, minmax(125px, 1fr)); gap: 8px; }}
  .card b {{ font-size: 15pt; }} .card {{ padding: 8px 10px; }}
  figure svg {{ max-width: 100%; }} figure svg:not(:only-child) {{ max-width: 48%; }}
  table {{ font-size: 8pt; }} th, td {{ padding-right: 7px; }} td.code {{ font-size: 7pt; }}
  .scroll {{ overflow: visible; }}
  details::details-content {{ content-visibility: visible; height: auto; }}
  a {{ color: inherit; text-decoration: none; }}
}}
"""
