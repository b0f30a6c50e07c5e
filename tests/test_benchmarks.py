"""Benchmarks compare equal work in turns, and the pages of results say what was measured."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import bench_peers
import harness
import numpy as np
import pytest
import tables
from harness import Case, Contender, Lap
from PIL import Image

PAGES = sorted(tables.PAGES.glob("*.md"))
STORED = sorted(tables.STORE.glob("*/*.json"))


def case_of(**seconds: tuple[str, bool, float]) -> Case:
    """Contenders whose every call takes a known time: name to (work, ours, seconds)."""
    contenders = {
        name: Contender(None, work, ours, lap=lambda s=s: Lap(2 * s, s))
        for name, (work, ours, s) in seconds.items()
    }
    return Case("case", contenders, units=10, base=next(iter(contenders)), cold=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_tables_of_a_page_are_what_was_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.page(text) == text, "python benchmarks/tables.py"


def test_what_was_measured_is_on_one_page() -> None:
    marked = [name for page in PAGES for _, name, _ in tables.BLOCK.findall(page.read_text())]
    assert sorted(marked) == sorted({path.parent.name for path in STORED})
    assert tables.DEMANDS.keys() <= set(marked)


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_figure_has_its_command_date_and_machine_and_its_peer_does_equal_work(
    path: Path,
) -> None:
    record = json.loads(path.read_text())
    assert harness.slug(record["machine"]) == path.stem
    for name, case in record["cases"].items():
        assert case["date"] and case["command"] and case["processor"] and case["versions"], name
        assert "/tmp" not in case["command"] and not case["command"].startswith("/")  # noqa: S108
        for row in case["rows"].values():
            if "over_peer" in row:
                peer = case["rows"][row["peer"]]
                assert row["ours"] and not peer["ours"] and peer["work"] == row["work"], name


def test_only_peers_of_equal_work_judge_and_the_fastest_of_them_does() -> None:
    case = case_of(
        slow=("view", False, 4.0), fast=("view", False, 3.0), less=("half a view", False, 1.0),
        own=("view", True, 2.0),
    )  # fmt: skip
    first, laps = harness.compare(case, 0)
    rows = harness.rows_of(case, first, laps, 1)
    assert rows["own"]["peer"] == "fast"
    assert rows["own"]["over_peer"]["median"] == 1.5
    assert rows["own"]["over_base"]["median"] == 2
    assert rows["own"]["cpu_ms"]["median"] == 200 and rows["own"]["wall_ms"]["median"] == 400
    assert "over_peer" not in rows["less"] and "over_peer" not in rows["slow"]
    assert harness.best_of(case, laps) | {"ratio": 0} == {"ours": "own", "peer": "fast", "ratio": 0}
    record = {"machine": "M (AVX2)", "cases": {"case": {"rows": rows}}}
    for demand, said in (
        (tables.Demand("case", "view", 1.5), "reached"),
        (tables.Demand("case", "view", 1.6), "missed"),
        (tables.Demand("case", "half a view", 1.0), "not measured at equal work"),
        (tables.Demand("another", "view", 1.0), "not measured at equal work"),
    ):
        assert said in tables.verdict(record, demand)


def test_a_demand_is_reached_by_all_single_runs_or_not_at_all() -> None:
    row = {"work": "w", "ours": True, "peer": "p", "over_peer": {"runs": [1.51, 1.49]}}
    record = {"machine": "M", "cases": {"case": {"rows": {"own": row}}}}
    assert "missed" in tables.verdict(record, tables.Demand("case", "w", 1.5))


def a_store(folder: Path, over_peer: float, best: float, wall: float = 1.0) -> Path:
    row = {"work": "w", "ours": True, "peer": "p", "over_peer": harness.figure([over_peer])}
    peer = {"work": "w", "ours": False}
    times = {"cpu_ms": harness.figure([1.0]), "wall_ms": harness.figure([wall])}
    rows = {"own": row | times, "p": peer | times}
    case = {"rows": rows, "threads": 1, "clock": "cpu", "best": {"ratio": harness.figure([best])}}
    (folder / "some").mkdir(parents=True)
    text = json.dumps({"machine": "M", "cases": {"case": case}})
    (folder / "some" / "m.json").write_text(text)
    return folder


def test_the_spread_of_several_stores_counts_what_moved_and_begins_with_what_moved_most(
    tmp_path: Path,
) -> None:
    stores = [a_store(tmp_path / "a", 1.5, 2.0), a_store(tmp_path / "b", 1.2, 2.1)]
    said = tables.spread(stores).splitlines()
    assert said[2] == "| some, case, own | 1.50 | 1.20 | 25.0 |"
    assert said[3] == "| some, case | 2.00 | 2.10 | 5.0 |"
    assert said[-1].startswith("1 of 2 ratios with at least 90 % of a core in all of them moved by")
    assert said[-1].endswith("more than 10 %, the most by 25.0 %.")


def test_ratios_that_were_measured_on_a_shared_core_are_counted_apart(tmp_path: Path) -> None:
    stores = [a_store(tmp_path / "a", 1.5, 2.0), a_store(tmp_path / "b", 1.2, 2.1, wall=3.0)]
    said = tables.spread(stores).splitlines()
    assert said[2] == "| some, case, own | 1.50 | (1.20) | 25.0 |"
    assert said[-1].startswith("1 of 2 ratios with a core shared with other work in one of them")


def test_stores_of_different_machines_share_no_ratio(tmp_path: Path) -> None:
    first, second = a_store(tmp_path / "a", 1.5, 2.0), a_store(tmp_path / "b", 1.5, 2.0)
    path = second / "some" / "m.json"
    path.write_text(path.read_text().replace('"M"', '"another machine"'))
    assert tables.spread([first, second]) == "no ratio is in all of them"


def test_what_earlier_programs_measured_stands_below_and_judges_no_demand() -> None:
    row = {"work": "fp32", "ours": True, "peer": "p", "over_peer": harness.figure([2.0])}
    common = {
        "rows": {"own": row | {"cpu_ms": harness.figure([1.0])}}, "clock": "cpu", "unit": "image",
        "base": "", "threads": 1, "processors": 2, "versions": {}, "python": "3", "load": [],
        "rounds": 1, "note": "", "date": "d",
    }  # fmt: skip
    cases = {
        "b0, batch 1": common | {"command": "python today.py"},
        "b0, batch 16": common | {"command": "python before.py (old)"},
    }
    text = tables.block("onnx", [{"machine": "M (AVX2)", "cases": cases}])
    judged, today, earlier = text.split("**M (AVX2)")
    assert "b0, batch 1: at least 1.25 | 2.00 over p: **reached**" in judged
    assert "b0, batch 16: at least 1.5 | not measured at equal work" in judged
    assert "python today.py" in today and "before.py" not in today
    assert earlier.startswith(", by earlier programs**") and "`python before.py`" in earlier


def test_contenders_run_in_turns_and_backwards_in_every_second_round() -> None:
    calls = []

    def lap(name: str) -> Lap:
        calls.append(name)
        return Lap(1.0, 1.0)

    every = {name: Contender(None, "w", lap=lambda name=name: lap(name)) for name in "AB"}
    _, laps = harness.compare(Case("case", every), 0, rounds=3)
    assert "".join(calls) == "AB" + "AB" + "BA" + "AB"
    assert {name: len(each) for name, each in laps.items()} == {"A": 3, "B": 3}


@pytest.mark.parametrize(("peer", "rounds"), [([2.0], 3), ([2.0, 3.0], 9)])
def test_rounds_go_on_where_a_ratio_is_not_settled(peer: list[float], rounds: int) -> None:
    took = itertools.cycle(peer)
    case = Case("case", {
        "peer": Contender(None, "w", lap=lambda: Lap(1.0, next(took))),
        "own": Contender(None, "w", True, lap=lambda: Lap(1.0, 1.0)),
    })  # fmt: skip
    _, laps = harness.compare(case, 0, rounds=3)
    assert len(laps["own"]) == rounds


def test_short_calls_are_repeated_within_a_turn_and_the_first_of_it_is_dropped() -> None:
    took = iter([0.05, 0.05, 9.0, 0.05, 0.05, *[0.05] * 20])
    contender = Contender(None, "w", lap=lambda: Lap(next(took), 0.0))
    _, laps = harness.compare(Case("case", {"A": contender}), 0, rounds=3)
    assert [lap.wall for lap in laps["A"]] == [0.05] * 3


def test_a_process_of_its_own_is_timed_with_its_memory() -> None:
    found = harness.in_own_process(dict, {"bad": 3})
    assert found["bad"] == 3 and found["lap"].cpu < 1 and 10 < found["peak MB"] < 2000


@pytest.mark.parametrize(
    ("name", "has", "kind"),
    [
        ("Intel(R) Xeon(R) Processor @ 2.70GHz", {"avx2", "avx512", "avx512_vnni", "avx512_bf16",
         "amx_bf16"}, "Intel Xeon (AVX-512, VNNI, bf16, AMX)"),
        ("AMD EPYC", {"avx2", "avx512", "avx512_vnni", "avx512_bf16"},
         "AMD EPYC (AVX-512, VNNI, bf16; no AMX)"),
        ("AMD EPYC 7763 64-Core Processor", {"avx2"}, "AMD EPYC 7763 (AVX2)"),
    ],
    ids=["amx", "bf16", "avx2"],
)  # fmt: skip
def test_a_kind_of_machine_is_named_by_what_it_computes_in(
    name: str, has: set[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "cpu_name", lambda: name)
    monkeypatch.setattr(harness, "features", lambda: frozenset(has))
    assert harness.machine() == kind


def test_peers_see_the_same_images_and_as_many_epochs_as_fit(tmp_path: Path) -> None:
    for name in ("labelled", "test"):
        for colour, label in ((0, "a"), (200, "b")):
            folder = tmp_path / "set" / name / label
            folder.mkdir(parents=True)
            for place in range(2):
                Image.new("RGBA", (4, 4), (colour, colour, colour, 0)).save(folder / f"{place}.png")
    bench_peers.write_images(tmp_path / "set", tmp_path / "out", ["a", "b"])
    written = sorted((tmp_path / "out").rglob("*.png"))
    counts = Counter(path.relative_to(tmp_path / "out").parts[:2] for path in written)
    assert counts == {("train", "a"): 2, ("train", "b"): 2, ("val", "a"): 1, ("val", "b"): 1,
                      ("test", "a"): 2, ("test", "b"): 2}  # fmt: skip
    assert {Image.open(path).getpixel((0, 0)) for path in written} == {(255, 255, 255)}
    # Seven seconds of preparation and three per epoch: 31 epochs are 100 seconds.
    assert bench_peers.epochs_within(100, [(2, 13.0), (6, 25.0)]) == 31
    assert bench_peers.epochs_within(1, [(2, 13.0), (6, 25.0)]) == 1


def test_a_peers_row_is_the_mean_of_its_seeds_and_ours_is_compared_by_image() -> None:
    runs = [bench_peers.Answered("p", "small", seed, 5.0, "Peer 1", 10, 5.0, {"test": right})
            for seed, right in enumerate(([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]))]  # fmt: skip
    (row,) = bench_peers.rows_of(runs, {"test": np.array([1.0, 1.0, 1.0, 0.0])})
    # Ours is ahead by 0, 0.5, 1 and 0 images: 0.375, with a standard error of 0.479 / 2.
    assert row == ["Peer 1", "small", "5", "10", "1 2", "+37.5 ± 23.9"]
