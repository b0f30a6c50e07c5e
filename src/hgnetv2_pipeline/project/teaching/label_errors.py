"""Suspected errors of the labelled images: a list, a sheet of the first, and how many there are."""

from __future__ import annotations

import logging
from pathlib import Path

from hgnetv2_pipeline.devices import known_device
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import csv_frame
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import weights_input
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.probes import probe_config, probe_params

_log = logging.getLogger(__name__)
LIST, SHEET, SUMMARY = "label_errors.csv", "label_errors.png", "label_errors.json"
_SHOWN = 100
# Without weights, so that any teacher's labelled images can be looked at.
_PLAIN = ["simple"]


def label_errors_result(run: Run, teacher: TeacherParams, lists: Lists) -> ResultSpec:
    """What the result is to be. A teacher that learnt these very labels is not asked."""
    if lists.multi_label:
        raise DataError("label errors are looked for where an image has one label, not several")
    probes = teacher.probes or _PLAIN
    return ResultSpec(
        folder=run.folder("label_errors"),
        pipeline="label_errors",
        inputs={
            **{name: lists.index(name) for name in lists.guarded},
            **{f"trunk {spec}": weights_input(run.identity, spec) for spec in probes},
        },
        params=probe_params(teacher, lists) | {"probes": probes},
        outputs=[LIST, SHEET, SUMMARY],
    )


def write_label_errors(aside: Path, run: Run, teacher: TeacherParams, lists: Lists) -> None:
    """Look for wrong labels in all labelled sets; write list, sheet and summary."""
    import numpy as np
    import pandas as pd

    from hgnetv2_pipeline.data.report import contact_sheet
    from hgnetv2_pipeline.teacher.label_errors import find_label_errors
    from hgnetv2_pipeline.teacher.probing import held_out_probabilities

    frames = [lists.frame(name).assign(set=name) for name in ("train", "val", "test")
              if lists.has(name)]  # fmt: skip
    # A copy under the same label would speak for it.
    samples = pd.concat(frames).drop_duplicates(["bytes_sha256", "label"], ignore_index=True)
    probes = teacher.probes or _PLAIN
    answers = [
        held_out_probabilities(
            spec, samples, run.folder("raw"), classes=lists.classes,
            weights_root=run.identity.project, how=probe_config(teacher),
            device=known_device(run.device),
        )
        for spec in probes
    ]  # fmt: skip
    rows = np.flatnonzero(np.all([np.isfinite(one).all(axis=1) for one in answers], axis=0))
    samples, mean = samples.iloc[rows].reset_index(drop=True), np.mean(answers, axis=0)[rows]
    labels = samples["label"].to_numpy(np.int64)
    found = find_label_errors(mean, labels)
    order = found.ranked(labels)
    names = np.array(lists.classes, dtype=object)
    listed = pd.DataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "key": samples["key"].to_numpy()[order],
            "set": samples["set"].to_numpy()[order],
            "given": names[labels[order]],
            "suggested": names[found.suggested[order]],
            "score": found.score[order],
            "suspected": np.where(found.suspected[order], "yes", "no"),
        }
    )
    csv_frame(listed).to_csv(aside / LIST, index=False, float_format="%.4f")
    shown = samples.iloc[order[:_SHOWN] if len(order) else [0]]
    captions = [f"{row.given} > {row.suggested}" for row in listed.head(_SHOWN).itertuples()]
    contact_sheet(shown, run.folder("raw"), captions=captions or ["no label is doubted"]).save(
        aside / SHEET
    )
    summary = {
        "probes": probes,
        "images": len(labels),
        "held_out_right": int((mean.argmax(axis=1) == labels).sum()),
        "listed": len(order),
        "suspected": int(found.suspected.sum()),
        "estimate": round(found.estimate, 1),
        "interval": [round(bound, 1) for bound in found.interval],
        "by_set": {str(name): int(n) for name, n in listed["set"].value_counts().items()},
    }
    write_json(aside / SUMMARY, summary)
    _log.info(
        "of %d labelled images about %.0f are labelled wrongly (95 %%: %.0f to %.0f); look at the "
        "first %.0f of %s, or open hgnetv2 review", len(labels), found.estimate, *found.interval,
        found.estimate, LIST,
    )  # fmt: skip
