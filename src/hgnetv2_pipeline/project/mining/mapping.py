"""The map of the pool as a result: points in a table, what they are in a JSON file beside it."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.ownership import scratch
from hgnetv2_pipeline.printable import csv_frame
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.mining.auditing import mined_inputs
from hgnetv2_pipeline.project.mining.labelling import pool_rows_of
from hgnetv2_pipeline.project.mining.scoring import reference_file, score_images, scoring_inputs
from hgnetv2_pipeline.project.mining.selecting import candidates, decided_pairs
from hgnetv2_pipeline.project.params import MiningParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import TeacherRecord

POINTS, FACTS = "map.csv", "map.json"
SETS = ("train", "val")


def pool_map_result(
    run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord, scores: Path, mined: Path
) -> ResultSpec:
    """What the result is to be."""
    return ResultSpec(
        folder=run.folder("pool_map"),
        pipeline="mining",
        inputs={
            **mined_inputs(run, mining, scores, mined),
            **{name: lists.index(name) for name in SETS},
            **scoring_inputs(teacher, reference_file(run, mining)),
        },
        params={
            **mining.model_dump(include={"map_images", "batch_size"}),
            "strict": mining.deduplicate.strict,
            "seed": run.identity.seed,
        },
        outputs=[POINTS, FACTS],
    )


def write_pool_map(
    aside: Path, run: Run, mining: MiningParams, teacher: TeacherRecord, scores: Path, mined: Path
) -> None:
    """Choose the images, ask the teacher what it sees in them, write where that is."""
    import pandas as pd

    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.mining import pool_map

    known = Lists(run.folder("lists"))
    labelled = {name: known.frame(name) for name in SETS}
    chosen, sizes = pool_map.choose_images(
        candidates(run, mining, scores, decided_pairs(run, mined)),
        mined / "mined.parquet",
        labelled,
        most=mining.map_images,
        seed=run.identity.seed,
    )
    points, shares = chosen.iloc[:0].assign(x=0.0, y=0.0), [0.0, 0.0]
    if len(chosen):
        found = [frame[frame["key"].isin(chosen["key"])] for frame in labelled.values()]
        rows = pd.concat([*found, pool_rows_of(known.index("pool"), chosen["key"])])
        with scratch("mining") as folder:
            index = write_index(folder / "shown.parquet", rows)
            score_images(
                run, mining, teacher, index, folder / "scores",
                features=True, reference=reference_file(run, mining),
            )  # fmt: skip
            points, shares = pool_map.place_images(chosen, folder / "scores")
    csv_frame(points).to_csv(aside / POINTS, index=False)
    write_json(aside / FACTS, {"images": mining.map_images, "all": sizes, "variance": shares})
