"""The chapters about the finished file: what was exported, and how fast it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.reporting import figures, formats, intervals, speed_tables, tables
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Notice, Table, Text
from hgnetv2_pipeline.reporting.inputs import AbsentError, Ledger, ReportInputs
from hgnetv2_pipeline.reporting.model_sections import read_evaluations
from hgnetv2_pipeline.reporting.sections import read_all

Json = Mapping[str, Any]


def read_exports(inputs: ReportInputs, ledger: Ledger) -> tuple[list[Json], list[Block]]:
    """Export manifests, completed by what only their folder tells: its run, the model's size."""
    if not inputs.exports:
        raise AbsentError("export: no manifest was given to the report")
    found: list[Json] = []
    troubles: list[Block] = []
    for path in sorted(inputs.exports):
        try:
            manifest = ledger.read_json(path, "export manifest")
        except AbsentError as error:
            troubles.append(Notice(str(error), kind="warning"))
            continue
        model = path.parent / str(manifest.get("file", "model.onnx"))
        known: dict[str, Any] = {"model": "/".join(path.parent.parts[-3:]), "file": model.name}
        if model.is_file():
            known["size_bytes"] = model.stat().st_size
        found.append({**known, **manifest})
        found += _precisions(path.parent, known, manifest)
    if not found:
        raise AbsentError("; ".join(b.text for b in troubles if isinstance(b, Notice)))
    return found, troubles


def _precisions(folder: Path, known: Json, manifest: Json) -> list[Json]:
    """An entry for each file in a lower precision, with what its gate found."""
    gates = manifest.get("precisions")
    rows: list[Json] = []
    for precision, gate in gates.items() if isinstance(gates, Mapping) else ():
        file = folder / f"model.{precision}.onnx"
        row = {**manifest, **known, "file": file.name, "precision": precision, "gate": gate}
        row["parity_error"] = gate.get("relative_error") if isinstance(gate, Mapping) else None
        row.pop("size_bytes", None)
        if file.is_file():
            row["size_bytes"] = file.stat().st_size
        rows.append(row)
    return rows


def export_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """What was exported and how close it is to torch; TensorRT's figures from a target machine."""
    found, troubles = read_exports(inputs, ledger)
    return [*troubles, speed_tables.export_table(found), *_tensorrt(inputs, ledger, found)]


def _tensorrt(inputs: ReportInputs, ledger: Ledger, exports: Sequence[Json]) -> list[Block]:
    """Only what run.py of a kit measured, with GPU, version and date; otherwise "not run"."""
    if not inputs.tensorrt:
        return [
            Text(
                "TensorRT: not run. A kit for a machine that has it: "
                f"{inputs.run_command} --pipeline export --params export.target=tensorrt-kit"
            )
        ]
    results, blocks = read_all(inputs.tensorrt, "TensorRT result", ledger)
    weights = {str(entry.get("source_sha256")) for entry in exports}
    stale = [entry for entry in results if str(entry.get("source_sha256")) not in weights]
    table = speed_tables.tensorrt_table(results)
    if stale:
        blocks.append(
            Notice(
                "Some TensorRT results were measured with other weights than the export above has",
                kind="warning",
            )
        )
    return [*blocks, table]


def latency_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """The latency table, and accuracy against latency for each device and batch size."""
    files, troubles = read_all(inputs.latencies, "latency", ledger)
    found = measurements(files)
    split, accuracy = _accuracy(inputs, ledger)
    blocks: list[Block] = [*troubles]
    drawn = _scatters(found, accuracy, split)
    blocks += drawn
    if not drawn:
        blocks.append(
            Notice(
                "Accuracy against latency: no measured model has an accuracy of the same precision "
                "on this data",
                f"{inputs.run_command} --pipeline evaluation",
            )
        )
    blocks.append(speed_tables.latency_table(found, accuracy))
    blocks += [table for table in map(speed_tables.ratios_table, files) if table is not None]
    started = speed_tables.cold_start_table(files)
    blocks += [] if started is None else [started]
    blocks.append(_devices(found))
    unknown = sorted(
        {
            str(row.get("model"))
            for row in found
            if (str(row.get("model")), str(row.get("precision"))) not in accuracy
        }
    )
    if unknown and drawn:
        blocks.append(
            Text(
                "Not in the drawing, because without an accuracy on this data in the same "
                f"precision: {', '.join(unknown)}."
            )
        )
    return blocks


