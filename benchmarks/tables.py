"""The tables of docs/results, written from what the benchmarks stored.

python benchmarks/tables.py                 write them into the pages again
python benchmarks/tables.py --spread A B C  how far the ratios of several stores are apart

``docs/results/measured/BENCHMARK/MACHINE.json`` holds what was measured, newest of each case, one
file a kind of machine; figures from before there was a store were typed into it with their date.
A page has a table where it says ``<!-- measured: BENCHMARK -->``. A demand is judged on what our
contender has over the fastest peer that does equal work, and on nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import ROOT, besides, shown, table

PAGES = ROOT / "docs" / "results"
STORE = PAGES / "measured"
BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end of what was measured -->)", re.S)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Demand:
    """At least ``factor`` over the best peer of equal work; ``ours``: one contender, else any."""

    case: str
    work: str
    factor: float
    ours: str = ""


DEMANDS: dict[str, list[Demand]] = {
    "training_step": [
        Demand(f"{network}, 64 px, batch {batch}", work, 1.5)
        for network, batch in (("b0", 32), ("b4", 8))
        for work in ("fp32", "bf16")
    ],
    "input": [
        Demand("500 x 375, simplejpeg", "train", 1.5, "train: ours, exact"),
        Demand("500 x 375, simplejpeg", "train", 2.7, "train: ours, fast"),
        Demand("500 x 375, simplejpeg", "eval", 2.5, "eval: ours, fast"),
        Demand("2000 x 1500, simplejpeg", "train", 5, "train: ours, fast"),
    ],
    "onnx": [
        Demand("b0, batch 1", "fp32", 1.25),
        Demand("b0, batch 16", "fp32", 1.5),
    ],
    "stored_logits": [
        Demand("224 px, batch 16", "bf16", 1.7),
        Demand("224 px, batch 16", "fp32", 1.7),
    ],
}


def stored(benchmark: str, store: Path = STORE) -> list[Record]:
    """What each kind of machine measured, by name."""
    return [json.loads(path.read_text()) for path in sorted((store / benchmark).glob("*.json"))]


def names(records: Sequence[Record], *keys: str) -> list[str]:
    """Cases, or rows of one, in the order of the first record that has them."""
    found: dict[str, None] = {}
    for record in records:
        inner: Any = record["cases"]
        for key in keys:
            inner = inner.get(key, {}).get("rows", {})
        found |= dict.fromkeys(inner)
    return list(found)


def cells(case: Record, row: Record | None) -> list[str]:
    """Time (or rate) with the share of the peak, over the base, over the best peer, besides."""
    if row is None:
        return ["", "", "", ""]
    clock = f"{case['clock']}_ms"
    time = f"{shown(row['per_s'])} per s" if "per_s" in row else shown(row.get(clock))
    if "percent_of_peak" in row:
        time += f"; {row['percent_of_peak']:.0f} %"
    if "percent_of_bandwidth" in row:
        time += f", {row['percent_of_bandwidth']:.0f} %"
    peer = f"{shown(row['over_peer'])}, {row['peer']}" if "peer" in row else ""
    return [time, shown(row.get("over_base")), peer, besides(row)]


def timings(records: Sequence[Record]) -> str:
    """The machines side by side, without columns that are empty throughout."""
    body, kinds = [], ("ms", "over the base", "over the best peer", "besides")
    head = [f"{kind}, {short}" for short in shorts(records) for kind in kinds]
    for name in names(records):
        for number, row in enumerate(names(records, name)):
            line = []
            for record in records:
                case = record["cases"].get(name, {"clock": "cpu", "rows": {}})
                line += cells(case, case["rows"].get(row))
            work = next(
                r["cases"][name]["rows"][row]["work"]
                for r in records
                if row in r["cases"].get(name, {}).get("rows", {})
            )
            body.append([name if number == 0 else "", row, work, *line])
    full = [["case", "contender", "work", *head], *body]
    used = [column for column in zip(*full, strict=True) if any(column[1:])]
    return table([list(line) for line in zip(*used, strict=True)])


def shorts(records: Sequence[Record]) -> list[str]:
    """The machines without their instruction sets, where that is enough to tell them apart."""
    full = [record["machine"] for record in records]
    short = [name.partition(" (")[0] for name in full]
    return short if len(set(short)) == len(short) else full


def verdict(record: Record, demand: Demand) -> str:
    """``1.6 (1.5 to 1.7) over timm fp32: reached``, of the best of ours."""
    rows = record["cases"].get(demand.case, {}).get("rows", {})
    able = [
        row
        for name, row in rows.items()
        if row["ours"] and row["work"] == demand.work and demand.ours in ("", name)
        if "peer" in row
    ]
    if not able:
        return "not measured at equal work"
    best = max(able, key=lambda row: middle(row["over_peer"]))
    reached = "reached" if middle(best["over_peer"]) >= demand.factor else "missed"
    return f"{shown(best['over_peer'])} over {best['peer']}: **{reached}**"


def middle(figure: Record) -> float:
    """The median; of single runs the lowest, so that a demand is reached by all or not at all."""
    return min(figure["runs"]) if "runs" in figure else figure["median"]


def demands(benchmark: str, records: Sequence[Record]) -> str:
    lines = [["demand, over the best peer of equal work", *shorts(records)]]
    for demand in DEMANDS.get(benchmark, []):
        what = f"{demand.ours or f'the best of ours, {demand.work}'}, {demand.case}"
        judged = [verdict(record, demand) for record in records]
        lines.append([f"{what}: at least {demand.factor:g}", *judged])
    bests = [
        (name, [record["cases"].get(name, {}).get("best") for record in records])
        for name in names(records)
    ]
    for name, found in bests:
        if any(found) and benchmark in DEMANDS:
            over = [
                f"{shown(one['ratio'])} ({one['ours']} over {one['peer']})" if one else ""
                for one in found
            ]
            lines.append([f"our fastest over the fastest peer, any precision: {name}", *over])
    return table(lines) if len(lines) > 1 else ""


def sources(records: Sequence[Record]) -> list[str]:
    """A line for each command: what it measured, when, where, how busy the machine was."""
    lines: dict[str, list[str]] = {}
    for record in records:
        for name, case in record["cases"].items():
            versions = [f"{package} {number}" for package, number in case["versions"].items()]
            loads = " to ".join(str(load) for load in case["load"])
            peaks = [f"{value:g} {unit}" for unit, value in case.get("peak", {}).items()]
            line = (
                f"- {case['processors']} vCPU {record['machine']}, {case['date']}: "
                f"`{case['command'].partition(' (')[0]}`"
                f"{' (the program as it was then)' * case['command'].endswith('(old)')}; "
                f"{case['threads']} thread{'s' * (case['threads'] > 1)}; "
                f"Python {case['python']}, {', '.join(versions)}"
            )
            about = f"{name}: {case['rounds']} rounds" + f", load {loads}" * bool(loads)
            about += f", peak {', '.join(peaks)}" * bool(peaks)
            about += f", {case['note']}" * bool(case["note"])
            lines.setdefault(line, []).append(about)
    return [f"{line} ({'; '.join(about)})." for line, about in lines.items()]


def block(benchmark: str, records: Sequence[Record]) -> str:
    """What stands between the marks."""
    cases = [case for record in records for case in record["cases"].values()]
    rows = [row for case in cases for row in case["rows"].values()]
    bases = sorted({case["base"] for case in cases} - {""})
    about = [
        f"Milliseconds of {'wall time' if cases[0]['clock'] == 'wall' else 'CPU'} per "
        f"{cases[0]['unit']}, medians over rounds with the middle half in brackets; older figures "
        "run by run.",
        "Cases on several threads have wall time." * any(case["threads"] > 1 for case in cases),
        "Behind a semicolon the share of the peak of a matrix product, and of memory bandwidth if "
        "every layer reads and writes once." * any("percent_of_peak" in row for row in rows),
        "Ratios say how many times less time it takes (above 1: faster)."
        * any("over_base" in row or "over_peer" in row for row in rows),
        f"The base is '{', '.join(bases)}'." * bool(bases),
    ]
    parts = [
        " ".join(filter(None, about)),
        timings(records),
        demands(benchmark, records),
        "\n".join(sources(records)),
    ]
    return "\n\n".join(part for part in parts if part)


def page(text: str) -> str:
    """A page with its tables as the store has them."""
    return BLOCK.sub(
        lambda found: f"{found[1]}{block(found[2], stored(found[2]))}\n{found[3]}", text
    )


def ratios(store: Path) -> dict[tuple[str, ...], float]:
    """Every ratio that is claimed: of ours over the best peer."""
    return {
        (folder.name, name, row): middle(its["over_peer"])
        for folder in sorted(path for path in store.iterdir() if path.is_dir())
        for record in stored(folder.name, store)
        for name, case in record["cases"].items()
        for row, its in case["rows"].items()
        if "over_peer" in its
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--spread", nargs="+", type=Path, help="stores of the same benchmarks")
    given = parser.parse_args()
    if given.spread:
        found = [ratios(store) for store in given.spread]
        rows = [["ratio", *(str(store) for store in given.spread), "apart"]]
        for key in found[0]:
            values = [each[key] for each in found if key in each]
            apart = 100 * (max(values) / min(values) - 1)
            rows.append([", ".join(key), *(f"{value:.2f}" for value in values), f"{apart:.1f} %"])
        print(table(rows))
        return
    for path in sorted(PAGES.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = page(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
