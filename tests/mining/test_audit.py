"""What is said of a mined list, and shown of it, against plain computations on the whole frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_selection import CLASSES, random_pool, scores_of

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining import audit as audit_module
from hgnetv2_pipeline.mining.audit import audit, count_classes
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.selection import select
from hgnetv2_pipeline.mining.sheets import _edges

NAMES = [f"class {label}" for label in range(CLASSES)]


@pytest.fixture(scope="module")
def mining(tmp_path_factory: pytest.TempPathFactory) -> tuple[Candidates, Path]:
    """Candidates of a pool, some of them excluded, and the list mined from them."""
    folder = tmp_path_factory.mktemp("mining")
    pool = random_pool(12)
    candidates = Candidates(
        scores_of(folder / "scores", pool, 3), exclude=pool["key"].iloc[::50].tolist()
    )
    return candidates, select(candidates, k=90).write(folder / "mined.parquet")


def test_the_table_of_classes_has_the_numbers_of_the_list(mining: tuple[Candidates, Path]) -> None:
    candidates, mined = mining
    table, listed = count_classes(candidates, mined, classes=NAMES), pd.read_parquet(mined)
    scores = listed.groupby("label")["score"]
    assert table["selected"].tolist() == scores.size().reindex(range(CLASSES)).tolist()
    assert {size % 2 for size in table["selected"]} == {0, 1}
    for name in ("min", "median", "max"):
        found = table[f"{name}_score"]
        assert found.dtype == np.float32
        # Half a millionth: it is rounded to six places.
        assert np.allclose(found, scores.agg(name), atol=6e-7)
    assert table["candidates"].tolist() == candidates.counts().tolist()
    more = count_classes(candidates, mined, classes=[*NAMES, "one more"])
    assert more.iloc[-1][["candidates", "selected"]].tolist() == [0, 0]
    assert np.isnan(more["median_score"].iloc[-1])
    with pytest.raises(DataError, match=f"has class {CLASSES - 1}, there are {CLASSES - 1}"):
        count_classes(candidates, mined, classes=NAMES[:-1])


@pytest.mark.parametrize("bits", [2**64 - 1, 1])
def test_an_image_that_is_listed_twice_is_found_wherever_it_is(
    mining: tuple[Candidates, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    candidates, mined = mining
    hashes = audit_module._hashes
    monkeypatch.setattr(audit_module, "_hashes", lambda keys: hashes(keys) & np.uint64(bits))
    monkeypatch.setattr("hgnetv2_pipeline.mining.mined_list._ROWS", 10)
    table, listed = count_classes(candidates, mined, classes=NAMES), pd.read_parquet(mined)
    audit(candidates, mined, table=table)  # keys whose hashes meet are not the same key
    listed.loc[90, "key"] = listed["key"][3]
    listed.to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="holds an image twice"):
        audit(candidates, tmp_path / "twice.parquet", table=table)


def test_a_list_that_holds_an_excluded_image_is_refused(
    mining: tuple[Candidates, Path], tmp_path: Path
) -> None:
    candidates, mined = mining
    listed = pd.read_parquet(mined)
    listed.loc[90, "key"] = candidates.barred[0]
    listed.to_parquet(tmp_path / "barred.parquet")
    with pytest.raises(DataError, match="one that was excluded"):
        audit(candidates, tmp_path / "barred.parquet", table=pd.DataFrame({"selected": [1]}))


def test_a_known_truth_is_counted_where_the_list_has_it(mining: tuple[Candidates, Path]) -> None:
    candidates, mined = mining
    listed = pd.read_parquet(mined)
    truth = listed[["key", "label"]].iloc[::2].astype({"label": "Int64"})
    truth.iloc[:10, 1] = pd.NA
    truth.iloc[10:13, 1] = CLASSES
    truth = pd.concat(
        [truth.sample(frac=1, random_state=0), truth.iloc[:5].assign(key="elsewhere")]
    )
    truth = truth.drop_duplicates("key")
    table = count_classes(candidates, mined, classes=NAMES)
    found = audit(candidates, mined, table=table, truth=truth)["purity"]
    known = len(listed.iloc[::2])
    assert (found["known"], found["distractors"], found["right"]) == (known, 10, known - 13)
    assert found["accuracy"] == (known - 13) / (known - 10)


@pytest.mark.parametrize(("columns", "most"), [(3, 4), (20, 20), (1, 1)])
def test_the_sheets_show_the_first_and_the_last_of_some_classes(
    mining: tuple[Candidates, Path], columns: int, most: int
) -> None:
    _, mined = mining
    listed = pd.read_parquet(mined)
    labels = np.unique(listed["label"])
    chosen = labels[np.unique(np.linspace(0, len(labels) - 1, most).astype(int))]
    rows = _edges(mined, columns, most)
    wanted = listed[listed["label"].isin(chosen)].groupby("label")
    for shown, expected in (("top", wanted.head(columns)), ("bottom", wanted.tail(columns))):
        assert rows.loc[rows[shown], "key"].tolist() == expected["key"].tolist()
    assert (rows["top"] | rows["bottom"]).all()


def test_a_list_of_nothing_is_said_to_be_one(
    mining: tuple[Candidates, Path], tmp_path: Path
) -> None:
    candidates, mined = mining
    pd.read_parquet(mined).iloc[:0].to_parquet(tmp_path / "none.parquet")
    table = count_classes(candidates, tmp_path / "none.parquet", classes=NAMES)
    assert table["selected"].tolist() == [0] * CLASSES
    found = audit(
        candidates, tmp_path / "none.parquet", table=table,
        truth=pd.DataFrame({"key": ["a"], "label": pd.array([1], dtype="Int64")}),
    )  # fmt: skip
    assert (found["selected"], found["k"], found["purity"]["known"]) == (0, 0, 0)
    assert len(_edges(tmp_path / "none.parquet", 10, 20)) == 0