def measurements(files: Sequence[Json]) -> list[Json]:
    """One entry a measurement: a file holds one, or several as ``rows`` timed in turns.

    What was timed in turns as well as by itself is told once, by itself.

    Raises:
        AbsentError: no file holds one with a median.
    """
    entries = [row for file in files for row in (file.get("rows") or [file])]
    found = [row for row in entries if formats.number(row.get("p50_ms"))]
    if not found:
        raise AbsentError("latency: no file holds a median time")
    alone = {_case(row) for row in found if "label" not in row}
    return [row for row in found if "label" not in row or _case(row) not in alone]


def _case(row: Json) -> tuple[str, ...]:
    keys = ("model", "engine", "precision", "batch_size", "device")
    return tuple(str(row.get(key)) for key in keys)


def _accuracy(
    inputs: ReportInputs, ledger: Ledger
) -> tuple[str, dict[tuple[str, str], tuple[int, int]]]:
    """Accuracies on one split, test where anything was evaluated on it; empty without any."""
    try:
        results, _ = read_evaluations(inputs, ledger)
    except AbsentError:  # the chapter on accuracy says so already
        return "", {}
    splits = sorted({str(result.get("split")) for result in results})
    split = "test" if "test" in splits else (splits[-1] if splits else "")
    return split, tables.accuracies(results, split)


def _scatters(
    found: Sequence[Json], accuracy: Mapping[tuple[str, str], tuple[int, int]], split: str
) -> list[Block]:
    groups: dict[tuple[str, int, str], list[figures.Mark]] = {}
    for row in sorted(found, key=lambda r: (str(r.get("model")), str(r.get("engine")))):
        counted = accuracy.get((str(row.get("model")), str(row.get("precision"))))
        median = formats.number(row.get("p50_ms"))
        if counted is None or not median:
            continue
        hits, n = counted
        low, high = intervals.wilson(hits, n)
        side = formats.number(row.get("image_size"))
        pixels = f", {side:.0f} px" if side else ""
        place = (str(row.get("device")), int(formats.number(row.get("batch_size")) or 1), pixels)
        groups.setdefault(place, []).append(
            figures.Mark(
                x=median,
                y=100 * hits / n,
                label=str(row.get("model")),
                group=f"{row.get('engine')}, {row.get('precision')}",
                interval=(100 * low, 100 * high),
            )
        )
    return [
        Figure(
            (
                figures.scatter(
                    marks,
                    x_label=f"median latency of a batch of {batch}, ms",
                    y_label=f"top-1 on {split}, %",
                ),
            ),
            f"Accuracy against latency on {device}, batch {batch}{pixels}; up and left is better. "
            "Whiskers are the 95 % intervals of the accuracy.",
        )
        for (device, batch, pixels), marks in sorted(groups.items())
    ]


def _devices(found: Sequence[Json]) -> Table:
    rows = sorted(
        {
            (formats.words(row.get("device")), str(row.get("engine")), _versions(row))
            for row in found
        }
    )
    return Table(
        ("device", "engine", "versions"), tuple(rows), "What the latencies were measured with",
        left=("device", "engine", "versions"),
    )  # fmt: skip


def _versions(row: Json) -> str:
    given = row.get("versions")
    if not isinstance(given, Mapping) or not given:
        return formats.NOTHING
    return ", ".join(f"{name} {given[name]}" for name in sorted(given))
