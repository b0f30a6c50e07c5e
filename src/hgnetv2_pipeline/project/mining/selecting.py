"""What the mined list is made from: pairs, a person's decisions, lists of what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.ingestion.reviewed import review_file
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import MiningParams
from hgnetv2_pipeline.project.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.mining.candidates import Candidates

# What changes how long mining takes, or what is reported of it, and not one line of the list made
# from the same scores (rank_by changes the scores).
NOT_OF_THE_LIST = {
    "workers", "processes", "batch_size", "shard_rows", "features", "max_bad", "purity", "rank_by",
    "map_images",
}  # fmt: skip


def write_pairs(aside: Path, run: Run, mining: MiningParams, lists: Lists, scores: Path) -> None:
    """Write ``dedup.parquet``: pairs of pool images with guarded ones, each with a decision."""
    from hgnetv2_pipeline.mining.duplicates import find

    raw, params = run.folder("raw"), mining.deduplicate
    by_features = lists.guarded if "features" in params.channels else []
    pairs = find.deduplicate(
        scores,
        {name: (lists.frame(name), raw) for name in lists.guarded},
        pool=(lists.index("pool"), raw),
        features={name: run.folder("guarded") / name / "scores" for name in by_features},
        search=find.DuplicateSearch(**params.model_dump(exclude={"strict"})),
        workers=max(mining.workers, 1),
    )
    pairs.to_parquet(aside / "dedup.parquet", index=False)


def write_mined(
    aside: Path, run: Run, mining: MiningParams, lists: Lists, scores: Path, pairs: Path
) -> None:
    """Write the mined list, and stage 1's training set: it and the labelled images together."""
    from hgnetv2_pipeline.mining import mined_list, selection

    chosen_from = candidates(run, mining, scores, decided_pairs(run, pairs))
    target = mining.target_total
    if mining.k is None and target is None and mining.rank_by == "typicality":
        target = chosen_from.pool.rows  # all that min_conf lets through
    mined = selection.select(
        chosen_from,
        k=mining.k,
        target_total=target,
        top_p=mining.top_p,
        diversity=mining.diversity,
    )
    mined.write(aside / "mined.parquet")
    mined_list.write_merged(
        mined,
        pool=lists.index("pool"),
        labelled=lists.index("train"),
        index=aside / "train_mined.parquet",
        listed=aside / "train_list_mined.txt",
        label_mode=mining.label_mode,
    )


def candidates(run: Run, mining: MiningParams, scores: Path, pairs: pd.DataFrame) -> Candidates:
    """What may be mined of the scored pool, given the decided pairs."""
    from hgnetv2_pipeline.mining.candidates import Candidates
    from hgnetv2_pipeline.mining.exclusion import read_exclusions
    from hgnetv2_pipeline.mining.review import read_kept

    return Candidates(
        scores,
        pairs,
        exclude=read_exclusions([*exclusions(run, mining).values()], scores),
        exclude_review=mining.deduplicate.strict,
        min_conf=mining.min_conf,
        kept=read_kept(review_file(run.identity), Lists(run.folder("lists")).classes),
    )


def exclusions(run: Run, mining: MiningParams) -> dict[str, Path]:
    """The lists of images that are not to be mined, by what they were given as."""
    project = run.identity.project
    lists = {given: project / Path(given).expanduser() for given in mining.exclude}
    for given, path in lists.items():
        if not path.is_file():
            raise DataError(
                f"mining.exclude: the list {given} does not exist "
                f"(conf/{run.identity.environment}/parameters.yml or --params mining.exclude=LIST)"
            )
    return {f"exclude {given}": path for given, path in lists.items()}


def decided_pairs(run: Run, mined: Path) -> Any:
    """The pairs in the folder ``mined``, with a person's decisions in place of the machine's."""
    import pandas as pd

    from hgnetv2_pipeline.mining.review import apply_review, read_review

    pairs, review = pd.read_parquet(mined / "dedup.parquet"), review_file(run.identity)
    return apply_review(pairs, read_review(review)) if review.is_file() else pairs


def person_edits(run: Run) -> str:
    """What a person decided of the pool; rows left in doubt do not count as an edit."""
    review = review_file(run.identity)
    if not review.is_file():
        return ""
    from hgnetv2_pipeline.data.decisions import decisions_on, read_decisions
    from hgnetv2_pipeline.mining.review import read_review

    rows = read_review(review)
    decided = rows[rows["decision"] != "review"]
    kept = decisions_on(read_decisions(review), ["mined"])
    kept = kept[kept["decision"] == "keep"][["key", "shown"]]
    return "".join(
        part.sort_values("key").to_csv(index=False) for part in (decided, kept) if len(part)
    )
