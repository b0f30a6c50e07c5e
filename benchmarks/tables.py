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
from statistics import median
from typing import Any

from harness import ROOT, besides, shown, table

PAGES = ROOT / "docs" / "results"
STORE = PAGES / "measured"
BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end of what was measured -->)", re.S)
MOVED = 10  # percent, between runs of a command on one machine
ALONE = 0.9  # of a core: with less, other work ran on it between the turns and in them
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


def cells(case: Record, row: Record) -> list[str]:
    """Time (or rate) with the share of the peak, over the base, over the best peer, besides."""
    clock = f"{case['clock']}_ms"
    time = f"{shown(row['per_s'])} per s" if "per_s" in row else shown(row.get(clock))
    if "percent_of_peak" in row:
        time += f"; {row['percent_of_peak']:.0f} %"
    if "percent_of_bandwidth" in row:
        time += f", {row['percent_of_bandwidth']:.0f} %"
    peer = f"{shown(row['over_peer'])}, {row['peer']}" if "peer" in row else ""
    return [time, shown(row.get("over_base")), peer, besides(row)]


def timings(record: Record) -> str:
    """One machine's cases, a table each, without columns that are empty throughout."""
    parts = []
    head = ["contender", "work", "ms", "over the base", "over the best peer", "besides"]
    for name, case in record["cases"].items():
        body = [[label, row["work"], *cells(case, row)] for label, row in case["rows"].items()]
        used = [column for column in zip(head, *body, strict=True) if any(column[1:])]
        lines = [list(line) for line in zip(*used, strict=True)]
        parts.append(f"{name} ({about(case)}):\n\n{table(lines)}")
    return "\n\n".join(parts)


def core_share(case: Record) -> float | None:
    """CPU time over wall time of its rows: 1 is a core alone. None where it says nothing."""
    rows = [row for row in case["rows"].values() if "median" in row.get("wall_ms", {})]
    if not rows or case["threads"] > 1 or case["clock"] == "wall":
        return None
    return median(row["cpu_ms"]["median"] / row["wall_ms"]["median"] for row in rows)


def about(case: Record) -> str:
    """How often a case was measured, how busy the machine was, what it can do."""
    peaks = [f"{value:g} {unit}" for unit, value in case.get("peak", {}).items()]
    share = core_share(case)
    parts = [
        f"{case['rounds']} round{'s' * (case['rounds'] > 1)}",
        f"load {' to '.join(map(str, case['load']))}" * bool(case["load"]),
        f"{100 * share:.0f} % of a core" if share else "",
        f"peak {', '.join(peaks)}" * bool(peaks),
        case["note"],
    ]
    return "; ".join(filter(None, parts))


