"""A million scored images: the list against SQL on the same files, within a bound on memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
ROWS, LABELLED, TARGET = 1_000_000, 50_000, 280_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import bench_select
    finally:
        sys.path.pop(0)
    base = tmp_path_factory.mktemp("million")
    bench_select.write_pool(base, ROWS, LABELLED)
    result = bench_select.in_process("merged", base)
    (base / "peak.txt").write_text(str(result["peak_mb"]))
    return base


def test_the_list_of_a_million_images_is_what_sql_says(made_up: Path) -> None:
    import duckdb

    mined = pd.read_parquet(made_up / "mined-merged.parquet")
    k = int(mined["rank"].max())
    expected = duckdb.sql(f"""
        with free as (
            select key, top_ids[1] as label, score_q, bytes_sha256
            from read_parquet('{made_up}/scores/*.parquet')
            where key not in (select key from '{made_up}/dedup.parquet')
        ), distinct_bytes as (
            select * from free qualify row_number() over (
                partition by label, bytes_sha256 order by score_q desc, key) = 1
        )
        select key, label::bigint as label, score_q::bigint as score_q,
            row_number() over (partition by label order by score_q desc, key) as rank
        from distinct_bytes qualify rank <= {k} order by label, rank
    """).df()  # noqa: S608 - paths and numbers of the test
    columns = ["key", "label", "score_q", "rank"]
    pd.testing.assert_frame_equal(mined[columns], expected.astype(mined[columns].dtypes.to_dict()))
    sizes = expected.groupby("label").size()
    assert len(mined) >= TARGET and sizes.clip(upper=k - 1).sum() < TARGET


def test_a_million_images_are_mined_and_merged_in_little_memory(made_up: Path) -> None:
    lines = (made_up / "train_list_mined.txt").read_bytes().count(b"\n")
    assert lines == LABELLED + len(pd.read_parquet(made_up / "mined-merged.parquet", columns=[]))
    assert float((made_up / "peak.txt").read_text()) < 600
