"""Contact sheets of a mining: what is written below an image, and which ones are marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scored_pools import CLASSES, random_pool, scores_of

from hgnetv2_pipeline.data import report
from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.scored_pool import ScoredPool
from hgnetv2_pipeline.mining.selection import select
from hgnetv2_pipeline.mining.sheets import contact_sheets

NAMES = [f"class {label}" for label in range(CLASSES)]
RED = (192, 0, 0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What each strip of a sheet was asked to show."""
    asked: list[dict[str, object]] = []
    plain = report.contact_sheet

    def note(samples: pd.DataFrame, root: Path, **given: object) -> Image.Image:
        asked.append({"keys": samples["key"].tolist(), **given})
        return plain(samples, root, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(report, "contact_sheet", note)
    return asked


@pytest.mark.parametrize("top_p", [1, 2])
def test_margins_are_shown_and_wrong_ones_are_marked(
    tmp_path: Path, drawn: list[dict[str, object]], top_p: int
) -> None:
    pool = random_pool(0, rows=120).drop_duplicates("key").reset_index(drop=True)
    (tmp_path / "pool").mkdir()
    for key in pool["key"]:
        Image.new("RGB", (4, 4), "green").save(tmp_path / "pool" / key)
    scores = scores_of(tmp_path / "scores", pool, 2)
    mined = select(Candidates(scores), k=3, top_p=top_p).frame()
    mined.to_parquet(tmp_path / "mined.parquet")
    truth = pd.DataFrame({"key": pool["key"], "label": pd.array([0] * len(pool), "Int64")})
    truth.loc[::3, "label"] = pd.NA
    samples = scan_unlabelled(tmp_path / "pool").samples
    no_pairs = pd.DataFrame({"key": [], "val_key": [], "decision": [], "distance": []})
    sheets = contact_sheets(
        tmp_path / "mined.parquet", no_pairs, pool=(samples, tmp_path / "pool"), protected={},
        classes=NAMES, columns=3, scored=ScoredPool(scores), truth=truth.iloc[:-20],
    )  # fmt: skip
    by_key, true = pool.set_index("key"), truth.iloc[:-20].set_index("key")["label"]
    label_of = mined.set_index("key")["label"]
    strips = drawn[: label_of.nunique()]
    assert sorted(key for strip in strips for key in strip["keys"]) == sorted(label_of.index)
    for strip in strips:
        for key, said, marked in zip(
            strip["keys"], strip["captions"], strip["marked"], strict=True
        ):
            ids, logits = by_key.loc[key, "top_ids"].tolist(), by_key.loc[key, "top_logits"]
            place = ids.index(label_of[key])
            margin = logits[place] - np.delete(logits, place).max()
            expected = f"{margin:.1f}"
            wrong = key in true.index and (pd.isna(true[key]) or true[key] != label_of[key])
            if wrong:
                expected += " of none" if pd.isna(true[key]) else " is class 0"
            assert (said, marked) == (expected, wrong)
    pixels = np.asarray(sheets["top"]).reshape(-1, 3)
    assert (pixels == RED).all(axis=1).any()


def test_without_logits_the_score_is_shown_and_without_truth_nothing_is_marked(
    tmp_path: Path, drawn: list[dict[str, object]]
) -> None:
    for number in range(4):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    samples = scan_unlabelled(tmp_path).samples
    mined = pd.DataFrame(
        {"key": samples["key"], "label": 0, "score": [0.9, 0.75, 0.5, 0.125], "rank": [1, 2, 3, 4]}
    )
    mined.to_parquet(tmp_path / "mined.parquet")
    no_pairs = pd.DataFrame({"key": [], "val_key": [], "decision": [], "distance": []})
    contact_sheets(
        tmp_path / "mined.parquet", no_pairs, pool=(samples, tmp_path), protected={}, classes=["a"]
    )
    assert drawn[0]["captions"] == ["0.900", "0.750", "0.500", "0.125"]
    assert drawn[0]["marked"] == [False] * 4
