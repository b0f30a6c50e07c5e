"""What was mined, to be believed or not: purity, counts that add up, a page to look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.pipelines.mining.nodes import (
    NOT_OF_THE_LIST,
    candidates,
    decided_pairs,
    exclusions,
    guarded_sets,
    person_edits,
    score_images,
)
from hgnetv2_pipeline.printable import csv_frame
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import MiningParams
from hgnetv2_pipeline.project.results import Reuse, Work
from hgnetv2_pipeline.project.teacher import read_teacher

OUTPUTS = ("audit.json", "classes.csv", "pairs.csv", "sheets", "mining_report.html")


def score_probes(
    identity: Identity,
    mining: MiningParams,
    device: str,
    redo: list[str],
    lists: Path,
    teacher: Path,
) -> Path:
    """The teacher's answer to labelled images, which tell how pure the list is; none is mined."""
    folder = identity.folder("probes")
    found = read_teacher(teacher, identity)
    known, params = Lists(lists), mining.purity
    work = Reuse(identity.project, redo).begin(
        folder,
        pipeline="mining",
        inputs={"probes": known.index(params.probes), "teacher": found.record},
        params={
            **params.model_dump(mode="json"),
            "seed": identity.seed,
            "batch_size": mining.batch_size,
            "shard_rows": mining.shard_rows,
        },
        outputs=["probes"],
        resumable=True,
    )
    if isinstance(work, Work):
        from hgnetv2_pipeline.data.index import write_index
        from hgnetv2_pipeline.mining.purity import choose_probes

        probes = choose_probes(known.frame(params.probes), params.images, identity.seed)
        index = write_index(folder / "index_probes.parquet", probes)
        score_images(identity, mining, device, found, index, folder / "probes")
        work.finish()
    return folder


def estimate_purity(
    identity: Identity,
    mining: MiningParams,
    redo: list[str],
    lists: Path,
    scores: Path,
    mined: Path,
    probes: Path,
) -> tuple[Path, Path]:
    """How pure lists of other lengths would be: by the probes, and by the truth if there is one."""
    labels = Lists(lists).index(mining.purity.probes)
    inputs = _inputs(identity, mining, scores, mined) | {"probes": probes, "labels": labels}

    def make(aside: Path) -> None:
        import pandas as pd

        from hgnetv2_pipeline.mining.purity import purity_curve, rank_probes

        pairs = decided_pairs(mined / "dedup.parquet", mined / "review.csv")
        chosen_from = candidates(identity, mining, scores, pairs)
        known = pd.read_parquet(labels, columns=["key", "label"])
        ranked = rank_probes(chosen_from, probes / "probes", known)
        ranked.to_parquet(aside / "probes.parquet", index=False)
        curve = purity_curve(
            chosen_from,
            ranked,
            k=_depth(mined / "mined.parquet"),
            truth=_sample_truth(identity).get("truth"),
        )
        csv_frame(curve).to_csv(aside / "purity.csv", index=False)

    folder = identity.folder("purity")
    Reuse(identity.project, redo).produce(
        folder,
        pipeline="mining",
        inputs=inputs,
        params={"strict": mining.deduplicate.strict, "min_conf": mining.min_conf},
        outputs=["purity.csv", "probes.parquet"],
        make=make,
    )
    return folder, folder / "purity.csv"


def audit(
    identity: Identity,
    mining: MiningParams,
    redo: list[str],
    lists: Path,
    scores: Path,
    mined: Path,
    purity: Path,
) -> tuple[Path, ...]:
    """Counts that add up, pictures of what was taken and turned away, and a page with all of it."""
    known = Lists(lists)
    guarded = guarded_sets(known)

    def make(aside: Path) -> None:
        _write_audit(aside, identity, mining, known, scores, mined, purity)

    folder = identity.folder("mining_report")
    Reuse(identity.project, redo).produce(
        folder,
        pipeline="mining",
        inputs={
            **_inputs(identity, mining, scores, mined),
            "purity": purity,
            "pool": known.index("pool"),
            "classes": known.folder / "class_map.txt",
            **{name: known.index(name) for name in guarded},
        },
        params=mining.model_dump(mode="json", exclude=NOT_OF_THE_LIST - {"purity"} | {"exclude"}),
        outputs=OUTPUTS,
        make=make,
    )
    sheets = (folder / "sheets" / f"{name}.png" for name in ("top", "bottom", "removed", "review"))
    return folder, folder / "audit.json", folder / "mining_report.html", *sheets