def divided(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """What today's programs measured, and what earlier ones did: of each machine its cases."""
    parts: tuple[list[Record], list[Record]] = [], []
    for record in records:
        for earlier in (False, True):
            cases = {
                name: case
                for name, case in record["cases"].items()
                if case["command"].endswith("(old)") == earlier
            }
            if cases:
                parts[earlier].append({**record, "cases": cases})
    return parts


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
    """Every demand, and our fastest of any precision, with a column for each machine."""
    lines = [
        ["demand, over the best peer of equal work", *(record["machine"] for record in records)]
    ]
    for demand in DEMANDS.get(benchmark, []):
        what = f"{demand.ours or f'the best of ours, {demand.work}'}, {demand.case}"
        judged = [verdict(record, demand) for record in records]
        lines.append([f"{what}: at least {demand.factor:g}", *judged])
    for name in dict.fromkeys(name for record in records for name in record["cases"]):
        found = [record["cases"].get(name, {}).get("best") for record in records]
        if any(found) and benchmark in DEMANDS:
            over = [
                f"{shown(one['ratio'])} ({one['ours']} over {one['peer']})" if one else ""
                for one in found
            ]
            lines.append([f"our fastest over the fastest peer, any precision: {name}", *over])
    return table(lines) if len(lines) > 1 else ""


def sources(record: Record) -> str:
    """A line for each command: which cases it measured, when and with what."""
    lines: dict[str, list[str]] = {}
    for name, case in record["cases"].items():
        versions = [f"{package} {number}" for package, number in case["versions"].items()]
        line = (
            f"`{case['command'].partition(' (')[0]}`, {case['date']}, {case['threads']} "
            f"thread{'s' * (case['threads'] > 1)} on {case['processors']} virtual cores, "
            f"Python {case['python']}, {', '.join(versions)}"
        )
        lines.setdefault(line, []).append(name)
    if len(lines) == 1:
        return f"{next(iter(lines))}."
    return "\n".join(f"- {'; '.join(cases)}: {line}." for line, cases in lines.items())


def block(benchmark: str, records: Sequence[Record]) -> str:
    """What is between the marks: the demands, then each machine, then what is older."""
    cases = [case for record in records for case in record["cases"].values()]
    rows = [row for case in cases for row in case["rows"].values()]
    bases = sorted({case["base"] for case in cases} - {""})
    today, earlier = divided(records)
    said = [
        f"Milliseconds of {'wall time' if cases[0]['clock'] == 'wall' else 'CPU'} per "
        f"{cases[0]['unit']}, medians over rounds with the middle half in brackets"
        + "; older figures run by run" * bool(earlier)
        + ".",
        "Cases on several threads have wall time." * any(case["threads"] > 1 for case in cases),
        "Behind a semicolon the share of the peak of a matrix product, and of memory bandwidth if "
        "every layer reads and writes once." * any("percent_of_peak" in row for row in rows),
        "Ratios say how many times less time it takes (above 1: faster)."
        * any("over_base" in row or "over_peer" in row for row in rows),
        f"The base is '{', '.join(bases)}'." * bool(bases),
    ]
    parts = [" ".join(filter(None, said)), demands(benchmark, today)]
    for note, several in (("", today), (", by earlier programs", earlier)):
        for record in several:
            parts += [f"**{record['machine']}{note}**", timings(record), sources(record)]
    return "\n\n".join(part for part in parts if part)


def page(text: str) -> str:
    """A page with its tables as the store has them."""
    return BLOCK.sub(
        lambda found: f"{found[1]}{block(found[2], stored(found[2]))}\n{found[3]}", text
    )


def ratios(store: Path) -> dict[tuple[str, ...], tuple[float, bool]]:
    """Every ratio that is claimed, of ours over the best peer, and whether its core was shared.

    By machine, benchmark, case and row; that of our fastest over the fastest peer has no row.
    """
    found = {}
    for folder in sorted(path for path in store.iterdir() if path.is_dir()):
        for record in stored(folder.name, store):
            for name, case in record["cases"].items():
                key, share = (record["machine"], folder.name, name), core_share(case)
                crowded = share is not None and share < ALONE
                for row, its in case["rows"].items():
                    if "over_peer" in its:
                        found[*key, row] = middle(its["over_peer"]), crowded
                if case.get("best"):
                    found[key] = middle(case["best"]["ratio"]), crowded
    return found


def spread(stores: Sequence[Path]) -> str:
    """The ratios that all stores have, those furthest apart first, and how many moved by over 10 %.

    Apart: by how many percent the largest is above the smallest. A ratio that was measured on a
    core shared with other work has brackets.
    """
    found = [ratios(store) for store in stores]
    apart: dict[bool, list[tuple[float, tuple[str, ...]]]] = {False: [], True: []}
    for key in found[0]:
        if all(key in each for each in found):
            values = [each[key][0] for each in found]
            crowded = any(each[key][1] for each in found)
            apart[crowded].append((100 * (max(values) / min(values) - 1), key))
    rows = [["ratio", *map(str, stores), "apart, %"]]
    for percent, key in sorted(apart[False] + apart[True], reverse=True):
        values = [
            f"({each[key][0]:.2f})" if each[key][1] else f"{each[key][0]:.2f}" for each in found
        ]
        rows.append([", ".join(key[1:]), *values, f"{percent:.1f}"])
    said = [
        f"{sum(percent > MOVED for percent, _ in some)} of {len(some)} ratios {where} moved by "
        f"more than {MOVED} %, the most by {max(some)[0]:.1f} %."
        for where, some in (
            (f"with at least {100 * ALONE:.0f} % of a core in all of them", apart[False]),
            ("with a core shared with other work in one of them", apart[True]),
        )
        if some
    ]
    return "\n\n".join([table(rows), *said] if said else ["no ratio is in all of them"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--spread", nargs="+", type=Path, help="stores of the same benchmarks")
    given = parser.parse_args()
    if given.spread:
        print(spread(given.spread))
        return
    for path in sorted(PAGES.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = page(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
