"""A million scored images: the list computed another way from the same files; its memory."""

from __future__ import annotations

from pathlib import Path

import bench_select
import pandas as pd
import pytest
from harness import in_own_process

ROWS, LABELLED, TARGET = 1_000_000, 50_000, 280_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("million")
    bench_select.write_pool(base, ROWS, LABELLED)
    result = in_own_process(bench_select.select_from, base, "merged")
    (base / "peak.txt").write_text(str(result["peak MB"]))
    return base


def test_the_list_of_a_million_images_is_that_of_plain_sorting(made_up: Path) -> None:
    mined = pd.read_parquet(made_up / "mined-merged.parquet")
    k = int(mined["rank"].max())
    wanted = ["key", "top_ids", "score_q", "bytes_sha256"]
    shards = sorted((made_up / "scores").glob("*.parquet"))
    free = pd.concat([pd.read_parquet(path, columns=wanted) for path in shards])
    free = free[~free["key"].isin(pd.read_parquet(made_up / "dedup.parquet")["key"])]
    free["label"] = [ids[0] for ids in free.pop("top_ids")]
    free = free.sort_values(["label", "score_q", "key"], ascending=[True, False, True])
    expected = free.drop_duplicates(["label", "bytes_sha256"])
    expected = expected.assign(rank=expected.groupby("label").cumcount() + 1)
    expected = expected[expected["rank"] <= k].reset_index(drop=True)
    columns = ["key", "label", "score_q", "rank"]
    kinds = mined[columns].dtypes.to_dict()
    pd.testing.assert_frame_equal(mined[columns], expected[columns].astype(kinds))
    sizes = expected.groupby("label").size()
    assert len(mined) >= TARGET and sizes.clip(upper=k - 1).sum() < TARGET


def test_a_million_images_are_mined_and_merged_in_little_memory(made_up: Path) -> None:
    lines = (made_up / "train_list_mined.txt").read_bytes().count(b"\n")
    assert lines == LABELLED + len(pd.read_parquet(made_up / "mined-merged.parquet", columns=[]))
    assert float((made_up / "peak.txt").read_text()) < 600
