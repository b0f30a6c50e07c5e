"""Selecting from 14.2 million scored images: CPU seconds and peak memory.

    python benchmarks/bench_select.py                    # the figures of docs/results/mining.md
    python benchmarks/bench_select.py --rows 1000000

The pool is made up: score shards as the teacher's pass writes them (65,536 rows each, ten classes
an image), classes of very unequal size, 8 % of the images the bytes of another one (the share
published for ImageNet-21k), 50,000 images barred by the comparison with val, 1.28 million labelled
images to merge with. Every measurement runs in a process of its own, so that its peak memory is its
own; time is that of the whole process but its imports. ``--quick`` has a million rows.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from harness import Case, alone, run

CLASSES, KEPT, SHARD = 1000, 10, 65_536
SEED = 0


def keys_of(first: int, rows: int, folder: str) -> list[str]:
    """Ascending names as in ImageNet-22k: a synset, a number."""
    return [
        f"{folder}/n{n // 650:08d}/n{n // 650:08d}_{n:08d}.JPEG" for n in range(first, first + rows)
    ]


def write_pool(base: Path, rows: int, train: int) -> None:
    """Shards and manifests, the pool's index, the labelled index, the barred keys."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hgnetv2_pipeline.data.index import index_writer
    from hgnetv2_pipeline.mining.score_shards import write_plan, write_scores

    rng = np.random.default_rng(SEED)
    share = rng.pareto(1.2, CLASSES) + 0.02
    share /= share.sum()
    scores = base / "scores"
    write_plan(scores, rows, SHARD)
    bank: dict[str, np.ndarray] = {}
    barred = []
    with index_writer(base / "index_pool.parquet") as add_rows:
        for number, first in enumerate(range(0, rows, SHARD)):
            n = min(SHARD, rows - first)
            label = rng.choice(CLASSES, n, p=share).astype(np.int32)
            best = rng.beta(3, 1.2, n).clip(0.02, 0.999999)
            phash = rng.integers(0, 2**64, n, dtype=np.uint64)
            raw = rng.integers(0, 256, (n, 32), dtype=np.uint8)
            if bank:
                again = rng.choice(n, n * 8 // 100, replace=False)
                source = rng.integers(0, len(bank["label"]), len(again))
                label[again], best[again] = bank["label"][source], bank["best"][source]
                phash[again], raw[again] = bank["phash"][source], bank["raw"][source]
            if number < 4:
                bank = {"label": label, "best": best, "phash": phash, "raw": raw}
            keys = keys_of(first, n, "pool/imagenet22k")
            sha = pa.array([bytes(row).hex() for row in raw])
            ids = (label[:, None] + np.cumsum(rng.integers(1, 90, (n, KEPT)), axis=1)) % CLASSES
            ids[:, 0] = label
            logits = np.log(best)[:, None] - np.cumsum(rng.exponential(0.7, (n, KEPT)), axis=1)
            logits[:, 0] = np.log(best)
            offsets = pa.array(np.arange(0, n * KEPT + 1, KEPT, dtype=np.int32))
            lists = [
                pa.ListArray.from_arrays(offsets, pa.array(part.ravel().astype(kind)))
                for part, kind in ((ids, np.int32), (logits, np.float32))
            ]
            write_scores(
                scores,
                number,
                {
                    "key": pa.array(keys),
                    "top_ids": lists[0],
                    "top_logits": lists[1],
                    "lse": np.zeros(n, np.float32),
                    "score_q": np.rint(best * 1e6).astype(np.uint32),
                    "phash64": phash,
                    "bytes_sha256": sha,
                },
                {
                    "number": number, "identity": {"num_classes": CLASSES, "inputs_sha256": ""},
                    "listed": n, "rows": n, "quarantined": [],
                },
            )  # fmt: skip
            add_rows(_index_rows(keys, sha, None, rng))
            barred += keys[:: max(1, rows // 50_000)]
    with index_writer(base / "index_train.parquet") as add_rows:
        names = keys_of(0, train, "images/train")
        sha = pa.array([hashlib.sha256(name.encode()).hexdigest() for name in names])
        add_rows(_index_rows(names, sha, np.arange(train) % CLASSES, rng))
    pq.write_table(
        pa.table({"key": barred, "decision": ["remove"] * len(barred)}), base / "dedup.parquet"
    )


def _index_rows(keys: list[str], sha, labels, rng):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from hgnetv2_pipeline.data.index import arrow_schema

    n = len(keys)
    return pa.table(
        {
            "key": pa.array(keys),
            "path": pa.array(keys),
            "offset": np.full(n, -1, np.int64),
            "length": rng.integers(20_000, 200_000, n),
            "label": pa.array(labels) if labels is not None else pa.nulls(n, pa.int64()),
            "width": rng.integers(200, 600, n).astype(np.int32),
            "height": rng.integers(200, 600, n).astype(np.int32),
            "format": pa.array(["JPEG"] * n),
            "bytes_sha256": sha,
        },
        schema=arrow_schema(),
    )


def select_from(base: Path, what: str) -> dict[str, object]:
    """One selection: how many images were mined, and the hash of the list."""
    import pandas as pd

    from hgnetv2_pipeline.durable import sha256_file
    from hgnetv2_pipeline.mining.candidates import Candidates
    from hgnetv2_pipeline.mining.mined_list import write_merged
    from hgnetv2_pipeline.mining.selection import select

    mined = select(
        Candidates(base / "scores", pd.read_parquet(base / "dedup.parquet")),
        k=4000 if what in ("k", "top_p") else None,
        top_p=5 if what == "top_p" else 1,
    )
    mined.write(base / f"mined-{what}.parquet")
    made = [base / f"mined-{what}.parquet"]
    if what == "merged":
        made += [base / "train_mined.parquet", base / "train_list_mined.txt"]
        write_merged(
            mined, pool=base / "index_pool.parquet", labelled=base / "index_train.parquet",
            index=made[1], listed=made[2],
        )  # fmt: skip
    return {"mined": len(mined), "sha256": sha256_file(made[-1])[:8]}


CASES = {
    "k": "top 4,000 a class, mined.parquet written",
    "target": "4 million in total (the default), mined.parquet written",
    "top_p": "top 4,000 a class, short classes filled from 2nd to 5th places",
    "merged": "the whole step: 4 million, merged with the labelled images, index and list",
}


def cases(given: argparse.Namespace) -> Iterator[Case]:
    rows = min(given.rows, 1_000_000) if given.quick else given.rows
    with tempfile.TemporaryDirectory(prefix="bench-select-") as folder:
        base = given.pool or Path(folder)
        if not (base / "dedup.parquet").is_file():
            write_pool(base, rows, given.labelled)
        every = {
            label: alone(select_from, base, what, what="selection") for what, label in CASES.items()
        }
        yield Case(f"{rows:,} scored images", every, unit="selection", cold=True)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=14_200_000)
    parser.add_argument("--labelled", type=int, default=1_281_167)
    parser.add_argument("--pool", type=Path, help="keep the made-up pool here and use it again")


if __name__ == "__main__":
    run("select", cases, doc=__doc__, seconds=30, options=options)
