"""The first screen of the report: how good, how sure, how fast, and what to do next."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.reporting import comparison, formats, sections, tables
from hgnetv2_pipeline.reporting.blocks import Block, KeyFigures, Steps
from hgnetv2_pipeline.reporting.chapters import accuracy, speed
from hgnetv2_pipeline.reporting.choice import read_choice, used_candidate
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs

Json = Mapping[str, Any]
Answer = tuple[str, str, str, str]

_log = logging.getLogger(__name__)


def first_screen(inputs: ReportInputs) -> tuple[Block, ...]:
    """The answers that the files of this run give, and the next commands for who reads them."""
    answers: list[Answer] = []
    for make in (_how_good, _what_was_gained, _how_fast):
        try:
            answers += make(inputs, FileLedger(inputs.root))
        except sections.MISSHAPEN as error:  # DataError among them; its chapter says what is wrong
            _log.debug("no headline figure: %r", error)
    found: list[Block] = [KeyFigures(tuple(answers))] if answers else []
    return (*found, Steps(tuple(next_steps(inputs))))


def _how_good(inputs: ReportInputs, ledger: FileLedger) -> list[Answer]:
    """Accuracy with its interval, of the exported model and no other."""
    results, _ = accuracy.read_sound(inputs, ledger)
    found = sections.preferred(results, inputs.model, "evaluation")
    choice = read_choice(inputs, ledger)
    of = f"of {choice['used']}, chosen on val" if choice else f"of {inputs.model}"
    split = found["split"]
    if accuracy.is_of_several_labels(found):
        used = int(found["n_used"])
        behind = f"{split}, {formats.count(used)} images of several labels"
        return [
            ("How good", f"{formats.percent(float(found['map']), used)} %", f"mAP {of}", behind)
        ]
    used, right, _ = tables.evaluation_counts(found)
    low, high = intervals.wilson_interval(right, used)
    span = f"{formats.percent(low, used)} to {formats.percent(high, used)} %"
    behind = f"{formats.count(right)} of {formats.count(used)} images of {split} right"
    return [
        ("How good", f"{formats.percent(right / used, used)} %", f"top-1 {of}", behind),
        ("How sure", span, "95 % interval of that figure", _what_the_interval_says(split)),
    ]


def _what_the_interval_says(split: str) -> str:
    said = "what another draw of images would change; another seed is not in it"
    if split == "val":
        return f"{said}. val also chose the weights, so the figure is a little too high"
    return said


def _what_was_gained(inputs: ReportInputs, ledger: FileLedger) -> list[Answer]:
    _, summaries = sections.read_comparison(inputs, ledger)
    splits = [summary.split for summary in summaries]
    split = "test" if "test" in splits else splits[0]
    arms = {arm.arm: arm for arm in summaries if arm.split == split}
    choice = read_choice(inputs, ledger)
    if choice is not None:
        arm = used_candidate(choice)["arm"]
    else:
        arm = "stage2" if inputs.model.startswith("ssld_stage2/") else "stage1"
    ours, plain = arms.get(arm), comparison.compared_with(list(arms.values()))
    if ours is None or plain is None or ours is plain or arm == "supervised":
        return []
    gain = comparison.difference(ours, plain)
    runs = "one run" if len(ours.top1) == 1 else f"{len(ours.top1)} seeds"
    points, sure = comparison.sized(gain, ours.n).split(", ", 1)
    what = f"{ours.label} over {plain.label}"
    clear = "" if gain.clear else "; not clear of the noise"
    return [("What it gained", points, what, f"{sure}; {runs}, {split}{clear}")]


def _how_fast(inputs: ReportInputs, ledger: FileLedger) -> list[Answer]:
    """The exported model at its smallest batch, in fp32 where that was measured."""
    files, _ = sections.read_all(inputs.latencies, "latency", ledger)
    ours = [
        row for row in speed.measurements(files) if not str(row.get("model")).startswith("timm:")
    ]
    if not ours:
        return []
    best = min(
        ours,
        key=lambda row: (
            row.get("model") != inputs.model,
            row.get("precision") != "fp32",
            formats.number(row.get("batch_size")) or 1,
            formats.number(row["p50_ms"]) or 0,
        ),
    )
    batch, size = formats.count(best.get("batch_size")), formats.pixels(best.get("image_size"))
    behind = f"{best.get('model')}, {best.get('engine')} {best.get('precision')}, {size} px, "
    behind += str(best.get("device"))
    what = f"median latency, batch {batch}"
    return [("How fast", f"{formats.significant(best['p50_ms'])} ms", what, behind)]


def next_steps(inputs: ReportInputs) -> list[tuple[str, str]]:
    """At most three commands, what is missing or open first; each with why."""
    run = inputs.run_command
    steps = [
        (f"{what} is missing:", f"{run} --pipeline {pipeline}")
        for what, pipeline, there in (
            ("The accuracy of the exported model", "evaluation", inputs.evaluations),
            ("The comparison with training on labels alone", "comparison", inputs.comparison),
            ("The export", "export", inputs.exports),
            ("The latency", "latency", inputs.latencies),
        )
        if not (there if isinstance(there, tuple) else there and there.is_file())
    ]
    for find in (_better_model, _more_seeds, _open_pairs):
        try:
            steps += find(inputs)
        except sections.MISSHAPEN as error:  # its chapter says what is wrong with it
            _log.debug("no next step: %r", error)
    if inputs.is_sample:
        images = "--labelled FOLDER --pool FOLDER"
        steps.append(("Try it on your own images:", f"hgnetv2 init NAME {images}"))
    else:
        steps.append(("Smaller and faster files:", f"{run} --pipeline export --params "
                      "export.precisions=fp32+int8"))  # fmt: skip
    return steps[:3]


def _better_model(inputs: ReportInputs) -> list[tuple[str, str]]:
    rows, _ = sections.read_comparison(inputs, FileLedger(inputs.root))
    better = comparison.better_training(rows, inputs.model, inputs.run_command)
    if better is None:
        return []
    best = max(
        (row for row in rows if row["arm"] not in comparison.UNTRAINED and row["split"] == "val"),
        key=lambda row: int(row["top1_count"]),
    )
    why = f"{best['run']} has more right on val than the exported model:"
    return [(why, f"{inputs.run_command} --pipeline export --params model={best['run']}")]


def _more_seeds(inputs: ReportInputs) -> list[tuple[str, str]]:
    _, summaries = sections.read_comparison(inputs, FileLedger(inputs.root))
    trained = [summary for summary in summaries if summary.arm not in comparison.UNTRAINED]
    if not trained or trained[0].spread is not None:
        return []
    command = f"{inputs.run_command} --pipeline comparison --params comparison.stage1_seeds=1+2"
    return [("What another seed would change is unknown; two more seeds settle it:", command)]


def _open_pairs(inputs: ReportInputs) -> list[tuple[str, str]]:
    audit = FileLedger(inputs.root).read_json(inputs.mining_audit, "mining audit")
    waiting = int((audit.get("person") or {}).get("waiting") or 0)
    if not waiting:
        return []
    pairs = "1 pair of look-alikes awaits"
    if waiting > 1:
        pairs = f"{waiting:,} pairs of look-alikes await"
    why = f"{pairs} your decision, which the next run obeys:"
    return [(why, inputs.run_command.replace("kedro run", "hgnetv2 review", 1))]
