"""From the pool to the students' training list: score, deduplicate, select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.pipelines.identity import Identity
from hgnetv2_pipeline.pipelines.lists import Lists
from hgnetv2_pipeline.pipelines.params import MiningParams
from hgnetv2_pipeline.pipelines.reuse import Reuse, Work
from hgnetv2_pipeline.pipelines.teacher import Teacher, read_teacher

if TYPE_CHECKING:
    import pandas as pd

# What changes how long mining takes, or what is told of it, and not one line of the list.
NOT_OF_THE_LIST = {"workers", "batch_size", "shard_rows", "purity"}


def score_pool(
    identity: Identity,
    mining: MiningParams,
    device: str,
    redo: list[str],
    lists: Path,
    teacher: Path,
) -> Path:
    """The teacher's answer to every image of the pool, in shards; an interrupted pass goes on."""
    folder = identity.folder("scores")
    found = read_teacher(teacher, identity)
    index = Lists(lists).index("pool")
    work = Reuse(identity.project, redo).begin(
        folder,
        pipeline="mining",
        inputs={"pool": index, "teacher": found.record},
        params={"shard_rows": mining.shard_rows, "batch_size": mining.batch_size},
        outputs=["pool"],
        resumable=True,
    )
    if isinstance(work, Work):
        score_images(identity, mining, device, found, index, folder / "pool")
        work.finish()
    return folder


def score_images(
    identity: Identity,
    mining: MiningParams,
    device: str,
    teacher: Teacher,
    samples: pd.DataFrame | Path,
    out: Path,
) -> None:
    """The teacher's answer to ``samples``, as shards in ``out``."""
    from hgnetv2_pipeline import data
    from hgnetv2_pipeline import mining as room
    from hgnetv2_pipeline.pipelines.measure import resolve_device

    members = teacher.config.members
    # Our weights carry their preprocessing; timm's models get the published one.
    foreign = all(member.startswith("timm:") for member in members)
    room.score_pool(
        samples,
        identity.folder("raw"),
        teachers=members,
        preprocess=data.Preprocess() if foreign else None,
        num_classes=len(Lists(identity.folder("lists")).classes),
        out=out,
        weights_root=identity.project,
        shard_rows=mining.shard_rows,
        batch_size=mining.batch_size,
        workers=mining.workers,
        device=resolve_device(device),
        max_bad=mining.max_bad,
    )


def guarded_sets(known: Lists) -> list[str]:
    """The sets that no mined image may come from."""
    return [name for name in ("val", "test", "train") if known.has(name)]


def deduplicate(
    identity: Identity,
    mining: MiningParams,
    redo: list[str],
    lists: Path,
    scores: Path,
) -> tuple[Path, Path]:
    """Pairs of pool images with validation, test and training images, each with a decision."""
    params = mining.deduplicate
    known = Lists(lists)
    guarded = guarded_sets(known)

    def make(aside: Path) -> None:
        from hgnetv2_pipeline import mining as room

        raw = identity.folder("raw")
        pairs = room.deduplicate(
            scores / "pool",
            {name: (known.frame(name), raw) for name in guarded},
            pool=(known.index("pool"), raw),
            auto_max=params.auto_max,
            verify_max=params.verify_max,
        )
        pairs.to_parquet(aside / "dedup.parquet", index=False)

    folder = identity.folder("mining")
    Reuse(identity.project, redo).produce(
        folder,
        name="dedup",
        pipeline="mining",
        inputs={"scores": scores, **{name: known.index(name) for name in guarded}},
        params=params.model_dump(mode="json", exclude={"strict"}),
        outputs=["dedup.parquet"],
        make=make,
    )
    return folder / "dedup.parquet", folder / "dedup.parquet"


def select(
    identity: Identity,
    mining: MiningParams,
    redo: list[str],
    lists: Path,
    scores: Path,
    dedup: Path,
) -> tuple[Path, Path]:
    """The mined list, and the training set of stage 1: it and the labelled images together.

    ``review.csv`` lists the pairs in doubt; decisions that a person writes into it are obeyed by
    the next run, which sees that the file changed.
    """
    known = Lists(lists)
    folder = identity.folder("mining")
    review = folder / "review.csv"

    def make(aside: Path) -> None:
        import pandas as pd

        from hgnetv2_pipeline import data
        from hgnetv2_pipeline import mining as room

        pairs = decided_pairs(dedup, review)
        mined = room.select(
            scores / "pool",
            pairs,
            k=mining.k,
            target_total=mining.target_total,
            min_conf=mining.min_conf,
            top_p=mining.top_p,
            diversity=mining.diversity,
            exclude_review=mining.deduplicate.strict,
        )
        mined.to_parquet(aside / "mined.parquet", index=False)
        pool = known.frame("pool").drop(columns="label").merge(mined[["key", "label"]], on="key")
        if mining.label_mode == "zero":
            pool["label"] = 0
        merged = pd.concat([known.frame("train"), pool], ignore_index=True)
        merged = merged.sort_values("key", kind="stable", ignore_index=True)
        data.write_index(aside / "train_mined.parquet", merged)
        listed = merged.assign(path=merged["key"], label=merged["label"].fillna(0))
        data.write_list(aside / "train_list_mined.txt", listed[["path", "label"]])

    inputs: dict[str, Path | str] = {
        "scores": scores,
        "dedup": dedup,
        "train": known.index("train"),
        "pool": known.index("pool"),
        "review": person_edits(review),
    }
    result = Reuse(identity.project, redo).produce(
        folder,
        name="mined",
        pipeline="mining",
        inputs=inputs,
        params=mining.model_dump(mode="json", exclude=NOT_OF_THE_LIST),
        outputs=["mined.parquet", "train_mined.parquet", "train_list_mined.txt"],
        make=make,
    )
    if not result.reused or not review.is_file():
        import pandas as pd

        from hgnetv2_pipeline import mining as room

        room.write_review(review, pd.read_parquet(dedup))
    return folder, folder / "mined.parquet"


def decided_pairs(dedup: Path, review: Path) -> Any:
    """The pairs with a person's decisions in place of the machine's."""
    import pandas as pd

    from hgnetv2_pipeline import mining as room

    pairs = pd.read_parquet(dedup)
    return room.apply_review(pairs, room.read_review(review)) if review.is_file() else pairs


def person_edits(review: Path) -> str:
    """What a person decided in ``review.csv``; rows left in doubt do not count as an edit."""
    if not review.is_file():
        return ""
    from hgnetv2_pipeline import mining as room

    rows = room.read_review(review)
    decided = rows[rows["decision"] != "review"]
    return decided.sort_values("key").to_csv(index=False) if len(decided) else ""
