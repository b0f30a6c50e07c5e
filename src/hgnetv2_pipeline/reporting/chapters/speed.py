"""The chapters about the finished file: what was exported, and how fast it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.reporting import figures, formats, tables
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Notice, Table, Text, table_of
from hgnetv2_pipeline.reporting.chapters.accuracy import read_evaluations
from hgnetv2_pipeline.reporting.chapters.published import published_models
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.sections import busy_notice, read_all

Json = Mapping[str, Any]
LEAST_POINTS = 3  # of a drawing
_SHARES = {"percent_of_peak": "% of peak", "percent_of_bandwidth": "% of bandwidth"}


def read_exports(inputs: ReportInputs, ledger: FileLedger) -> tuple[list[Json], list[Block]]:
    """Export manifests, completed by what only their folder tells: its run, the model's size."""
    if not inputs.exports:
        raise AbsentError("export: no manifest was given to the report")
    found: list[Json] = []
    troubles: list[Block] = []
    exported: dict[Path, Any] = {}
    for path in sorted(inputs.exports):  # the manifest of a folder before the notes of its files
        try:
            manifest = ledger.read_json(path, "export manifest")
        except AbsentError as error:
            troubles.append(Notice(str(error), kind="warning"))
            continue
        model = path.parent / str(manifest.get("file", "model.onnx"))
        files = manifest.get("files")
        own = files.get("model.onnx") if isinstance(files, Mapping) else None
        source = manifest.get("onnx_sha256", own)
        if exported.setdefault(path.parent, source) != source:
            text = f"{model.name} was made from another model.onnx than the one exported last"
            troubles.append(Notice(text, kind="warning"))
            continue
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


def export_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """What was exported and how close it is to torch; TensorRT's figures from a target machine."""
    found, troubles = read_exports(inputs, ledger)
    return [*troubles, export_table(found), *_tensorrt(inputs, ledger, found)]


def _tensorrt(inputs: ReportInputs, ledger: FileLedger, exports: Sequence[Json]) -> list[Block]:
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
    table = tensorrt_table(results)
    if stale:
        blocks.append(
            Notice(
                "Some TensorRT results were measured with other weights than the export above has",
                kind="warning",
            )
        )
    return [*blocks, table]


def latency_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """A table per image size, machine and number of threads, and accuracy against latency."""
    files, troubles = read_all(inputs.latencies, "latency", ledger)
    found = measurements(files)
    split, accuracy = _accuracy(inputs, ledger)
    command = f"{inputs.run_command} --pipeline latency"
    blocks: list[Block] = [*troubles, *_scatters(found, accuracy, split, inputs)]
    blocks += timing_blocks(found, accuracy, command)
    blocks += _remarks(found, inputs.model, command)
    blocks += [table for table in map(ratios_table, files) if table is not None]
    started = cold_start_table(files)
    blocks += [] if started is None else [started]
    return [*blocks, _devices(found)]


def timing_blocks(
    found: Sequence[Json], accuracy: Mapping[tuple[str, str], tuple[int, int]], command: str
) -> list[Block]:
    """How busy the machine was, and a table per image size, machine and number of threads."""
    return [*_load_blocks(found, command), *latency_tables(found, accuracy)]


def _setting(row: Json) -> tuple[str, int, str]:
    """Image size, threads and machine: rows that differ in one of them cannot be compared."""
    threads = int(formats.number(row.get("threads")) or 0)
    return formats.words(row.get("device")), threads, formats.pixels(row.get("image_size"))


def _in_words(setting: tuple[str, int, str]) -> str:
    device, threads, size = setting
    of = "" if not threads or "thread" in device else f", {_counted(threads, 'thread')}"
    return ("" if size == formats.NOTHING else f"at {size} px ") + f"on {device}{of}"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _groups(rows: Sequence[Json]) -> dict[tuple[str, int, str], list[Json]]:
    """The rows by setting, in the order of its words, small images before large ones."""
    found: dict[tuple[str, int, str], list[Json]] = {}
    for row in sorted(rows, key=lambda r: (*_setting(r)[:2], len(_setting(r)[2]), _setting(r))):
        found.setdefault(_setting(row), []).append(row)
    return found


