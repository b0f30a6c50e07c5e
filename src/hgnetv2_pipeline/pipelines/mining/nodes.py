"""From the pool to the students' training list, and how pure it is."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.mining import auditing
from hgnetv2_pipeline.project.mining.auditing import mined_inputs, write_audit, write_purity
from hgnetv2_pipeline.project.mining.mapping import pool_map_result, write_pool_map
from hgnetv2_pipeline.project.mining.scoring import (
    list_unreadable,
    reference_file,
    score_guarded_sets,
    score_sources,
    scoring_inputs,
    write_hidden_scores,
)
from hgnetv2_pipeline.project.mining.selecting import (
    NOT_OF_THE_LIST,
    exclusions,
    person_edits,
    write_mined,
    write_pairs,
)
from hgnetv2_pipeline.project.params import MiningParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import read_teacher


def score_pool(run: Run, mining: MiningParams, lists: Path, teacher: Path) -> Path:
    """The teacher's answer to every image of the pool, in shards by source.

    A source that was added is scored, the others are left as they are; an interrupted pass goes on.
    """
    known, found = Lists(lists), read_teacher(teacher, run.identity)
    score_sources(run, mining, known, found)
    if "features" in mining.deduplicate.channels:
        score_guarded_sets(run, mining, known, found)
    list_unreadable(run, mining, known)
    return run.folder("scores")


def deduplicate(run: Run, mining: MiningParams, lists: Path, scores: Path) -> Path:
    """Pairs of pool images with validation, test and training images, each with a decision."""
    known = Lists(lists)
    made = run.produce(
        ResultSpec(
            folder=run.folder("mining"),
            name="dedup",
            pipeline="mining",
            inputs={"scores": scores, **{name: known.index(name) for name in known.guarded}},
            params=mining.deduplicate.model_dump(mode="json", exclude={"strict"}),
            outputs=["dedup.parquet"],
        ),
        lambda aside: write_pairs(aside, run, mining, known, scores),
    )
    return made.folder


def select(run: Run, mining: MiningParams, lists: Path, scores: Path, pairs: Path) -> Path:
    """The mined list, and the training set of stage 1: it and the labelled images together.

    What a person decided in ``review.csv`` is obeyed.
    """
    known = Lists(lists)
    inputs = {"scores": scores, "dedup": pairs / "dedup.parquet", **exclusions(run, mining)}
    inputs |= {"train": known.index("train"), "pool": known.index("pool")}
    made = run.produce(
        ResultSpec(
            folder=run.folder("mining"),
            name="mined",
            pipeline="mining",
            inputs={**inputs, "review": person_edits(run)},
            params=mining.model_dump(mode="json", exclude=NOT_OF_THE_LIST | {"exclude"}),
            outputs=["mined.parquet", "train_mined.parquet", "train_list_mined.txt"],
        ),
        lambda aside: write_mined(aside, run, mining, known, scores, pairs),
    )
    return made.folder


def score_hidden_images(
    run: Run, mining: MiningParams, lists: Path, teacher: Path, scores: Path
) -> Path:
    """The teacher's answer to labelled images, scored as the pool was (``scores``)."""
    known, found = Lists(lists), read_teacher(teacher, run.identity)
    made = run.produce(
        ResultSpec(
            folder=run.folder("probes"),
            pipeline="mining",
            inputs={
                "probes": known.index(mining.purity.probes),
                **scoring_inputs(found, reference_file(run, mining)),
            },
            params={
                **mining.purity.model_dump(mode="json"),
                **mining.model_dump(include={"batch_size", "shard_rows"}),
                "seed": run.identity.seed,
            },
            outputs=["probes"],
            resumable=True,
        ),
        lambda folder: write_hidden_scores(run, mining, known, found, folder),
    )
    return made.folder


def estimate_purity(
    run: Run, mining: MiningParams, lists: Path, scores: Path, mined: Path, hidden: Path
) -> Path:
    """How pure lists of other lengths would be: by hidden images, and by the truth if known."""
    labels = Lists(lists).index(mining.purity.probes)
    inputs = mined_inputs(run, mining, scores, mined)
    made = run.produce(
        ResultSpec(
            folder=run.folder("purity"),
            pipeline="mining",
            inputs={**inputs, "probes": hidden, "labels": labels},
            params={"strict": mining.deduplicate.strict, "min_conf": mining.min_conf},
            outputs=["purity.csv", "probes.parquet"],
        ),
        lambda aside: write_purity(aside, run, mining, labels, scores, mined, hidden),
    )
    return made.folder


def map_pool(
    run: Run, mining: MiningParams, lists: Path, teacher: Path, scores: Path, mined: Path
) -> Path:
    """Where mined, passed-over, removed and labelled images are in what the teacher sees."""
    found = read_teacher(teacher, run.identity)
    made = run.produce(
        pool_map_result(run, mining, Lists(lists), found, scores, mined),
        lambda aside: write_pool_map(aside, run, mining, found, scores, mined),
    )
    return made.folder


def audit(
    run: Run, mining: MiningParams, lists: Path, scores: Path, mined: Path, purity: Path,
    pool_map: Path,
) -> tuple[Path, ...]:  # fmt: skip
    """Counts that add up, pictures of what was taken and turned away, and a page with all of it."""
    known = Lists(lists)
    made = run.produce(
        ResultSpec(
            folder=run.folder("mining_report"),
            pipeline="mining",
            inputs={
                **mined_inputs(run, mining, scores, mined),
                **{name: known.index(name) for name in (*known.guarded, "pool")},
                "purity": purity,
                "map": pool_map,
                "classes": known.folder / "class_map.txt",
            },
            params=mining.model_dump(
                mode="json", exclude=NOT_OF_THE_LIST - {"purity"} | {"exclude"}
            ),
            outputs=auditing.OUTPUTS,
        ),
        lambda aside: write_audit(aside, run, mining, scores, mined, purity),
    )
    return made.folder, *(made.folder / name for name in ("audit.json", *auditing.SHEETS))
