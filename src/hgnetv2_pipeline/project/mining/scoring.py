"""The teacher's answers to the pool, to the guarded sets and to the hidden images, as results."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.project.lists import Lists, ScannedSource
from hgnetv2_pipeline.project.params import MiningParams
from hgnetv2_pipeline.project.results import Result, ResultSpec, Reuse
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import TeacherRecord
from hgnetv2_pipeline.project.tracking import tracker
from hgnetv2_pipeline.shards import shard_slices

if TYPE_CHECKING:
    from hgnetv2_pipeline.mining.score_spec import ScoreSpec

_log = logging.getLogger(__name__)
REFERENCE = "reference.safetensors"


def score_sources(run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord) -> None:
    """Score the sources that are new or have changed; the others are left as they are."""
    from hgnetv2_pipeline.mining.score_shards import record_sources

    sources, reference = lists.pool_sources(), make_reference(run, mining, lists, teacher)
    for source in sources:
        _score_source(run, mining, lists, teacher, source, reference)
    record_sources(run.folder("scores"), [source.name for source in sources])


def reference_file(run: Run, mining: MiningParams) -> Path | None:
    """The labelled images that typicality is measured by; None where confidence ranks."""
    return run.folder("reference") / REFERENCE if mining.rank_by == "typicality" else None


def scoring_inputs(teacher: TeacherRecord, reference: Path | None) -> dict[str, Path]:
    """What scores follow from besides the images, by role."""
    return {"teacher": teacher.record, **({} if reference is None else {"reference": reference})}


def make_reference(
    run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord
) -> Path | None:
    """Make ``reference_file`` where it is needed and not there."""
    file = reference_file(run, mining)
    if file is None:
        return None

    def make(folder: Path) -> None:
        from hgnetv2_pipeline.data.index import write_index
        from hgnetv2_pipeline.mining.reference import choose_reference, write_reference

        chosen = choose_reference(lists.frame("train"), run.identity.seed)
        index = write_index(folder / "index_reference.parquet", chosen)
        score_images(run, mining, teacher, index, folder / "scores", features=True)
        write_reference(folder / REFERENCE, folder / "scores", chosen)

    run.produce(_reference_spec(run, mining, lists, teacher), make)
    return file


def _reference_spec(
    run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord
) -> ResultSpec:
    return ResultSpec(
        folder=run.folder("reference"),
        pipeline="mining",
        inputs={"train": lists.index("train"), "teacher": teacher.record},
        params=mining.model_dump(include={"shard_rows", "batch_size"})
        | {"seed": run.identity.seed},
        outputs=[REFERENCE],
        resumable=True,
    )


def _score_source(
    run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord, source: ScannedSource,
    reference: Path | None,
) -> None:  # fmt: skip
    spec = _source_spec(run, mining, teacher, source, reference)

    def make(folder: Path) -> None:
        tracker.begin(folder)
        score_images(
            run, mining, teacher, lists.index("pool"), folder, prefix=source.prefix,
            features=mining.features, reference=reference,
        )  # fmt: skip
        _say_what_was_scored(source.name, folder)

    run.produce(spec, make)


def _say_what_was_scored(name: str, folder: Path) -> None:
    from hgnetv2_pipeline.mining.score_shards import read_manifests

    shards = read_manifests(folder).values()
    listed = sum(shard["listed"] for shard in shards)
    known = sum(shard.get("taken_over", 0) for shard in shards)
    _log.info("pool/%s: %d of %d images scored, %d reused", name, listed - known, listed, known)


def _source_spec(
    run: Run, mining: MiningParams, teacher: TeacherRecord, source: ScannedSource,
    reference: Path | None,
) -> ResultSpec:  # fmt: skip
    from hgnetv2_pipeline.mining.score_shards import score_store

    store, shards = score_store(Path()), shard_slices(source.images, mining.shard_rows)
    return ResultSpec(
        folder=run.folder("scores") / source.name,
        pipeline="mining",
        inputs={"pool": source.sha256, **scoring_inputs(teacher, reference)},
        params=mining.model_dump(include={"shard_rows", "batch_size", "features"}),
        outputs=[
            "plan.json",
            *(str(path) for n in shards for path in (store.manifest_path(n), store.path(n))),
        ],
        resumable=True,
    )


def images_to_score(
    run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord, reuse: Reuse
) -> int:
    """How many images of the pool are left to score, by results that ``reuse`` finds (dry)."""
    from hgnetv2_pipeline.mining.score import count_known

    reference, sources = reference_file(run, mining), lists.pool_sources()
    if reference and not isinstance(
        reuse.begin(_reference_spec(run, mining, lists, teacher)), Result
    ):
        return sum(source.images for source in sources)
    left = 0
    for source in sources:
        spec = _source_spec(run, mining, teacher, source, reference)
        if not isinstance(reuse.begin(spec), Result):
            asked = _score_spec(
                run, mining, teacher, lists.index("pool"), spec.folder, prefix=source.prefix,
                features=mining.features, reference=reference,
            )  # fmt: skip
            left += source.images - count_known(asked)
    return left


def score_guarded_sets(
    run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord
) -> None:
    """The features of the guarded sets, which those of the pool are compared with."""
    for name in lists.guarded:
        index = lists.index(name)

        def make(folder: Path, index: Path = index) -> None:
            score_images(run, mining, teacher, index, folder / "scores", features=True)

        run.produce(
            ResultSpec(
                folder=run.folder("guarded") / name,
                pipeline="mining",
                inputs={name: index, "teacher": teacher.record},
                params=mining.model_dump(include={"shard_rows", "batch_size"}),
                outputs=["scores"],
                resumable=True,
            ),
            make,
        )


def list_unreadable(run: Run, mining: MiningParams, lists: Lists) -> None:
    """Write ``mining.csv``, the images of the pool that could not be scored.

    Raises:
        DataError: they are more than ``mining.max_bad`` allows.
    """
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.mining.score_shards import read_quarantined

    scores = run.folder("scores")
    ledger = Ledger(sum(source.images for source in lists.pool_sources()), mining.max_bad)
    bad = read_quarantined(scores)
    for key, reason in bad[["key", "reason"]].itertuples(index=False):
        ledger.quarantine(key, reason)
    run.produce(
        ResultSpec(
            folder=run.folder("quarantine"),
            name="mining",
            pipeline="mining",
            inputs={"scores": scores},
            outputs=["mining.csv"],
        ),
        lambda aside: ledger.write(aside / "mining.csv"),
    )
    ledger.check(f"mining.max_bad (conf/{run.identity.environment}/parameters.yml)")


def write_hidden_scores(
    run: Run, mining: MiningParams, lists: Lists, teacher: TeacherRecord, folder: Path
) -> None:
    """Score the labelled images that will show how pure the list is."""
    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.mining.purity import choose_hidden_images

    chosen = lists.frame(mining.purity.probes)
    hidden = choose_hidden_images(chosen, mining.purity.images, run.identity.seed)
    index = write_index(folder / "index_probes.parquet", hidden)
    reference = reference_file(run, mining)
    score_images(run, mining, teacher, index, folder / "probes", reference=reference)


def score_images(
    run: Run,
    mining: MiningParams,
    teacher: TeacherRecord,
    index: Path,
    out: Path,
    *,
    prefix: str = "",
    features: bool = False,
    reference: Path | None = None,
) -> None:
    """The teacher's answer to the images of an index, or of one source, as shards in ``out``."""
    from hgnetv2_pipeline.mining import score_processes

    spec = _score_spec(
        run, mining, teacher, index, out, prefix=prefix, features=features, reference=reference
    )
    score_processes.score_in_processes(spec, mining.processes, out.parent / "processes" / out.name)


