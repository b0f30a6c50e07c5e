"""From folders of images to lists: where they are, what they hold, which set each belongs to."""

from __future__ import annotations

import shutil
from pathlib import Path

from hgnetv2_pipeline.project.ingestion.levels import LEVELS
from hgnetv2_pipeline.project.ingestion.pages import REPORT, write_report
from hgnetv2_pipeline.project.ingestion.pool import pool_contents, scan_pool
from hgnetv2_pipeline.project.ingestion.raw import link_images, write_sample_once
from hgnetv2_pipeline.project.ingestion.reviewed import label_edits, provide_review
from hgnetv2_pipeline.project.ingestion.sets import (
    ARRANGEMENT,
    check_limit,
    decides_lists,
    list_files,
    write_lists,
)
from hgnetv2_pipeline.project.ingestion.sources import (
    labelled_inputs,
    labelled_sets,
    linked_layout,
)
from hgnetv2_pipeline.project.ingestion.tones import TONES
from hgnetv2_pipeline.project.ingestion.transparency import TRANSPARENCY
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import DataParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run


def provide_raw(run: Run, data: DataParams) -> Path:
    """Make ``01_raw/<dataset>`` show all images: the sample is written, others are linked.

    One root for all sets keeps every path relative, so that lists and hashes do not change when
    the project moves. What is there already belongs to the user and is never written again.
    """
    if data.layout == "sample":
        write_sample_once(run.identity)
    else:
        link_images(run.identity, data)
    provide_review(run.identity)
    return run.folder("raw")


def make_lists(run: Run, data: DataParams, raw: Path) -> Path:
    """Scan every image once, divide the labelled ones, and write indexes and lists."""
    identity, layout = run.identity, linked_layout(data, run.identity.project, raw)
    sets = labelled_sets(data, layout)
    pool, edits = pool_contents(run.reuse, identity, data, raw), label_edits(identity)

    def make(aside: Path) -> None:
        scan_pool(run.reuse, identity, data, raw, pool)
        write_lists(aside, identity, data, raw, sets, layout)

    made = run.produce(
        ResultSpec(
            folder=run.folder("lists"),
            pipeline="ingestion",
            inputs={**labelled_inputs(identity, data, raw, layout), **pool, **edits},
            params={**decides_lists(data, layout), "seed": identity.seed, "sets": sets},
            outputs=list_files(sets),
            beside=[TRANSPARENCY, LEVELS, TONES, ARRANGEMENT],
        ),
        make,
    )
    if made.reused:
        check_limit(made.folder, identity, data, sets, layout)
    return made.folder


def report_lists(run: Run, raw: Path, lists: Path) -> tuple[Path, ...]:
    """What the dataset holds, in numbers and pictures, and what was left out."""
    report = run.produce(
        ResultSpec(
            folder=run.folder("dataset_report"),
            pipeline="ingestion",
            inputs={"lists": lists},
            outputs=REPORT,
        ),
        lambda aside: write_report(aside, run.identity, Lists(lists), raw),
    )
    quarantine = run.produce(
        ResultSpec(
            folder=run.folder("quarantine"),
            name="ingestion",
            pipeline="ingestion",
            inputs={"lists": lists},
            outputs=["ingestion.csv"],
        ),
        lambda aside: shutil.copyfile(lists / "quarantine.csv", aside / "ingestion.csv"),
    )
    return *(report.folder / name for name in REPORT), quarantine.folder / "ingestion.csv"
