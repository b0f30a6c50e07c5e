"""The report on a dataset: its summary in numbers, a contact sheet, and a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.ownership import scratch
from hgnetv2_pipeline.printable import as_known, csv_value
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.levels import read_levels
from hgnetv2_pipeline.project.ingestion.sets import ARRANGEMENT
from hgnetv2_pipeline.project.ingestion.tones import read_tones
from hgnetv2_pipeline.project.ingestion.transparency import read_transparency
from hgnetv2_pipeline.project.lists import Lists

if TYPE_CHECKING:
    import pandas as pd

REPORT = ("summary.json", "contact_sheet.png", "dataset_report.html")
_SHEET = 120
_PAIRS = 12


def write_report(aside: Path, identity: Identity, known: Lists, raw: Path) -> None:
    """Write the files of ``REPORT``."""
    import pandas as pd

    from hgnetv2_pipeline.data import report
    from hgnetv2_pipeline.data.likeness import compare_sets
    from hgnetv2_pipeline.data.lists import multi_label
    from hgnetv2_pipeline.reporting.dataset_page import build_dataset_page

    frames = {name: known.frame(name) for name in known.sets}
    left_out = pd.read_csv(known.folder / "quarantine.csv", dtype=str, keep_default_na=False)
    left_out["key"] = left_out["key"].map(csv_value)
    left_out["reason"] = left_out["reason"].map(csv_value)
    leaks = pd.read_csv(known.folder / "leaks.csv", dtype={"key": "str", "other_key": "str"})
    if len(leaks):
        compared = [frames[name]["key"] for name in {*leaks["set"], *leaks["other_set"]}]
        keys = [key for some in compared for key in some]
        for name in ("key", "other_key"):
            leaks[name] = as_known(leaks[name], keys)
    roles = {"images": "train"}
    bad = {
        roles.get(str(name), str(name)): rows
        for name, rows in left_out[left_out["fate"] == "quarantined"].groupby("set")
    }
    summary = report.summarise_sets(frames, known.classes, bad)
    summary |= _account(frames, left_out) | {"leaks": _leaks(leaks)}
    summary |= read_transparency(known.folder) | read_levels(known.folder)
    if len(frames.get("pool", ())):
        tones = read_tones(known.folder)
        summary["likeness"] = compare_sets(frames["train"], frames["pool"], tones)
    if (known.folder / ARRANGEMENT).is_file():  # older lists have none
        summary["arrangement"] = read_json(known.folder / ARRANGEMENT)
    write_json(aside / "summary.json", {"dataset": identity.dataset, **summary})

    shown = _spread_over_classes(frames["train"])
    captions = [
        ", ".join(known.classes[int(label)] for label in str(labels).split(",") if label) or "none"
        for labels in multi_label.label_text(shown)
    ]
    report.contact_sheet(shown, raw, 12, 72, captions).save(aside / "contact_sheet.png")
    sheets = {"Images of train by class": aside / "contact_sheet.png"}
    with scratch("ingestion") as folder:
        if len(leaks):
            pairs = leaks.sort_values("distance", kind="stable").head(_PAIRS)
            sheet = folder / "pairs.png"
            _pairs(frames, pairs, raw).save(sheet)
            sheets["Images that are in two sets, side by side, the most alike first"] = sheet
        build_dataset_page(
            aside / "summary.json", aside / "dataset_report.html", dataset=identity.dataset,
            sheets=sheets, is_sample=identity.dataset == "sample",
            run_command=identity.run_command,
        )  # fmt: skip


def _account(frames: dict[str, pd.DataFrame], left_out: pd.DataFrame) -> dict[str, Any]:
    """The sum that must hold, and why images were refused."""
    counts = left_out["fate"].value_counts()
    used = sum(len(frame) for frame in frames.values())
    quarantined, refused = int(counts.get("quarantined", 0)), int(counts.get("refused", 0))
    shown = left_out[left_out["fate"] == "refused"][["set", "key", "reason"]].head(20)
    return {
        "n_listed": used + quarantined + refused,
        "n_used": used,
        "n_quarantined": quarantined,
        "n_refused": refused,
        "refused": shown.to_dict("records"),
    }


def _leaks(leaks: pd.DataFrame) -> list[dict[str, Any]]:
    """For each pair of sets: images with the same bytes, near copies, and some of them."""
    found = []
    for (name, other), rows in leaks.groupby(["set", "other_set"]):
        some = rows.sort_values("distance", kind="stable").head(20)
        found.append(
            {
                "set": name,
                "other": other,
                "n_same_bytes": int(rows["same_bytes"].sum()),
                "n_near": int((~rows["same_bytes"]).sum()),
                "examples": some[["key", "other_key", "distance"]].values.tolist(),
            }
        )
    return found


def _spread_over_classes(train: pd.DataFrame) -> pd.DataFrame:
    """At most 120 images: some of each class, or one of each of 120 classes spread over all."""
    import numpy as np

    from hgnetv2_pipeline.data.lists import multi_label

    if multi_label.is_multi_label(train):
        matrix = multi_label.label_matrix(train)
        each = max(1, 60 // matrix.shape[1])
        rows = [row for column in matrix.T for row in np.flatnonzero(column)[:each].tolist()]
        return train.iloc[list(dict.fromkeys(rows))[:_SHEET] or [0]]
    labels = np.sort(train["label"].unique())
    if len(labels) > _SHEET:
        labels = labels[np.linspace(0, len(labels) - 1, _SHEET).astype(int)]
    some = train[train["label"].isin(labels)].groupby("label").head(max(1, 60 // len(labels)))
    return some.sort_values("label", kind="stable").head(_SHEET)


def _pairs(frames: dict[str, pd.DataFrame], pairs: pd.DataFrame, raw: Path) -> Any:
    """A sheet on which each leaking image is followed by the one it repeats."""
    import pandas as pd

    from hgnetv2_pipeline.data import report
    from hgnetv2_pipeline.data.index import DECODED_BY, SCHEMA

    known = [*SCHEMA, DECODED_BY]
    files = [frame[[name for name in known if name in frame]] for frame in frames.values()]
    everything = pd.concat(files).set_index("key", drop=False)
    rows, captions = [], []
    for pair in pairs.itertuples(index=False):
        rows += [everything.loc[[pair.key]], everything.loc[[pair.other_key]]]
        apart = "same bytes" if pair.same_bytes else f"{pair.distance} bits"
        captions += [f"{pair.set}: {apart}", f"{pair.other_set}"]
    return report.contact_sheet(pd.concat(rows), raw, 8, 96, captions)
