"""The teacher: who teaches, and what each candidate scored on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Block, Table, Text, table_of
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs


def teacher_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Who teaches and how right they are, and a row for each candidate."""
    record = ledger.read_json(inputs.own.get("teacher"), "teacher")
    val = record["val"]
    n = int(val["n"])
    members = list(record["members"])
    counts = dict(zip(members, map(int, val["members_top1_count"]), strict=True))
    counts |= {name: int(right) for name, right in _turned_away(record).items()}
    together = int(val["top1_count"])
    for right in (*counts.values(), together):
        if not 0 <= right <= n:
            raise DataError(f"teacher: {right} right of {n}")
    who = "One network teaches" if len(members) == 1 else f"The mean of {len(members)} teaches"
    low, high = intervals.wilson_interval(together, n)
    majority = formats.number(val.get("majority_count"))
    share, bounds = formats.percent(together / n, n), [formats.percent(x, n) for x in (low, high)]
    said = (
        f"{who}; it is right on {share} % of {formats.count(n)} images of {val['split']} (95 % "
        f"interval {bounds[0]} to {bounds[1]})."
    )
    if majority is not None:  # records of an earlier version lack it
        share = formats.percent(majority / n, n)
        said += f" Naming the largest class every time is right on {share} %."
    learnt = record.get("self_training")
    return [
        Text(said),
        *([Text(_self_training(learnt))] if learnt else []),
        _candidates(record, counts, n),
    ]


def _self_training(found: Mapping[str, Any]) -> str:
    """How the probes learnt from the pool, and what became of it."""
    said = (
        f"Self-training: {' and '.join(map(formats.words, found['probes']))} learnt from "
        f"{formats.count(int(found['learnt_from']))} of {formats.count(int(found['pool_images']))} "
        "images of the pool, with the classes that they themselves gave them. "
    )
    if int(found["held_out"]):
        said += (
            f"In a rehearsal on {formats.count(int(found['held_out']))} labelled images that were "
            f"held out, {formats.count(int(found['held_out_right_before']))} were right before and "
            f"{formats.count(int(found['held_out_right_after']))} after."
        )
    else:
        said += "There were too few labelled images for a rehearsal: whether it helps is unknown."
    return said if found["teaches"] else said + " It does not teach."


def _turned_away(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("candidates_top1_count") or {}
    return {name: right for name, right in found.items() if name not in record["members"]}


def _candidates(record: Mapping[str, Any], counts: Mapping[str, int], n: int) -> Table:
    """Members first, then those that were turned away."""
    reasons, members = record.get("candidates", {}), record["members"]
    rows = [
        {
            "candidate": formats.words(name),
            "teaches": formats.words(name in members),
            "top-1 %": formats.percent(right / n, n),
            "why": formats.words(reasons.get(name)),
        }
        for name, right in counts.items()
    ]
    return table_of(
        rows,
        list(rows[0]),
        caption=f"Candidates, each alone on {record['val']['split']} ({formats.count(n)} images)",
        left=("candidate", "teaches", "why"),
        drop_empty=("why",),
    )
