"""From folders of images to lists: where they are, what they hold, which set each belongs to."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.pipelines.identity import Identity
from hgnetv2_pipeline.pipelines.lists import Lists
from hgnetv2_pipeline.pipelines.params import DataParams
from hgnetv2_pipeline.pipelines.reuse import Reuse

if TYPE_CHECKING:
    from hgnetv2_pipeline.data import Scan

_log = logging.getLogger(__name__)
SETS = ("train", "val", "test", "pool")


def provide_raw(identity: Identity, data: DataParams) -> Path:
    """Make ``01_raw/<dataset>`` show all images: the sample is written, others are linked.

    One root for all sets keeps every path relative, so that lists and hashes do not change when
    the project moves. What lies there already belongs to the user and is never written again.
    """
    raw = identity.folder("raw")
    if data.layout == "sample":
        if not (raw / "images").is_dir():
            from hgnetv2_pipeline.data import write_sample

            aside = raw / ".images-partial"
            shutil.rmtree(aside, ignore_errors=True)
            write_sample(aside)
            aside.rename(raw / "images")
            _log.info("the embedded sample was written to %s", identity.relative("raw"))
        return raw
    places = {"images": data.root}
    if data.test:
        places["test"] = data.test
    places |= {f"pool/{number}": place for number, place in enumerate(data.pool)}
    for name, given in places.items():
        target = (identity.project / Path(given).expanduser()).resolve()
        link = raw / name
        if not target.exists():
            role = name.split("/")[0]
            key = {"images": "root"}.get(role, role)
            raise DataError(f"data.{key}: {given} does not exist (conf/{identity.environment}/)")
        if link.resolve() == target:
            continue
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise DataError(f"{link} exists and is not {given}: move one of the two away")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return raw


def provide_weights(identity: Identity, data: DataParams, redo: list[str], raw: Path) -> Path:
    """For the sample alone: a ``.pdparams`` filled by formula, so that import_weights has a file.

    Its values mean nothing; its format is that of PaddleClas, with the sample's ten classes.
    """
    folder = identity.folder("raw_weights")
    name = f"PPHGNetV2_{identity.variant.upper()}_ssld_stage1_pretrained.pdparams"
    if data.layout != "sample":
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.models import create_model, formula_state
        from hgnetv2_pipeline.models.weights import write_pdparams

        write_pdparams(aside / name, formula_state(create_model(identity.variant, num_classes=10)))

    Reuse(identity.project, redo).produce(
        folder,
        name=identity.variant,
        pipeline="ingestion",
        inputs={},
        params={"variant": identity.variant, "num_classes": 10},
        outputs=[name],
        make=make,
    )
    return folder


def make_lists(identity: Identity, data: DataParams, redo: list[str], raw: Path) -> Path:
    """Scan every image once, divide the labelled ones, and write indexes and lists."""
    reuse = Reuse(identity.project, redo)
    roots = {name: raw / name for name in ("images", "test", "pool") if (raw / name).is_dir()}
    folder = identity.folder("lists")

    def make(aside: Path) -> None:
        from hgnetv2_pipeline import data as room

        scans = _scan(identity, data, raw)
        sets = _divide(identity, data, scans)
        classes = scans["images"].classes or []
        import pandas as pd

        room.write_class_map(aside / "class_map.txt", classes)
        for name, samples in sets.items():
            room.write_index(aside / f"index_{name}.parquet", samples)
            room.write_list(aside / f"{name}_list.txt", samples)
        quarantined = pd.concat([scan.quarantined for scan in scans.values()], ignore_index=True)
        quarantined.to_csv(aside / "quarantine.csv", index=False)
        summary = room.summarise_sets(sets, classes=classes, quarantined=quarantined)
        write_json(aside / "summary.json", summary)
        sheet = room.contact_sheet(_examples(sets["train"]), raw, columns=10, cell=64)
        sheet.save(aside / "contact_sheet.png")

    outputs = ["class_map.txt", "quarantine.csv", "summary.json", "contact_sheet.png"]
    present = {"train", "val"}
    if data.test or data.split.test:
        present.add("test")
    if data.pool:
        present.add("pool")
    outputs += [f"index_{name}.parquet" for name in sorted(present)]
    outputs += [f"{name}_list.txt" for name in sorted(present)]
    params = data.model_dump(
        mode="json", exclude={"workers", "root", "pool", "test", "trusted_roots"}
    )
    reuse.produce(
        folder,
        pipeline="ingestion",
        inputs=dict(roots),
        params={**params, "seed": identity.seed, "sets": sorted(present)},
        outputs=outputs,
        make=make,
    )
    return folder