def _load_blocks(found: Sequence[Json], command: str) -> list[Block]:
    """How busy the machine was just before the measurements, and what that means for them."""
    loads = [load for row in found if (load := formats.number(row.get("load_average"))) is not None]
    if not loads:
        return [Text("How busy the machine was while the models were timed is not recorded.")]
    then = "the medians are too long, the means and the slowest calls even more; CPU ms least"
    redo = f"{command} --params redo=latency"

    def per_processor(row: Json) -> float:
        load, processors = (formats.number(row.get(key)) for key in ("load_average", "processors"))
        return (load or 0.0) / (processors or math.inf)

    busiest = max(found, key=per_processor)
    processors = busiest.get("processors")
    busy = busy_notice(formats.number(busiest.get("load_average")), processors, then, redo)
    if busy is not None:
        return [busy]
    span = f"{min(loads):.1f}" + ("" if min(loads) == max(loads) else f" to {max(loads):.1f}")
    known = formats.number(processors)
    if known is not None:
        of = _counted(round(known), "processor")
        return [Text(f"Load average before the measurements: {span} on {of}: not too busy.")]
    return [
        Text(
            f"Load average before the measurements: {span}; of how many processors is not "
            f"recorded. With fewer than that, {then}."
        )
    ]


def _remarks(found: Sequence[Json], model: str, command: str) -> list[Block]:
    """Why some rows are not compared, and why some shares are not shown."""
    blocks: list[Block] = []
    groups = _groups(found)
    if len(groups) > 1:
        timed = []
        for setting, rows in groups.items():
            names = dict.fromkeys(str(row.get("model")) for row in rows)
            timed.append(f"{', '.join(names)} {_in_words(setting)}")
        said = (
            "Times of different image sizes, machines or numbers of threads are not comparable: "
            f"they are in tables of their own, without ratios. {'; '.join(timed)}"
        )
        own = {_setting(row)[2] for row in found if row.get("model") == model}
        stray = own and any(
            str(row.get("model")).startswith(("timm:", "scratch:")) and _setting(row)[2] not in own
            for row in found
        )
        if stray:
            said += ". Times of timm's and fresh networks at the image size of the model"
        blocks.append(Notice(said, command if stray else None, kind="warning"))
    if any((formats.number(row.get(key)) or 0) > 100 for row in found for key in _SHARES):
        blocks.append(
            Text(
                "Over 100: the share does not apply. The network's data stayed in the processor's "
                "caches, which are faster than its memory, or the peak was measured while the "
                "machine was busier than during the timing."
            )
        )
    return blocks


