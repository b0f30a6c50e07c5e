"""The stages that ``bench_scaling.py`` measures, each as a function of one size.

A stage prepares its input in one process and is measured in another, so that peak memory is its
own. ``prepare(base, n)`` writes below ``base``; ``ready(base, n)`` imports what the stage needs and
returns the work to be measured, which returns what is worth a column of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[], dict[str, Any]]

IMAGES = (1_000, 10_000, 100_000, 1_000_000)
FEW = IMAGES[:2]
CLASSES = (10, 100, 1_000, 10_000, 22_000)
AT_LAST = 14_000_000
FOLDER = 650  # images of a folder, as in ImageNet-21k
LINKS = 60_000  # names of one file; ext4 allows 65,000
STRETCH = 65_536
VIEWS = 64


@dataclass(frozen=True)
class Stage:
    """What is measured against what, at which sizes; ``last`` is the largest."""

    ready: Callable[[Path, int], Work]
    prepare: Callable[[Path, int], None] | None = None
    of: str = "images"
    sizes: tuple[int, ...] = (*IMAGES, AT_LAST)
    note: str = ""


def name_of(i: int) -> str:
    return f"n{i // FOLDER:08d}/n{i // FOLDER:08d}_{i:08d}.JPEG"


def names(n: int) -> Iterator[list[str]]:
    for first in range(0, n, STRETCH):
        yield [name_of(i) for i in range(first, min(n, first + STRETCH))]


def sha_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


# The walk ---------------------------------------------------------------------------------------


def make_tree(base: Path, n: int) -> None:
    """``n`` names of a few empty files: a hard link needs no inode of its own."""
    seed = None
    for i in range(n):
        if i % LINKS == 0:
            seed = base / f"seed-{i}"
            seed.touch()
        if i % FOLDER == 0:
            (base / "pool" / f"n{i // FOLDER:08d}").mkdir(parents=True)
        os.link(str(seed), f"{base}/pool/{name_of(i)}")


def make_mount_points(base: Path, n: int) -> None:
    """Twenty folders of empty files, and a folder for each place where one of them is mounted."""
    for number in range(20):
        (base / f"real-{number}").mkdir()
        for i in range(FOLDER):
            (base / f"real-{number}" / f"n{number:08d}_{i:08d}.JPEG").touch()
    for number in range(n // FOLDER):
        (base / "pool" / f"n{number:08d}").mkdir(parents=True)


def mount_folders(base: Path, n: int) -> None:
    """Mount them in a namespace that ends with this process; needs to be root on Linux.

    As many folders and names are read as of ten million files, which would take an hour to write.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, bind, recursive, private = 0x20000, 0x1000, 0x4000, 0x40000
    done = libc.unshare(new_namespace) or libc.mount(b"", b"/", None, recursive | private, None)
    for number in range(n // FOLDER):
        real, here = base / f"real-{number % 20}", base / "pool" / f"n{number:08d}"
        done = done or libc.mount(str(real).encode(), str(here).encode(), None, bind, None)
    if done:
        raise OSError(ctypes.get_errno(), "mounting folders for the walk")


def make_walked(base: Path, n: int) -> None:
    (make_tree if n <= IMAGES[-1] else make_mount_points)(base, n)


def walk(base: Path, n: int) -> Work:
    from hgnetv2_pipeline.data.lists.files import Fence
    from hgnetv2_pipeline.data.scan.walk import Walk

    if n > IMAGES[-1]:
        mount_folders(base, n)

    def work() -> dict[str, Any]:
        found = Walk(Fence(base / "pool"))
        found.run()
        assert len(found.found) == n and not found.bad
        return {}

    return work


def make_class_folders(base: Path, n: int) -> None:
    """Five names in each of ``n`` class folders."""
    base.joinpath("seed").touch()
    for number in range(n):
        folder = base / "images" / f"class-{number}"
        folder.mkdir(parents=True)
        if number % (LINKS // 5) == 0:
            seed = base / f"seed-{number}"
            seed.touch()
        for i in range(5):
            (folder / f"{i}.jpg").hardlink_to(seed)


def list_classes(base: Path, n: int) -> Work:
    """Class folders to labels, and a tenth of them left out as too small."""
    import pandas as pd

    from hgnetv2_pipeline.data.classmap import read_class_map, write_class_map
    from hgnetv2_pipeline.data.quarantine import quarantine_frame
    from hgnetv2_pipeline.data.scan.folders import Scan, with_enough
    from hgnetv2_pipeline.data.scan.listing import list_class_folders, walk_parts

    def work() -> dict[str, Any]:
        listing = list_class_folders(walk_parts(base / "images"))
        rows = [
            (item.key, item.label)
            for item in listing.found
            if item.label % 10 or item.key.endswith("/0.jpg")
        ]
        samples = pd.DataFrame(rows, columns=["key", "label"]).astype({"label": "Int64"})
        nothing = quarantine_frame([])
        kept = with_enough(
            Scan(samples, listing.classes, nothing, nothing), listing, 2, fixed=False
        )
        write_class_map(base / "class_map.txt", kept.classes or [])
        assert read_class_map(base / "class_map.txt") == kept.classes
        assert len(kept.classes or []) == n - n // 10
        return {}

    return work


# Index and lists --------------------------------------------------------------------------------


def index(base: Path, n: int) -> Work:
    """The scan's own work and the index of a source; the decoder is replaced by made-up facts."""
    from hgnetv2_pipeline.data.decode import DECODING
    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.data.lists.files import Fence
    from hgnetv2_pipeline.data.scan import folders
    from hgnetv2_pipeline.data.scan.walk import UnopenedFile, Walk
    from hgnetv2_pipeline.project.ingestion.places import relative_to_raw

    pixels = folders.PixelFacts(transparent=False, levels=None, flat=False, black=False)

    def made_up(root: Path, item: UnopenedFile, *_: Any) -> Any:
        width = 200 + hash(item.key) % 400
        facts = (110_000 + width, width, 375, "JPEG", sha_of(item.key), None, pixels)
        return *facts, (120, 130, 110, 100, False)

    folders._facts = made_up  # type: ignore[assignment]
    pool = Walk(Fence(base))
    # As the walk leaves them: the last folder first.
    for names_of_folder in reversed(list(range(0, n, FOLDER))):
        for i in range(names_of_folder, min(n, names_of_folder + FOLDER)):
            key = name_of(i)
            pool.found.append(UnopenedFile(key, key, -1, -1))

    def work() -> dict[str, Any]:
        scan = folders.examine(base, pool.found, pool, None, DECODING, 1, False)
        pool.found = []  # as ``scan_unlabelled`` gives them up
        scan = relative_to_raw(base, base / "pool", scan)
        path = write_index(base / "index.parquet", scan.samples)
        return {"disk_mb": path.stat().st_size / 1e6}

    return work


def write_pool_index(path: Path, n: int) -> None:
    """An index of a source of the pool, by key."""
    import pyarrow as pa

    from hgnetv2_pipeline.data.index import arrow_schema, index_writer

    with index_writer(path) as add:
        for keys in names(n):
            rows = len(keys)
            texts = pa.array([f"pool/web/{key}" for key in keys])
            add(
                pa.table(
                    {
                        "key": texts, "path": texts, "offset": np.full(rows, -1),
                        "length": np.arange(rows) % 90_000 + 20_000,
                        "label": pa.nulls(rows, pa.int64()),
                        "width": (np.arange(rows) % 400 + 200).astype(np.int32),
                        "height": np.full(rows, 375, np.int32), "format": ["JPEG"] * rows,
                        "bytes_sha256": [sha_of(key) for key in keys],
                    },
                    schema=arrow_schema(),
                )
            )  # fmt: skip


def make_index(base: Path, n: int) -> None:
    write_pool_index(base / "web.parquet", n)


def pool_lists(base: Path, n: int) -> Work:
    """From the index of a source to the pool's index, list and record of sources."""
    from hgnetv2_pipeline.data.decode import Decoding
    from hgnetv2_pipeline.data.index import read_index, with_decoding, write_index
    from hgnetv2_pipeline.data.quarantine import quarantine_frame
    from hgnetv2_pipeline.data.scan.folders import Scan
    from hgnetv2_pipeline.project.ingestion.pool import merge_scans, write_sources
    from hgnetv2_pipeline.project.ingestion.sets import _write_list

    def work() -> dict[str, Any]:
        nothing = quarantine_frame([])
        scans = [Scan(read_index(base / "web.parquet"), None, nothing, nothing)]
        pool = with_decoding(merge_scans(scans).samples, Decoding())
        write_index(base / "index_pool.parquet", pool)
        _write_list(base / "pool_list.txt", pool)
        write_sources(base / "pool_sources.json", pool, ["pool/web/"])
        made = ("index_pool.parquet", "pool_list.txt")
        return {"disk_mb": sum((base / name).stat().st_size for name in made) / 1e6}

    return work


def make_list(base: Path, n: int) -> None:
    with (base / "list.txt").open("w") as file:
        at = 0
        for some in names(n):
            file.write("".join(f"{name} {(at + i) // FOLDER}\n" for i, name in enumerate(some)))
            at += len(some)


def lists(base: Path, n: int) -> Work:
    from hgnetv2_pipeline.data.lists.read import read_list, write_list

    def work() -> dict[str, Any]:
        frame = read_list(base / "list.txt")
        assert len(frame) == n
        path = write_list(base / "again.txt", frame)
        return {"disk_mb": path.stat().st_size / 1e6}

    return work


def training_order(base: Path, n: int) -> Work:
    """What a training process holds of its list, and the order of two epochs."""
    from hgnetv2_pipeline.data.index import read_index
    from hgnetv2_pipeline.input.batches import SampleReader, TrainMaker

    def work() -> dict[str, Any]:
        reader = SampleReader(read_index(base / "web.parquet"), base)
        maker = TrainMaker(reader, None, 0, 128, 0, 1, None, 0)  # type: ignore[arg-type]
        assert len(maker._order(0)) == len(maker._order(1)) == n
        return {}

    return work


# Labelled images: copies and leaks ----------------------------------------------------------------


def near_copies(base: Path, n: int) -> Work:
    """Pairs of labelled images whose hashes are at most four bits apart; one in fifty has one."""
    from hgnetv2_pipeline.data.perceptual import near_pairs

    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    twins = rng.choice(n, n // 50, replace=False)
    hashes[twins] = hashes[(twins + 1) % n] ^ np.uint64(0b1011)

    def work() -> dict[str, Any]:
        return {"pairs": len(near_pairs(np.unique(hashes), 4)[0])}

    return work


# Scores, duplicates, selection --------------------------------------------------------------------


def score_columns(keys: list[str], seed: int) -> dict[str, Any]:
    """What the teacher's pass holds of a shard when it writes it."""
    rng, rows = np.random.default_rng(seed), len(keys)
    return {
        "key": keys,
        "top_ids": list(rng.integers(0, 1000, (rows, 10), dtype=np.int32)),
        "top_logits": list(rng.normal(size=(rows, 10)).astype(np.float32)),
        "lse": list(np.zeros(rows, np.float32)),
        "score_q": list(rng.integers(0, 10**6, rows).astype(np.uint32)),
        "phash64": rng.integers(0, 2**64, rows, dtype=np.uint64).tolist(),
        "bytes_sha256": [sha_of(key.removeprefix("pool/web/")) for key in keys],
    }


def score_shards(base: Path, n: int) -> Work:
    """All of the teacher's pass but images and network: shards made, then found finished, then
    taken over by a pass with shards of another size.
    """
    from hgnetv2_pipeline.data.index import images_hash
    from hgnetv2_pipeline.durable import sha256_json
    from hgnetv2_pipeline.mining.earlier_scores import EarlierScores
    from hgnetv2_pipeline.mining.score_shards import (
        pool_rows,
        pool_slices,
        score_store,
        write_plan,
        write_scores,
    )

    pool, out = base / "web.parquet", base / "scores"

    def work() -> dict[str, Any]:
        write_plan(out, pool_rows(pool), STRETCH)
        how: dict[str, Any] = {"num_classes": 1000, "features": False}
        identities = []
        for number, rows in enumerate(pool_slices(pool, STRETCH)):
            identities.append({**how, "inputs_sha256": images_hash(rows)})
            write_scores(
                out, number, score_columns(rows["key"].tolist(), number),
                {"number": number, "identity": identities[-1], "listed": len(rows),
                 "rows": len(rows), "quarantined": []},
            )  # fmt: skip
        store = score_store(out)
        for number, identity in enumerate(identities):
            assert store.finished(number, sha256_json(identity))
        earlier, known = EarlierScores([out], {**how, "inputs_sha256": ""}), 0
        for rows in pool_slices(pool, STRETCH // 2):
            known += len(earlier.take(rows)[0])
        assert known == n
        return {"disk_mb": sum(path.stat().st_size for path in out.iterdir()) / 1e6}

    return work


def make_scored_pool(base: Path, n: int, classes: int = 1000) -> None:
    """Scores, index, labelled images, guarded pictures and a mined list.

    Classes are of very unequal size; 8 % of the images are the bytes of others, one in 284 barred.
    """
    import pandas as pd
    import pyarrow as pa
    from bench_deduplicate import tiles

    from hgnetv2_pipeline.mining.score_shards import write_plan, write_scores

    rng = np.random.default_rng(0)
    share = rng.pareto(1.2, classes) + 0.02
    label = rng.choice(classes, STRETCH, p=share / share.sum())
    ids = (label[:, None] + np.cumsum(rng.integers(0, 90, (STRETCH, 10)), axis=1)) % classes
    ids[:, 0] = label
    best = rng.beta(3, 1.2, STRETCH).clip(0.02, 0.999999)
    logits = np.log(best)[:, None] - np.cumsum(rng.exponential(0.7, (STRETCH, 10)), axis=1)
    write_pool_index(base / "index_pool.parquet", n)
    write_plan(base / "scores", n, STRETCH)
    barred = []
    for number, keys in enumerate(names(n)):
        rows, turned = len(keys), number * 1009  # other images have these answers in other shards
        keys = [f"pool/web/{key}" for key in keys]
        phash = rng.integers(0, 2**64, rows, dtype=np.uint64)
        contents = [sha_of(key.removeprefix("pool/web/")) for key in keys]
        again = rows * 8 // 100
        phash[:again], contents[:again] = phash[again : 2 * again], contents[again : 2 * again]
        ends = pa.array(np.arange(0, rows * 10 + 1, 10, dtype=np.int32))
        top = [
            pa.ListArray.from_arrays(ends, np.roll(part, turned, 0)[:rows].ravel().astype(kind))
            for part, kind in ((ids, np.int32), (logits, np.float32))
        ]
        score_q = np.rint(np.roll(best, turned)[:rows] * 1e6).astype(np.uint32)
        columns = {
            "key": keys, "top_ids": top[0], "top_logits": top[1], "lse": np.zeros(rows, np.float32),
            "score_q": score_q, "phash64": phash, "bytes_sha256": contents,
        }  # fmt: skip
        identity = {"num_classes": classes, "inputs_sha256": ""}
        manifest = {"number": number, "identity": identity, "listed": rows, "rows": rows}
        write_scores(base / "scores", number, columns, {**manifest, "quarantined": []})
        barred += keys[::284]
    pairs = pd.DataFrame({"key": barred}).assign(channel="bytes", decision="remove")
    pairs.to_parquet(base / "dedup.parquet")
    write_labelled(base, max(n // 11, 100), classes)
    (base / "val").mkdir()
    for name, tile in tiles():
        tile.save(base / "val" / f"{name}.png")
    selection(base, n)()


def make_scored_classes(base: Path, n: int) -> None:
    make_scored_pool(base, 100_000, n)


def selection(base: Path, n: int) -> Work:
    """The whole step: 28 % of the pool, merged with labelled images, index and list written."""
    import pandas as pd

    from hgnetv2_pipeline.mining.candidates import Candidates
    from hgnetv2_pipeline.mining.mined_list import write_merged
    from hgnetv2_pipeline.mining.selection import select

    def work() -> dict[str, Any]:
        mined = select(Candidates(base / "scores", pd.read_parquet(base / "dedup.parquet")))
        mined.write(base / "mined.parquet")
        write_merged(
            mined, pool=base / "index_pool.parquet", labelled=base / "index_train.parquet",
            index=base / "train_mined.parquet", listed=base / "train_list_mined.txt",
        )  # fmt: skip
        made = ("mined.parquet", "train_mined.parquet", "train_list_mined.txt")
        disk = sum((base / name).stat().st_size for name in made) / 1e6
        return {"mined": len(mined), "disk_mb": disk}

    return work


def mining_report(base: Path, n: int) -> Work:
    """The counts of the page about a mining."""
    import pandas as pd

    from hgnetv2_pipeline.mining import audit
    from hgnetv2_pipeline.mining.candidates import Candidates

    def work() -> dict[str, Any]:
        dedup = pd.read_parquet(base / "dedup.parquet")
        chosen, mined = Candidates(base / "scores", dedup), base / "mined.parquet"
        table = audit.count_classes(chosen, mined, classes=[str(i) for i in range(1000)])
        counts = audit.audit(chosen, mined, table=table)
        assert counts["pool_listed"] == n
        return {}

    return work


def duplicates(base: Path, n: int) -> Work:
    """Bytes and hashes against 122 guarded pictures of 64 views, bytes against the labelled."""
    from hgnetv2_pipeline.data.index import read_index
    from hgnetv2_pipeline.data.scan import folders
    from hgnetv2_pipeline.mining.duplicates.find import DuplicateSearch, deduplicate

    val = folders.scan_unlabelled(base / "val", threads=1).samples

    def work() -> dict[str, Any]:
        found = deduplicate(
            base / "scores",
            {"val": (val, base / "val"), "train": (read_index(base / "index_train.parquet"), base)},
            pool=(base / "index_pool.parquet", base),
            search=DuplicateSearch(auto_max=4, verify_max=4),
        )
        return {"entries": len(val) * VIEWS, "removed": int((found["decision"] == "remove").sum())}

    return work


def guarded(base: Path, n: int) -> Work:
    """4,096 pool images against ``n`` guarded pictures of 64 views."""
    from hgnetv2_pipeline.mining.duplicates.neighbours import HashIndex

    rng = np.random.default_rng(0)
    pool = HashIndex(rng.integers(0, 2**64, (n, VIEWS), dtype=np.uint64))
    queries = rng.integers(0, 2**64, 4096, dtype=np.uint64)

    def work() -> dict[str, Any]:
        pool.search(queries, 8)
        return {}

    return work


# Stored logits ------------------------------------------------------------------------------------


def stored_logits(base: Path, n: int) -> Work:
    """One view of ten classes written, sealed, found again and read once in a drawn order."""
    from hgnetv2_pipeline.data.index import read_index
    from hgnetv2_pipeline.data.sample_rng import epoch_order
    from hgnetv2_pipeline.input.teacher_logits import (
        TeacherLogits,
        record_dtype,
        seal_store,
        shard_identity,
        write_records,
    )
    from hgnetv2_pipeline.shards import shard_slices

    made = {"views": 1, "seed": 0, "topk": 10, "classes": {"number": 1000}}

    def work() -> dict[str, Any]:
        samples, out = read_index(base / "web.parquet"), base / "teacher_logits"
        for number, part in shard_slices(n, 16_384).items():
            records = np.zeros((1, part.stop - part.start), record_dtype(1000, 10))
            write_records(out, number, records, shard_identity(made, samples.iloc[part]), [])
        seal_store(out, samples, made, 16_384)
        store = TeacherLogits(out)
        rows = store.rows_of(samples)
        for row in rows[epoch_order(n, 0, 0)[:100_000]].tolist():
            store.read(row, 0)
        disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        return {"disk_mb": disk / 1e6}

    return work


# Pages --------------------------------------------------------------------------------------------


def write_labelled(base: Path, n: int, classes: int) -> None:
    """Indexes of train and val with ``n`` rows, a tenth of them val."""
    import pyarrow as pa

    from hgnetv2_pipeline.data.index import arrow_schema, index_writer

    keys = [f"images/{i:09d}.jpg" for i in range(n)]
    table = pa.table(
        {
            "key": keys, "path": keys, "offset": np.full(n, -1), "length": np.full(n, 90_000),
            "label": np.arange(n) % classes, "width": np.full(n, 500, np.int32),
            "height": np.full(n, 375, np.int32), "format": ["JPEG"] * n,
            "bytes_sha256": [sha_of(key) for key in keys],
        },
        schema=arrow_schema(),
    )  # fmt: skip
    for name, part in (("train", table[n // 10 :]), ("val", table[: n // 10])):
        with index_writer(base / f"index_{name}.parquet") as add:
            add(part)


def make_dataset(base: Path, n: int, classes: int = 1000) -> None:
    """The folder of lists that ingestion leaves: a pool, and a tenth as many labelled images."""
    from hgnetv2_pipeline.data.classmap import write_class_map

    write_pool_index(base / "index_pool.parquet", n)
    write_labelled(base, max(n // 10, 2 * min(classes, n)), classes)
    write_class_map(base / "class_map.txt", [f"class {i}" for i in range(classes)])
    (base / "quarantine.csv").write_text("key,reason,line,set,fate\n")
    (base / "leaks.csv").write_text("set,key,other_set,other_key,distance,same_bytes\n")


def make_dataset_of_classes(base: Path, n: int) -> None:
    make_dataset(base, 100_000, n)


def dataset_page(base: Path, n: int) -> Work:
    """Summary, sheet (no file is there: crossed out) and page of a dataset."""
    from types import SimpleNamespace

    from hgnetv2_pipeline.project.ingestion.pages import write_report
    from hgnetv2_pipeline.project.lists import Lists

    out = base / "page"
    out.mkdir()
    identity: Any = SimpleNamespace(dataset="web", run_command="kedro run")

    def work() -> dict[str, Any]:
        write_report(out, identity, Lists(base), base)
        return {"disk_mb": (out / "dataset_report.html").stat().st_size / 1e6}

    return work


# Classes ------------------------------------------------------------------------------------------


def head(base: Path, n: int) -> Work:
    """Two training steps of B0 with ``n`` classes, 16 images of 64 pixels, plain SGD."""
    import torch

    from hgnetv2_pipeline.models.create import create_model

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = create_model("b0", num_classes=n).train()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images, labels = torch.randn(16, 3, 64, 64), torch.arange(16) % n

    def work() -> dict[str, Any]:
        for _ in range(2):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return {"parameters": sum(one.numel() for one in model.parameters())}

    return work


def class_metrics(base: Path, n: int) -> Work:
    """All metrics of 2,000 answers."""
    from hgnetv2_pipeline.evaluation.metrics import summarise

    rng = np.random.default_rng(0)
    labels = rng.integers(0, n, 2_000)
    logits = rng.standard_normal((2_000, n), dtype=np.float32)
    logits[np.arange(2_000), labels] += 3

    def work() -> dict[str, Any]:
        return {"top1": summarise(logits, labels, [str(i) for i in range(n)])["top1_count"]}

    return work


# Decoding, workers, batch -------------------------------------------------------------------------


def make_jpegs(base: Path, n: int) -> None:
    """JPEG files of 160 x 120 pixels: tiles of scikit-learn's photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    for i in range(n):
        top, left = rng.integers(0, 427 - 120), rng.integers(0, 640 - 160)
        file = base / "pool" / name_of(i)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photographs[i % 2][top : top + 120, left : left + 160]).save(file)


def make_few_jpegs(base: Path, n: int) -> None:
    make_jpegs(base, 1_000)


def decoded_scan(base: Path, n: int) -> Work:
    """The scan as it is: every file decoded and described."""
    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.data.scan.folders import scan_unlabelled

    def work() -> dict[str, Any]:
        write_index(base / "index.parquet", scan_unlabelled(base / "pool", threads=1).samples)
        return {}

    return work


def loader(base: Path, batch: int, workers: int) -> Work:
    """2,048 training views of 224 pixels from ready decoded-once files, by RandAugment."""
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
    from hgnetv2_pipeline.input.augment import make_augment
    from hgnetv2_pipeline.input.loader import train_batches

    samples = scan_unlabelled(base / "pool", threads=1).samples
    view = make_augment({"name": "published", "image_size": 224})

    def work() -> dict[str, Any]:
        each: list[float] = [0.0]
        for made in train_batches(
            samples, base / "pool", transform=view, seed=0, batch_size=batch, start_step=0,
            steps=2_048 // batch, workers=workers, ledger=Ledger(1_000, 0.0),
        ):  # fmt: skip
            assert made.n_real == batch
            each = [own_mb(child) for child in children()] or each
        return {"worker_mb": max(each)}

    return work


def workers(base: Path, n: int) -> Work:
    return loader(base, 64, n)


def batch(base: Path, n: int) -> Work:
    return loader(base, n, 1)


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def own_mb(pid: int) -> float:
    """Memory that no other process shares, in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(row.split()[1]) for row in text.splitlines() if "Private_" in row) * 1024 / 1e6


def make_teacher(base: Path, n: int) -> None:
    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
    from hgnetv2_pipeline.models.create import create_model
    from hgnetv2_pipeline.weights.load import save_weights

    make_jpegs(base, 1_000)
    write_index(base / "web.parquet", scan_unlabelled(base / "pool", threads=1).samples)
    save_weights(base / "teacher.safetensors", create_model("b0", 10), {"variant": "b0"})


def processes(base: Path, n: int) -> Work:
    """1,000 images scored by B0 at 64 pixels in ``n`` processes, eight shards."""
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.mining.score_processes import score_in_processes
    from hgnetv2_pipeline.mining.score_spec import ScoreSpec

    spec = ScoreSpec(
        index=base / "web.parquet", root=base / "pool", prefix="",
        teachers=["teacher.safetensors"], num_classes=10, out=base / "scores", weights_root=base,
        preprocess=Preprocess(resize_short=64, crop=64).to_dict(), shard_rows=125, batch_size=25,
        workers=0, features=False, dtype="float32", device="cpu", max_bad=0.0,
    )  # fmt: skip

    def work() -> dict[str, Any]:
        score_in_processes(spec, n, base / "work")
        return {}

    return work


STAGES = {
    "walk": Stage(walk, make_walked, sizes=(*IMAGES, 10_000_250)),
    "decoded scan": Stage(decoded_scan, make_jpegs, sizes=FEW),
    "index": Stage(index),
    "pool lists": Stage(pool_lists, make_index),
    "lists": Stage(lists, make_list),
    "training order": Stage(training_order, make_index),
    "near copies": Stage(near_copies),
    "score shards": Stage(score_shards, make_index, sizes=IMAGES),
    "duplicates": Stage(duplicates, make_scored_pool),
    "selection": Stage(selection, make_scored_pool),
    "stored logits": Stage(stored_logits, make_index),
    "dataset page": Stage(dataset_page, make_dataset),
    "mining report": Stage(mining_report, make_scored_pool),
    "guarded pictures": Stage(guarded, of="guarded pictures", sizes=(100, 1_000, 10_000, 50_000)),
    "classes: folders": Stage(list_classes, make_class_folders, "classes", CLASSES),
    "classes: head": Stage(head, None, "classes", CLASSES),
    "classes: metrics": Stage(class_metrics, None, "classes", CLASSES),
    "classes: selection": Stage(selection, make_scored_classes, "classes", CLASSES),
    "classes: dataset page": Stage(dataset_page, make_dataset_of_classes, "classes", CLASSES),
    "loader workers": Stage(workers, make_few_jpegs, "workers", (0, 1, 2)),
    "loader batch": Stage(batch, make_few_jpegs, "images per batch", (16, 64, 256)),
    "scoring processes": Stage(processes, make_teacher, "processes", (1, 2)),
}
