"""What a sweep comes to: all models timed in turns, one table, one page, one recommendation."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json, write_aside, write_json
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.progress import SHOWN
from hgnetv2_pipeline.project.params import LatencyParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.sweep.making import SPLIT, Entry
from hgnetv2_pipeline.reporting.sweep_page import PAGE

_log = logging.getLogger(__name__)

TABLE, CSV, PLOT = "sweep.json", "sweep.csv", "pareto.svg"
_TIMES = "times.json"
# A change of the machine's mood meets all models in each of so many rounds.
_ROUNDS = 20


def time_entries(run: Run, entries: Sequence[Entry], latency: LatencyParams) -> Path | None:
    """Time every file that was judged, in turns; None where there is none.

    Turns, because other work on the machine would else fall on one model alone. Measured once for
    these files on this machine.
    """
    from hgnetv2_pipeline.deployment.timing.machine import what_runs_here

    files = {entry.name: entry.model for entry in entries if entry.model is not None}
    if not files:
        return None
    engine, each = latency.engines[0], -(-latency.runs // _ROUNDS)
    precisions = {entry.name: entry.precision for entry in entries}
    # OpenMP and ONNX Runtime read this at start.
    os.environ["OMP_NUM_THREADS"] = str(latency.threads)

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.deployment.engines.ladder import load_engine
        from hgnetv2_pipeline.deployment.timing.latency import compare_latency

        with ExitStack() as opened:
            engines = {
                name: opened.enter_context(
                    load_engine(
                        path.with_name("model.onnx"),
                        engine=engine,
                        precision=precisions[name],
                        batch_size=1,
                        threads=latency.threads,
                    )
                )
                for name, path in files.items()
            }
            found = compare_latency(
                engines, warmup=latency.warmup, rounds=_ROUNDS, runs_per_round=each
            )
        write_json(aside / _TIMES, found)

    made = run.produce(
        ResultSpec(
            folder=run.folder("sweep"),
            name="times",
            pipeline="sweep",
            inputs={f"model {name}": path for name, path in files.items()},
            params={
                "engine": engine,
                "threads": latency.threads,
                "warmup": latency.warmup,
                "rounds": _ROUNDS,
                "runs_per_round": each,
                "machine": what_runs_here(),
            },
            outputs=[_TIMES],
        ),
        make,
    )
    return made.folder / _TIMES


def sweep_result(
    run: Run, entries: Sequence[Entry], times: Path | None, budget_ms: float | None
) -> ResultSpec:
    """The table as JSON and CSV, the plot and the page."""
    inputs: dict[str, Path | str] = {} if times is None else {"times": times}
    for entry in entries:
        if entry.counts is not None and entry.answers is not None:
            inputs |= {f"counts {entry.name}": entry.counts, f"rows {entry.name}": entry.answers}
    return ResultSpec(
        folder=run.folder("sweep"),
        name="sweep",
        pipeline="sweep",
        inputs=inputs,
        params={
            "entries": [[entry.name, entry.state, entry.reason] for entry in entries],
            "budget_ms": budget_ms,
            "run_command": run.identity.run_command,
        },
        outputs=[TABLE, CSV, PLOT, PAGE],
    )


def write_sweep(
    aside: Path, run: Run, entries: Sequence[Entry], times: Path | None, budget_ms: float | None
) -> None:
    """Apply the rule and write table, plot and page."""
    import pandas as pd

    from hgnetv2_pipeline.printable import csv_frame
    from hgnetv2_pipeline.reporting.sweep_page import build_sweep_page, pareto_plot

    table = _table(run, entries, times, budget_ms)
    write_json(aside / TABLE, table)
    with write_aside(aside / CSV) as file:
        csv_frame(pd.DataFrame(table["rows"])).to_csv(file, index=False)
    with write_aside(aside / PLOT) as file:
        file.write_text(pareto_plot(table), encoding="utf-8")
    build_sweep_page(table, aside / PAGE)


def log_sweep(folder: Path) -> None:
    """Show the table and the recommendation."""
    from hgnetv2_pipeline.printable import lines
    from hgnetv2_pipeline.reporting.sweep_page import recommendation, terminal_rows
    from hgnetv2_pipeline.reporting.terminal import terminal_table

    table = read_json(folder / TABLE)
    rows = terminal_table(terminal_rows(table))
    _log.log(SHOWN, "%s", lines("", rows, recommendation(table), ""))


def _table(
    run: Run, entries: Sequence[Entry], times: Path | None, budget_ms: float | None
) -> dict[str, Any]:
    from hgnetv2_pipeline.evaluation.recommendation import MeasuredModel, recommend
    from hgnetv2_pipeline.project.training.choice import paired_differences

    timed = {row["label"]: row for row in read_json(times)["rows"]} if times is not None else {}
    counts = [read_json(entry.counts) if entry.counts is not None else {} for entry in entries]
    several = any(each.get("task") == "multi_label" for each in counts)
    metric = "map" if several else "top1"
    rows = [
        _row(entry, count, metric, timed.get(entry.name, {}))
        for entry, count in zip(entries, counts, strict=True)
    ]
    known = [place for place, entry in enumerate(entries) if entry.answers is not None]
    answers = {entries[place].name: entries[place].answers for place in known}
    classes = next((each["classes"] for each in counts if each), None)
    difference = paired_differences(answers, classes if several else None)  # type: ignore[arg-type]
    found = recommend(
        [MeasuredModel(row["value"], row["p50_ms"]) for row in rows],
        lambda first, second: difference(known.index(first), known.index(second)),
        budget_ms=budget_ms,
    )
    for place, behind in found.behind.items():
        rows[place] |= {"behind": behind.value, "behind_error": behind.error}
    named = {"used": found.used, "leader": found.leader, "fastest": found.fastest}
    first: Mapping[str, Any] = next(iter(timed.values()), {})
    return {
        "dataset": run.identity.dataset,
        "run": run.identity.run,
        "run_command": run.identity.run_command,
        "metric": metric,
        "split": SPLIT,
        "n": next((each["n_listed"] for each in counts if each), 0),
        "has_test": (run.folder("lists") / "index_test.parquet").is_file(),
        "budget_ms": budget_ms,
        **{name: None if at is None else rows[at]["name"] for name, at in named.items()},
        **{key: first.get(key) for key in ("engine", "device", "threads", "n_timed")},
        "load_average": first.get("load_average"),
        "processors": available_cpus(),
        "rows": rows,
    }


def _row(
    entry: Entry, count: Mapping[str, Any], metric: str, timed: Mapping[str, Any]
) -> dict[str, Any]:
    from hgnetv2_pipeline.intervals import wilson_interval

    identity = entry.run.run.identity
    project = identity.project
    right, n = count.get("top1_count"), count.get("n_listed")
    low, high = wilson_interval(right, n) if right is not None and n else (None, None)
    size = entry.run.size
    return {
        "name": entry.name,
        "variant": identity.variant,
        "size": size if isinstance(size, int) else "x".join(map(str, size)),
        "precision": entry.precision,
        "model": identity.model,
        "file": entry.model.relative_to(project).as_posix() if entry.model is not None else None,
        "state": entry.state,
        "reason": entry.reason,
        "value": count.get(metric),
        "low": low,
        "high": high,
        "right": right,
        "n": n,
        "p50_ms": timed.get("p50_ms"),
        "p90_ms": timed.get("p90_ms"),
        "cpu_ms": timed.get("cpu_ms"),
        "gmacs": timed.get("gmacs"),
        "bytes": entry.model.stat().st_size if entry.model is not None else None,
        "behind": None,
        "behind_error": None,
    }
