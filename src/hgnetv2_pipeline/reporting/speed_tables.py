"""Tables of exported models and their latency, as pure functions from JSON to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Table, table_of
from hgnetv2_pipeline.reporting.published import published_models

Json = Mapping[str, Any]


def export_table(manifests: Sequence[Json]) -> Table:
    """A row an exported model: size, nodes, and its distance from the torch model."""
    records = [
        {
            "model": formats.words(entry.get("model") or entry.get("run")),
            "file": formats.words(entry.get("file", "model.onnx")),
            "precision": formats.words(entry.get("precision")),
            "opset": formats.words(entry.get("opset")),
            "px": formats.count(entry.get("image_size")),
            "classes": formats.count(entry.get("num_classes")),
            "GMACs": _giga(entry.get("macs")),
            "nodes": formats.count(entry.get("nodes", entry.get("n_nodes"))),
            "size": formats.size(entry.get("size_bytes", entry.get("size", entry.get("bytes")))),
            "parity error": formats.significant(
                entry.get("parity_error", entry.get("relative_error")), 2
            ),
            "top-1 of fp32 -> its own": _gate(entry.get("gate")),
            "checked at batch": formats.words(entry.get("batches")),
        }
        for entry in manifests
    ]
    return table_of(
        records,
        list(records[0]) if records else ["model"],
        caption="Exported models; parity error = largest logit difference from torch (of a lower "
        "precision: from fp32), in standard deviations of the logits",
        left=("model", "file", "precision"),
        drop_empty=(
            "opset",
            "px",
            "classes",
            "GMACs",
            "nodes",
            "size",
            "parity error",
            "top-1 of fp32 -> its own",
            "checked at batch",
        ),
    )


def tensorrt_table(results: Sequence[Json]) -> Table:
    """A row a graph and batch size of what a kit measured, fastest first on each GPU."""
    records = []
    for found in results:
        versions = found.get("versions")
        version = versions.get("tensorrt") if isinstance(versions, Mapping) else None
        for row in found.get("rows") or ():
            check = row.get("check") or {}
            timings: Sequence[Json] = row.get("timings") or ({},)
            for timing in timings:
                gpu, copies = timing.get("gpu") or {}, timing.get("gpu_with_copies") or {}
                records.append(
                    {
                        "GPU": formats.words(found.get("device")),
                        "TensorRT": formats.words(version),
                        "date": formats.words(found.get("date")),
                        "model": formats.words(found.get("model")),
                        "graph": formats.words(row.get("name")),
                        "batch": formats.count(timing.get("batch_size")),
                        "mean ms": formats.significant(gpu.get("mean_ms")),
                        "p50 ms": formats.significant(gpu.get("p50_ms")),
                        "p99 ms": formats.significant(gpu.get("p99_ms")),
                        "p50 ms with copies": formats.significant(copies.get("p50_ms")),
                        "top-1": _counts(check),
                        "failed": formats.words(row.get("failed")),
                    }
                )
    ordered = sorted(records, key=lambda r: (r["GPU"], r["batch"], r["p50 ms"], r["graph"]))
    return table_of(
        ordered,
        list(ordered[0]) if ordered else ["GPU"],
        caption="TensorRT, as run.py of the kit measured it: GPU time of a batch by CUDA events",
        left=("GPU", "TensorRT", "date", "model", "graph", "failed"),
        drop_empty=("failed", "p50 ms with copies"),
    )


def _counts(check: Json) -> str:
    right, total = formats.number(check.get("top1_count")), formats.number(check.get("n"))
    return formats.NOTHING if right is None or not total else f"{right:.0f} of {total:.0f}"


def _gate(gate: Any) -> str:
    if isinstance(gate, Mapping) and "map" in gate:
        return f"mAP {gate.get('map_fp32')} -> {gate.get('map')} on {gate.get('n')}"
    if not isinstance(gate, Mapping) or "top1" not in gate:
        return formats.NOTHING
    return f"{gate.get('top1_fp32')} -> {gate.get('top1')} of {gate.get('n')}"


def latency_table(
    results: Sequence[Json], accuracy: Mapping[tuple[str, str], tuple[int, int]]
) -> Table:
    """A row a measurement, fastest first on each device, beside what ``accuracies`` found.

    What PaddleClas published for a V100 stands beside our rows of the same setting (224 pixels,
    batch 1), for reference.
    """
    reference = {known.variant: known.latency_v100_ms for known in published_models()}
    ordered = sorted(
        results,
        key=lambda row: (
            str(row.get("device")), formats.number(row.get("batch_size")) or 0,
            formats.number(row.get("p50_ms")) or 0.0, str(row.get("model")),
        ),
    )  # fmt: skip
    records = [
        {
            "model": formats.words(row.get("model")),
            "engine": formats.words(row.get("engine")),
            "precision": formats.words(row.get("precision")),
            "batch": formats.count(row.get("batch_size")),
            "px": formats.count(row.get("image_size")),
            "threads": formats.count(row.get("threads")),
            "top-1 %": _accuracy(accuracy.get((str(row.get("model")), str(row.get("precision"))))),
            "mean ms": formats.significant(row.get("mean_ms")),
            "p50 ms": formats.significant(row.get("p50_ms")),
            "p90 ms": formats.significant(row.get("p90_ms")),
            "p99 ms": formats.significant(row.get("p99_ms")),
            "CPU ms": formats.significant(row.get("cpu_ms")),
            "GPU p50 ms": formats.significant(row.get("gpu_p50_ms")),
            "without copies": formats.significant(_bare(row).get("gpu_p50_ms")),
            "V100 ms*": _published(row, reference),
            "% of peak": formats.significant(row.get("percent_of_peak"), 2),
            "% of bandwidth": formats.significant(row.get("percent_of_bandwidth"), 2),
            "GMACs": formats.significant(row.get("gmacs")),
            "warm-up + timed": f"{formats.count(row.get('n_warmup'))} + "
            f"{formats.count(row.get('n_timed'))}",
            "device": formats.words(row.get("device")),
        }
        for row in ordered
    ]
    devices = sorted({record["device"] for record in records})
    columns = list(records[0])
    if len(devices) == 1:
        columns.remove("device")
    return table_of(
        records,
        columns,
        caption="Latency of one batch without preprocessing, "
        + (f"on {devices[0]}, fastest first" if len(devices) == 1 else "fastest first a device")
        + (
            " (* published by PaddleClas: V100, TensorRT 8.5 FP32; not measured here)"
            if any(record["V100 ms*"] != formats.NOTHING for record in records)
            else ""
        ),
        left=("model", "engine", "precision", "device"),
        drop_empty=(
            "top-1 %",
            "px",
            "threads",
            "CPU ms",
            "GPU p50 ms",
            "without copies",
            "V100 ms*",
            "% of peak",
            "% of bandwidth",
            "GMACs",
        ),
    )


def cold_start_table(files: Sequence[Json]) -> Table | None:
    """How long ``hgnetv2 predict`` takes for one image from the start of its process."""
    records = []
    for file in files:
        found = file.get("cold_start")
        if isinstance(found, Mapping):
            records.append(
                {
                    "model": formats.words(file.get("model")),
                    "median s": formats.significant(found.get("median_s")),
                    "fastest s": formats.significant(found.get("min_s")),
                    "slowest s": formats.significant(found.get("max_s")),
                    "CPU s": formats.significant(found.get("cpu_s")),
                    "starts": formats.count(found.get("n_starts")),
                }
            )
    caption = "hgnetv2 predict on one image, from the start of a fresh process to its end"
    return (
        table_of(records, list(records[0]), caption=caption, left=("model",)) if records else None
    )


def ratios_table(comparison: Json) -> Table | None:
    """How many times as fast as the first engine each is, where engines were timed in turns."""
    ratios = comparison.get("ratios")
    if not isinstance(ratios, Mapping) or len(ratios) < 2:
        return None
    # JSON written with sorted keys has lost the order; the rows have kept it.
    first = str(comparison["rows"][0]["label"])
    records = [
        {
            "timed in turns": str(label),
            "CPU time": formats.significant(entry.get("cpu")),
            "wall time": formats.significant(entry.get("wall")),
        }
        for label, entry in ratios.items()
    ]
    return table_of(
        records,
        list(records[0]),
        caption=f"Times as fast as {first} (median of the rounds; above 1 is faster)",
        left=("timed in turns",),
    )


def _bare(row: Json) -> Json:
    found = row.get("without_copies")
    return found if isinstance(found, Mapping) else {}


def _published(row: Json, reference: Mapping[str, float | None]) -> str:
    same = (row.get("image_size"), row.get("batch_size")) == (224, 1)
    return formats.significant(reference.get(str(row.get("variant"))) if same else None)


def _giga(value: Any) -> str:
    given = formats.number(value)
    return formats.NOTHING if given is None else formats.significant(given / 1e9)


def _accuracy(counted: tuple[int, int] | None) -> str:
    return (
        formats.NOTHING if counted is None else formats.percent(counted[0] / counted[1], counted[1])
    )
