"""What was mined, to be believed or not: purity, counts that add up, a page to look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.printable import csv_frame
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.reviewed import review_file
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.mining.selecting import (
    NOT_OF_THE_LIST,
    candidates,
    decided_pairs,
    exclusions,
    person_edits,
)
from hgnetv2_pipeline.project.params import MiningParams
from hgnetv2_pipeline.project.run import Run

OUTPUTS = ("audit.json", "classes.csv", "pairs.csv", "sheets", "mining_report.html")
SHEETS = tuple(f"sheets/{name}.png" for name in ("top", "bottom", "removed", "review"))


def write_purity(
    aside: Path, run: Run, mining: MiningParams, labels: Path, scores: Path, mined: Path,
    hidden: Path,
) -> None:  # fmt: skip
    """How pure lists of other lengths would be: by hidden images, and by the truth if known."""
    import pandas as pd

    from hgnetv2_pipeline.mining.purity import purity_curve, rank_hidden_images

    chosen_from = candidates(run, mining, scores, decided_pairs(run, mined))
    known = pd.read_parquet(labels, columns=["key", "label"])
    ranked = rank_hidden_images(chosen_from, hidden / "probes", known)
    ranked.to_parquet(aside / "probes.parquet", index=False)
    curve = purity_curve(
        chosen_from,
        ranked,
        k=_depth(mined / "mined.parquet"),
        truth=_sample_truth(run.identity).get("truth"),
    )
    csv_frame(curve).to_csv(aside / "purity.csv", index=False)


def write_audit(
    aside: Path, run: Run, mining: MiningParams, scores: Path, mined: Path, purity: Path
) -> None:
    """Write counts, classes, pairs, contact sheets and the page that shows them."""
    import pandas as pd

    from hgnetv2_pipeline.mining import audit, review
    from hgnetv2_pipeline.mining.sheets import contact_sheets, shown_pairs
    from hgnetv2_pipeline.reporting.inputs import ReportInputs
    from hgnetv2_pipeline.reporting.mining_page import build_mining_page

    known, identity, raw = Lists(run.folder("lists")), run.identity, run.folder("raw")
    machine = pd.read_parquet(mined / "dedup.parquet")
    pairs, listed = decided_pairs(run, mined), mined / "mined.parquet"
    chosen_from = candidates(run, mining, scores, pairs)
    hidden = pd.read_parquet(purity / "probes.parquet")
    table = audit.count_classes(chosen_from, listed, classes=known.classes, hidden=hidden)
    curve = pd.read_csv(purity / "purity.csv")
    truth = _sample_truth(identity)
    counts = audit.audit(chosen_from, listed, table=table, curve=curve, **truth)
    counts["estimate"]["set"] = mining.purity.probes
    counts["person"] = review.count_decisions(machine, review.read_review(review_file(identity)))
    counts["judged"] = _judgement(identity, listed)
    write_json(aside / "audit.json", counts)
    csv_frame(table).to_csv(aside / "classes.csv", index=False)
    shown = [shown_pairs(pairs, decision, 100) for decision in ("remove", "review")]
    csv_frame(pd.concat(shown)).to_csv(aside / "pairs.csv", index=False, float_format="%.4f")
    (aside / "sheets").mkdir()
    sheets = contact_sheets(
        listed,
        pairs,
        pool=(known.index("pool"), raw),
        protected={name: (known.index(name), raw) for name in known.guarded},
        classes=known.classes,
        scored=chosen_from.pool if mining.rank_by == "confidence" else None,
        truth=truth.get("truth"),
    )
    for name, sheet in sheets.items():
        sheet.save(aside / "sheets" / f"{name}.png")
    build_mining_page(
        aside,
        aside / "mining_report.html",
        ReportInputs(
            dataset=identity.dataset,
            is_sample=identity.dataset == "sample",
            run_command=identity.run_command,
            mining_purity=purity / "purity.csv",
            own={"pool_map": run.folder("pool_map") / "map.csv"},
        ),
        teacher=identity.teacher,
        params=_parameters(mining),
        review=os.path.relpath(review_file(identity), identity.folder("mining_report")),
    )


def _judgement(identity: Identity, listed: Path) -> dict[str, Any]:
    """How pure the list is by what a person judged, in numbers and in words."""
    import pandas as pd

    from hgnetv2_pipeline.data.decisions import read_decisions
    from hgnetv2_pipeline.mining.judged import judged_purity, judgement_in_words

    mined = pd.read_parquet(listed, columns=["key", "score"])
    found = judged_purity(mined, read_decisions(review_file(identity)))
    return {**found, "said": judgement_in_words(found)}


def _parameters(block: BaseModel, prefix: str = "mining.") -> list[tuple[str, Any, str]]:
    """Name, value and meaning of every parameter that decides the list or the report on it."""
    rows = []
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        if isinstance(value, BaseModel):
            rows += _parameters(value, f"{prefix}{name}.")
        elif name not in NOT_OF_THE_LIST or name == "rank_by":
            rows.append((prefix + name, value, field.description or ""))
    return rows


def mined_inputs(run: Run, mining: MiningParams, scores: Path, mined: Path) -> dict[str, Any]:
    """What purity and audit both depend on, files and texts by role."""
    return {
        "scores": scores,
        "mined": mined / "mined.parquet",
        "dedup": mined / "dedup.parquet",
        "review": person_edits(run),
        **exclusions(run, mining),
        **_truth_files(run.identity),
    }


def _truth_files(identity: Identity) -> dict[str, Path]:
    """Only the sample knows what its pool holds; a real pool has no labels."""
    images = identity.folder("raw") / "images"
    found = {"truth": images / "pool_truth.csv", "planted": images / "planted.csv"}
    return found if found["truth"].is_file() else {}


def _sample_truth(identity: Identity) -> dict[str, Any]:
    """What the sample's pool holds, as ``mining.audit`` takes it; used to judge, never to train."""
    paths = _truth_files(identity)
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
