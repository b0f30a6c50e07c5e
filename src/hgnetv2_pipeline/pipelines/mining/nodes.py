"""From the pool to the students' training list: score, deduplicate, select."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists, PoolSource
from hgnetv2_pipeline.project.params import MiningParams
from hgnetv2_pipeline.project.results import Reuse, Work
from hgnetv2_pipeline.project.teacher import Teacher, read_teacher
from hgnetv2_pipeline.project.tracking import tracker

# What changes how long mining takes, or what is told of it, and not one line of the list.
NOT_OF_THE_LIST = {
    "workers", "processes", "batch_size", "shard_rows", "features", "max_bad", "purity",
}  # fmt: skip


def score_pool(
    identity: Identity,
    mining: MiningParams,
    device: str,
    redo: list[str],
    lists: Path,
    teacher: Path,
) -> Path:
    """The teacher's answer to every image of the pool, in shards a source of its own.

    A source that was added is scored, the others are left as they are; an interrupted pass goes on.
    """
    from hgnetv2_pipeline.data import quarantine
    from hgnetv2_pipeline.mining.score_shards import quarantined, write_sources

    folder, known = identity.folder("scores"), Lists(lists)
    reuse, found = Reuse(identity.project, redo), read_teacher(teacher, identity)
    sources = known.pool_sources()
    for source in sources:
        _score_source(reuse, identity, mining, device, known, found, source)
    if "features" in mining.deduplicate.channels:
        for name in guarded_sets(known):
            _score_guarded(reuse, identity, mining, device, known.index(name), found, name)
    write_sources(folder, [source.name for source in sources])
    bad = quarantined(folder)
    ledger = quarantine.Ledger(sum(source.images for source in sources), mining.max_bad)
    for key, reason in bad[["key", "reason"]].itertuples(index=False):
        ledger.quarantine(key, reason)
    reuse.produce(
        identity.folder("quarantine"),
        name="mining",
        pipeline="mining",
        inputs={"scores": folder},
        params={},
        outputs=["mining.csv"],
        make=lambda aside: ledger.write(aside / "mining.csv"),
    )
    ledger.check(f"mining.max_bad (conf/{identity.environment}/parameters.yml)")
    return folder


def _score_source(
    reuse: Reuse,
    identity: Identity,
    mining: MiningParams,
    device: str,
    lists: Lists,
    teacher: Teacher,
    source: PoolSource,
) -> None:
    folder = identity.folder("scores") / source.name
    shards = range(-(-source.images // mining.shard_rows))
    work = reuse.begin(
        folder,
        pipeline="mining",
        inputs={"pool": source.sha256, "teacher": teacher.record},
        params=mining.model_dump(include={"shard_rows", "batch_size", "features"}),
        outputs=[
            "plan.json",
            *(f"shard={number:05d}.{kind}" for number in shards for kind in ("json", "parquet")),
        ],
        resumable=True,
    )
    if isinstance(work, Work):
        tracker.begin(folder)
        score_images(
            identity,
            mining,
            device,
            teacher,
            lists.index("pool"),
            folder,
            prefix=source.prefix,
            features=mining.features,
        )
        work.finish()


def _score_guarded(
    reuse: Reuse,
    identity: Identity,
    mining: MiningParams,
    device: str,
    index: Path,
    teacher: Teacher,
    name: str,
) -> None:
    """The features of a protected set, which those of the pool are compared with."""
    folder = identity.folder("guarded") / name
    work = reuse.begin(
        folder,
        pipeline="mining",
        inputs={name: index, "teacher": teacher.record},
        params=mining.model_dump(include={"shard_rows", "batch_size"}),
        outputs=["scores"],
        resumable=True,
    )
    if isinstance(work, Work):
        score_images(identity, mining, device, teacher, index, folder / "scores", features=True)
        work.finish()


def exclusions(identity: Identity, mining: MiningParams) -> dict[str, Path]:
    """The lists of images that are not to be mined, by what they were given as."""
    lists = {given: identity.project / Path(given).expanduser() for given in mining.exclude}
    for given, path in lists.items():
        if not path.is_file():
            raise DataError(
                f"mining.exclude: the list {given} does not exist "
                f"(conf/{identity.environment}/parameters.yml or --params mining.exclude=LIST)"
            )
    return {f"exclude {given}": path for given, path in lists.items()}


def score_images(
    identity: Identity,
    mining: MiningParams,
    device: str,
    teacher: Teacher,
    index: Path,
    out: Path,
    *,
    prefix: str = "",
    features: bool = False,
) -> None:
    """The teacher's answer to the images of an index, or of one source, as shards in ``out``."""
    from hgnetv2_pipeline.data import preprocess
    from hgnetv2_pipeline.mining import score_processes
    from hgnetv2_pipeline.mining.score_spec import ScoreSpec
    from hgnetv2_pipeline.project.models import resolve_device

    members = teacher.config.members
    # Our weights carry their preprocessing; timm's models get the published one.
    foreign = all(member.startswith("timm:") for member in members)
    spec = ScoreSpec(
        index=index,
        root=identity.folder("raw"),
        prefix=prefix,
        teachers=members,
        num_classes=len(Lists(identity.folder("lists")).classes),
        out=out,
        weights_root=identity.project,
        preprocess=preprocess.Preprocess().to_dict() if foreign else None,
        shard_rows=mining.shard_rows,
        batch_size=mining.batch_size,
        workers=mining.workers,
        features=features,
        dtype="float32",
        device=resolve_device(device),
        max_bad=mining.max_bad,
    )
    score_processes.score_in_processes(spec, mining.processes, out.parent / "processes" / out.name)


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
    by_features = guarded if "features" in params.channels else []
    features = {name: identity.folder("guarded") / name / "scores" for name in by_features}

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.mining.duplicates import find

        raw = identity.folder("raw")
        pairs = find.deduplicate(
            scores,
            {name: (known.frame(name), raw) for name in guarded},
            pool=(known.index("pool"), raw),
            search=find.DuplicateSearch(**params.model_dump(exclude={"strict"})),
            features=features,
            workers=max(mining.workers, 1),
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
    excluded = exclusions(identity, mining)

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.mining import mined_list, selection

        mined = selection.select(
            candidates(identity, mining, scores, decided_pairs(dedup, review)),
            k=mining.k,
            target_total=mining.target_total,
            top_p=mining.top_p,
            diversity=mining.diversity,
        )
        mined.write(aside / "mined.parquet")
        mined_list.write_merged(
            mined,
            pool=known.index("pool"),
            labelled=known.index("train"),
            index=aside / "train_mined.parquet",
            listed=aside / "train_list_mined.txt",
            label_mode=mining.label_mode,
        )

    inputs: dict[str, Path | str] = {
        "scores": scores,
        "dedup": dedup,
        "train": known.index("train"),
        "pool": known.index("pool"),
        "review": person_edits(review),
        **excluded,
    }
    result = Reuse(identity.project, redo).produce(
        folder,
        name="mined",
        pipeline="mining",
        inputs=inputs,
        params=mining.model_dump(mode="json", exclude=NOT_OF_THE_LIST | {"exclude"}),
        outputs=["mined.parquet", "train_mined.parquet", "train_list_mined.txt"],
        make=make,
    )
    if not result.reused or not review.is_file():
        import pandas as pd

        from hgnetv2_pipeline.mining.review import write_review

        write_review(review, pd.read_parquet(dedup))
    return folder, folder / "mined.parquet"


def candidates(identity: Identity, mining: MiningParams, scores: Path, pairs: Any) -> Any:
    """What may be mined of the scored pool, given the decided pairs."""
    from hgnetv2_pipeline.mining.candidates import Candidates
    from hgnetv2_pipeline.mining.exclusion import read_exclusions

    return Candidates(
        scores,
        pairs,
        exclude=read_exclusions(list(exclusions(identity, mining).values()), scores),
        exclude_review=mining.deduplicate.strict,
        min_conf=mining.min_conf,
    )


def decided_pairs(dedup: Path, review: Path) -> Any:
    """The pairs with a person's decisions in place of the machine's."""
    import pandas as pd

    from hgnetv2_pipeline.mining.review import apply_review, read_review

    pairs = pd.read_parquet(dedup)
    return apply_review(pairs, read_review(review)) if review.is_file() else pairs


def person_edits(review: Path) -> str:
    """What a person decided in ``review.csv``; rows left in doubt do not count as an edit."""
    if not review.is_file():
        return ""
    from hgnetv2_pipeline.mining.review import read_review

    rows = read_review(review)
    decided = rows[rows["decision"] != "review"]
    return decided.sort_values("key").to_csv(index=False) if len(decided) else ""