def measurements(files: Sequence[Json]) -> list[Json]:
    """One entry a measurement: a file holds one, or several as ``rows`` timed in turns.

    What was timed in turns as well as by itself is shown once, by itself.

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
    inputs: ReportInputs, ledger: FileLedger
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
    found: Sequence[Json],
    accuracy: Mapping[tuple[str, str], tuple[int, int]],
    split: str,
    inputs: ReportInputs,
) -> list[Block]:
    """A drawing per setting and batch size with enough points; a sentence about what has none."""
    blocks: list[Block] = []
    without: list[str] = []
    few = 0
    for setting, rows in _groups(found).items():
        for batch in sorted({int(formats.number(row.get("batch_size")) or 1) for row in rows}):
            timed = [
                row for row in rows if int(formats.number(row.get("batch_size")) or 1) == batch
            ]
            marks = [mark for row in timed if (mark := _mark(row, accuracy)) is not None]
            if len(marks) < LEAST_POINTS:
                few = max(few, len(marks))
                continue
            published = _published_marks(timed) if inputs.comparable and split == "val" else []
            shown = {mark.label.lower() for mark in published}
            without += [
                str(row.get("model"))
                for row in timed
                if _mark(row, accuracy) is None and str(row.get("variant")) not in shown
            ]
            blocks.append(_scatter([*published, *marks], setting, batch, split))
    if not blocks:
        said = (
            f"Accuracy against latency is drawn where at least {LEAST_POINTS} models were timed "
            "alike and evaluated on this data in the same precision; here "
            + ("is 1" if few == 1 else f"are {few}" if few else "is none")
        )
        command = f"{inputs.run_command} --pipeline evaluation"
        blocks.append(Text(f"{said}.") if few else Notice(said, command))
    elif without:
        blocks.append(
            Text(
                "Not in the drawing, because without an accuracy on this data in the same "
                f"precision: {', '.join(sorted(set(without)))}."
            )
        )
    return blocks


def _mark(row: Json, accuracy: Mapping[tuple[str, str], tuple[int, int]]) -> figures.Mark | None:
    counted = accuracy.get((str(row.get("model")), str(row.get("precision"))))
    median = formats.number(row.get("p50_ms"))
    if counted is None or not median:
        return None
    hits, n = counted
    low, high = intervals.wilson_interval(hits, n)
    return figures.Mark(
        x=median,
        y=100 * hits / n,
        label=str(row.get("model")),
        group=f"{row.get('engine')}, {row.get('precision')}",
        interval=(100 * low, 100 * high),
    )


def _published_marks(rows: Sequence[Json]) -> list[figures.Mark]:
    """The published accuracy of each variant that was timed here, at its fastest time at 224 px."""
    known = {model.variant: model.top1 for model in published_models()}
    fastest: dict[str, float] = {}
    for row in rows:
        name, median = str(row.get("variant")), formats.number(row.get("p50_ms"))
        if known.get(name) and median and row.get("image_size") == 224:
            fastest[name] = min(median, fastest.get(name, median))
    return [
        figures.Mark(
            median, float(known[name] or 0), name.upper(), "published accuracy", faint=True
        )
        for name, median in sorted(fastest.items())
    ]


def _scatter(
    marks: Sequence[figures.Mark],
    setting: tuple[str, int, str],
    batch: int,
    split: str,
) -> Figure:
    drawing = figures.scatter(
        marks,
        x_label=f"median latency of a batch of {batch}, ms",
        y_label=f"top-1 on {split}, %",
        front=True,
    )
    note = (
        "Grey: PaddleClas's published accuracy at the time measured here."
        if any(mark.faint for mark in marks)
        else "The published B0-B6 are not drawn: their accuracy is that on ImageNet-1k's val at "
        "224 px, their latency that of a V100."
    )
    return Figure(
        (drawing,),
        f"Accuracy against latency {_in_words(setting)}, batch {batch}; up and left is better. "
        "Whiskers are the 95 % intervals of the accuracy; dotted, the models that no other beats "
        f"in both. {note}",
    )


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


def export_table(manifests: Sequence[Json]) -> Table:
    """A row an exported model: size, nodes, and its distance from the torch model."""
    records = [
        {
            "model": formats.words(entry.get("model") or entry.get("run")),
            "file": formats.words(entry.get("file", "model.onnx")),
            "precision": formats.words(entry.get("precision")),
            "opset": formats.words(entry.get("opset")),
            "px": formats.pixels(entry.get("image_size")),
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
        "precision, or for devices: from model.onnx), in standard deviations of the logits",
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
        library = str(found.get("engine") or "tensorrt")  # earlier kits knew that one alone
        version = versions.get(library) if isinstance(versions, Mapping) else None
        for row in found.get("rows") or ():
            check = row.get("check") or {}
            timings: Sequence[Json] = row.get("timings") or ({},)
            for timing in timings:
                gpu, copies = timing.get("gpu") or {}, timing.get("gpu_with_copies") or {}
                records.append(
                    {
                        "GPU": formats.words(found.get("device")),
                        "library": library,
                        "version": formats.words(version),
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
        left=("GPU", "library", "version", "date", "model", "graph", "failed"),
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


def latency_tables(
    results: Sequence[Json], accuracy: Mapping[tuple[str, str], tuple[int, int]]
) -> list[Table]:
    """A table per image size, machine and number of threads: rows of one can be compared."""
    return [_latency_table(rows, setting, accuracy) for setting, rows in _groups(results).items()]


_COMMON = {"engine": "", "precision": "", "batch": "batch "}


def _latency_table(
    results: Sequence[Json],
    setting: tuple[str, int, str],
    accuracy: Mapping[tuple[str, str], tuple[int, int]],
) -> Table:
    """A row a measurement, fastest first, beside what ``accuracies`` found.

    What PaddleClas published for a V100 is shown beside our rows of the same setting (224 pixels,
    batch 1), for reference.
    """
    reference = {known.variant: known.latency_v100_ms for known in published_models()}
    ordered = sorted(
        results,
        key=lambda row: (
            formats.number(row.get("batch_size")) or 0,
            formats.number(row.get("p50_ms")) or 0.0, str(row.get("model")),
        ),
    )  # fmt: skip
    records = [
        {
            # What one looks for is beside the name, on a phone too.
            "model": formats.words(row.get("model")),
            "p50 ms": formats.significant(row.get("p50_ms")),
            "engine": formats.words(row.get("engine")),
            "precision": formats.words(row.get("precision")),
            "batch": formats.count(row.get("batch_size")),
            "top-1 %": _accuracy_cell(
                accuracy.get((str(row.get("model")), str(row.get("precision"))))
            ),
            "mean ms": formats.significant(row.get("mean_ms")),
            "p90 ms": formats.significant(row.get("p90_ms")),
            "p99 ms": formats.significant(row.get("p99_ms")),
            "CPU ms": formats.significant(row.get("cpu_ms")),
            "GPU p50 ms": formats.significant(row.get("gpu_p50_ms")),
            "without copies": formats.significant(_bare(row).get("gpu_p50_ms")),
            "V100 ms*": _published(row, reference),
            **{name: _share(row.get(key)) for key, name in _SHARES.items()},
            "GMACs": formats.significant(row.get("gmacs")),
            "warm-up + timed": f"{formats.count(row.get('n_warmup'))} + "
            f"{formats.count(row.get('n_timed'))}",
        }
        for row in ordered
    ]
    starred = any(record["V100 ms*"] != formats.NOTHING for record in records)
    # What is the same in all rows is said once: a phone has little room for columns.
    same = [name for name in _COMMON if len({record[name] for record in records}) == 1]
    alike = "".join(f", {_COMMON[name]}{records[0][name]}" for name in same)
    return table_of(
        records,
        [name for name in records[0] if name not in same],
        caption=f"Latency of one batch without preprocessing, {_in_words(setting)}{alike}, "
        "fastest first"
        + (
            " (* published by PaddleClas: V100, TensorRT 8.5 FP32; not measured here)"
            if starred
            else ""
        ),
        left=("model", "engine", "precision"),
        drop_empty=(
            "top-1 %",
            "CPU ms",
            "GPU p50 ms",
            "without copies",
            "V100 ms*",
            *_SHARES.values(),
            "GMACs",
        ),
    )


def _share(value: Any) -> str:
    given = formats.number(value)
    return "over 100" if given is not None and given > 100 else formats.significant(given, 2)


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
    """How many times as fast as the first engine each is, where engines were timed in turns.

    Only those of the first one's image size, machine and threads; None where that is it alone.
    """
    ratios = comparison.get("ratios")
    if not isinstance(ratios, Mapping):
        return None
    # JSON written with sorted keys has lost the order; the rows have kept it.
    rows = {str(row["label"]): row for row in comparison["rows"]}
    first = next(iter(rows))
    alike = [label for label, row in rows.items() if _setting(row) == _setting(rows[first])]
    if len(alike) < 2:
        return None
    records = [
        {
            "timed in turns": label,
            "CPU time": formats.significant(ratios[label].get("cpu")),
            "wall time": formats.significant(ratios[label].get("wall")),
        }
        for label in alike
    ]
    return table_of(
        records,
        list(records[0]),
        caption=f"Times as fast as {first} {_in_words(_setting(rows[first]))} (median of the "
        "rounds; above 1 is faster)",
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


def _accuracy_cell(counted: tuple[int, int] | None) -> str:
    return (
        formats.NOTHING if counted is None else formats.percent(counted[0] / counted[1], counted[1])
    )