def _score_spec(
    run: Run, mining: MiningParams, teacher: TeacherRecord, index: Path, out: Path, *,
    prefix: str, features: bool, reference: Path | None,
) -> ScoreSpec:  # fmt: skip
    from hgnetv2_pipeline.devices import known_device
    from hgnetv2_pipeline.mining.score_spec import ScoreSpec

    return ScoreSpec(
        index=index,
        root=run.folder("raw"),
        prefix=prefix,
        teachers=teacher.config.members,
        num_classes=len(Lists(run.folder("lists")).classes),
        out=out,
        weights_root=run.identity.project,
        preprocess=None,
        fit=teacher.fit,
        shard_rows=mining.shard_rows,
        batch_size=mining.batch_size,
        workers=mining.workers,
        features=features,
        reference=reference,
        earlier=_earlier_scores(run),
        dtype="float32",
        device=known_device(run.device),
        max_bad=mining.max_bad,
    )


def _earlier_scores(run: Run) -> tuple[Path, ...]:
    """The folders of this teacher's shards, the newest first; archives are among them.

    None where everything is to be made again.
    """
    if {"mining", "all"} & {*run.redo}:
        return ()
    found = []
    for plan in run.folder("scores").parent.rglob("plan.json"):
        with suppress(FileNotFoundError):  # archived meanwhile by another run
            found.append((plan.stat().st_mtime_ns, plan.parent))
    return tuple(folder for _, folder in sorted(found, reverse=True))