def _write_audit(
    aside: Path,
    identity: Identity,
    mining: MiningParams,
    known: Lists,
    scores: Path,
    mined: Path,
    purity: Path,
) -> None:
    import pandas as pd

    from hgnetv2_pipeline.mining import audit as audit_room
    from hgnetv2_pipeline.mining import review
    from hgnetv2_pipeline.mining.sheets import contact_sheets, shown_pairs
    from hgnetv2_pipeline.reporting.mining_page import build_mining_page

    machine = pd.read_parquet(mined / "dedup.parquet")
    pairs = decided_pairs(mined / "dedup.parquet", mined / "review.csv")
    listed, raw = mined / "mined.parquet", identity.folder("raw")
    chosen_from = candidates(identity, mining, scores, pairs)
    probes = pd.read_parquet(purity / "probes.parquet")
    table = audit_room.class_table(chosen_from, listed, classes=known.classes, probes=probes)
    curve = pd.read_csv(purity / "purity.csv")
    hidden = _sample_truth(identity)
    counts = audit_room.audit(chosen_from, listed, table=table, curve=curve, **hidden)
    counts["estimate"]["set"] = mining.purity.probes
    counts["person"] = review.count_decisions(machine, review.read_review(mined / "review.csv"))
    write_json(aside / "audit.json", counts)
    csv_frame(table).to_csv(aside / "classes.csv", index=False)
    shown = [shown_pairs(pairs, decision, 100) for decision in ("remove", "review")]
    csv_frame(pd.concat(shown)).to_csv(aside / "pairs.csv", index=False, float_format="%.4f")
    (aside / "sheets").mkdir()
    sheets = contact_sheets(
        listed,
        pairs,
        pool=(known.index("pool"), raw),
        protected={name: (known.index(name), raw) for name in guarded_sets(known)},
        classes=known.classes,
    )
    for name, sheet in sheets.items():
        sheet.save(aside / "sheets" / f"{name}.png")
    build_mining_page(
        aside,
        aside / "mining_report.html",
        purity=purity / "purity.csv",
        dataset=identity.dataset,
        teacher=identity.teacher,
        params=_parameters(mining),
        review=os.path.relpath(mined / "review.csv", identity.folder("mining_report")),
        command=identity.run_command,
        is_sample=identity.dataset == "sample",
    )


def _parameters(block: BaseModel, prefix: str = "mining.") -> list[tuple[str, Any, str]]:
    """Name, value and meaning of every parameter that decides the list or what is told of it."""
    rows = []
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        if isinstance(value, BaseModel):
            rows += _parameters(value, f"{prefix}{name}.")
        elif name not in NOT_OF_THE_LIST:
            rows.append((prefix + name, value, field.description or ""))
    return rows


def _inputs(
    identity: Identity, mining: MiningParams, scores: Path, mined: Path
) -> dict[str, Path | str]:
    """What purity and audit both depend on."""
    inputs: dict[str, Path | str] = {
        "scores": scores,
        "mined": mined / "mined.parquet",
        "dedup": mined / "dedup.parquet",
        "review": person_edits(mined / "review.csv"),
        **exclusions(identity, mining),
    }
    for name, path in _hidden(identity).items():
        inputs[name] = path
    return inputs


def _hidden(identity: Identity) -> dict[str, Path]:
    """Only the sample knows what its pool holds; a real pool has no labels."""
    images = identity.folder("raw") / "images"
    found = {"truth": images / "pool_truth.csv", "planted": images / "planted.csv"}
    return found if found["truth"].is_file() else {}


def _sample_truth(identity: Identity) -> dict[str, Any]:
    """What the sample's pool holds, as ``mining.audit`` takes it; used to judge, never to train."""
    paths = _hidden(identity)
    if not paths:
        return {}
    import pandas as pd

    rows = pd.read_csv(paths["truth"], dtype=str)
    # A digit is its own label; a distractor belongs to no class.
    labels = pd.to_numeric(rows["truth"], errors="coerce").astype("Int64")
    plants = pd.read_csv(paths["planted"], dtype=str)
    return {
        "truth": pd.DataFrame({"key": "images/" + rows["key"], "label": labels}),
        "planted": pd.DataFrame({"key": "images/" + plants["pool_key"], "kind": plants["kind"]}),
    }


def _depth(mined: Path) -> int:
    """Images of the fullest class of the mined list: its k."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return int(pc.max(pq.read_table(mined, columns=["rank"])["rank"]).as_py())
