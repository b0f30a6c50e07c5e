"""Work and memory that grow with images or classes as they should, counted and never timed."""

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from hgnetv2_pipeline.data import index, perceptual
from hgnetv2_pipeline.data.lists import read
from hgnetv2_pipeline.data.lists.files import Fence
from hgnetv2_pipeline.data.lists.syntax import why_unlistable
from hgnetv2_pipeline.data.quarantine import quarantine_frame
from hgnetv2_pipeline.data.report import summarise_sets
from hgnetv2_pipeline.data.scan.folders import Scan, with_enough
from hgnetv2_pipeline.data.scan.listing import Listing
from hgnetv2_pipeline.data.scan.walk import UnopenedFile, Walk
from hgnetv2_pipeline.evaluation.metrics import summarise
from hgnetv2_pipeline.project.ingestion.pool import merge_scans


def rows(count):
    for i in range(count):
        key = f"{i:09d}.jpg"
        yield key, key, -1, 9, None, 4, 4, "JPEG", f"{i:064x}"


def test_near_pairs_compare_each_hash_with_few_others_however_many_there_are(monkeypatch):
    compared = []
    count = np.bitwise_count
    monkeypatch.setattr(
        perceptual.np, "bitwise_count", lambda bits: compared.append(len(bits)) or count(bits)
    )
    hashes = np.random.default_rng(0).integers(0, 2**64, 1 << 18, dtype=np.uint64)
    hashes[1] = hashes[0] ^ np.uint64(0b1111)
    first, second = perceptual.near_pairs(hashes, 4)
    assert (0, 1) in zip(first.tolist(), second.tolist(), strict=True)
    # By single bands it would be a hundred times as many.
    assert sum(compared) < 2 * len(hashes)


class CountedName(str):
    looked_at = 0

    def __hash__(self):
        CountedName.looked_at += 1
        return super().__hash__()

    def __eq__(self, other):
        CountedName.looked_at += 1
        return super().__eq__(other)


def test_leaving_out_small_classes_looks_at_each_name_a_few_times(tmp_path):
    classes = [CountedName(f"class {number}") for number in range(400)]
    found = [
        UnopenedFile(f"{label}/{i}.jpg", f"{label}/{i}.jpg", -1, -1, label)
        for label in range(len(classes))
        for i in range(1 + label % 2)
    ]
    samples = pd.DataFrame({"key": [one.key for one in found], "label": [o.label for o in found]})
    nothing = quarantine_frame([])
    scan = Scan(samples.astype({"label": "Int64"}), classes, nothing, nothing)
    CountedName.looked_at = 0
    kept = with_enough(scan, Listing(tmp_path, found, Walk(Fence(tmp_path)), classes), 2, False)
    assert kept.classes == classes[1::2]
    assert kept.samples["label"].tolist() == [label for label in range(200) for _ in range(2)]
    assert CountedName.looked_at < 20 * len(classes)


def test_metrics_hold_no_table_of_classes_by_classes():
    count = 3_000
    labels = np.arange(8)
    logits = np.zeros((8, count), np.float32)
    logits[np.arange(8), [0, 1, 2, 9, 9, 9, 5, 5]] = 1
    tracemalloc.start()
    try:
        found = summarise(logits, labels, [str(number) for number in range(count)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found["most_confused"][:2] == [
        {"true": "3", "predicted": "9", "count": 1},
        {"true": "4", "predicted": "9", "count": 1},
    ]
    assert found["top1_count"] == 3 and found["per_class"][5]["predicted"] == 2
    assert peak < count * count  # a byte per cell; the table had eight


def test_rows_of_a_scan_are_packed_as_they_come(monkeypatch):
    monkeypatch.setattr(index, "_ROW_GROUP", 1_000)
    index.samples_frame(rows(10))  # imports
    tracemalloc.start()
    try:
        frame = index.samples_frame(rows(20_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(frame) == 20_000
    # As Python objects a row takes 500 bytes and more.
    assert peak < 20_000 * 200


def test_frames_that_come_sorted_are_not_sorted_again(monkeypatch, tmp_path):
    path = index.write_index(tmp_path / "index.parquet", index.samples_frame(rows(100)))
    monkeypatch.delattr(pd.DataFrame, "sort_values")
    samples = index.read_index(path)
    nothing = quarantine_frame([])
    again = index.write_index(
        tmp_path / "again.parquet", merge_scans([Scan(samples, None, nothing, nothing)]).samples
    )
    assert again.read_bytes() == path.read_bytes()


def test_an_index_is_written_a_stretch_at_a_time(monkeypatch, tmp_path):
    samples = index.samples_frame(rows(5_000))
    monkeypatch.setattr(index, "_ROW_GROUP", 100)
    held, write_table = [], pq.ParquetWriter.write_table

    def noted(self, table):
        held.append(pa.total_allocated_bytes() - before)
        write_table(self, table)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", noted)
    before = pa.total_allocated_bytes()
    path = index.write_index(tmp_path / "index.parquet", samples)
    assert len(held) == 50
    assert max(held) < 5_000 * 100 / 2  # the texts of a row are 100 bytes
    assert index.read_index(path).equals(samples)


@pytest.mark.parametrize("labelled", [True, False])
def test_lists_are_written_a_stretch_at_a_time(monkeypatch, tmp_path, labelled):
    monkeypatch.setattr(read, "_ROWS", 7)
    names = [f"{i} a.jpg" for i in range(50)] + ["#b.jpg"]
    labels = pd.array([i if labelled else None for i in range(51)], "Int64")
    frame = pd.DataFrame({"path": names, "label": labels})
    path = read.write_list(tmp_path / "list.txt", frame)
    ends = [f" {i}" if labelled else "" for i in range(51)]
    names[-1] = "./#b.jpg"
    assert path.read_text().splitlines() == [a + b for a, b in zip(names, ends, strict=True)]


def test_every_name_that_needs_a_second_look_before_it_is_listed_gets_one():
    letters = itertools.chain(*(itertools.product("a /.#3\\|,\té", repeat=n) for n in range(1, 5)))
    names = ["".join(some) for some in letters]
    odd = pc.match_substring_regex(pa.array(names), read._ODD).to_pylist()
    plain = [name for name, second in zip(names, odd, strict=True) if not second]
    assert "a" in plain and "a a" in plain
    assert not [name for name in plain if name.startswith("#") or why_unlistable(name)]


def test_copies_between_sets_are_merged_without_the_images_that_have_none(monkeypatch):
    pool = index.samples_frame(rows(1_000))
    train = index.samples_frame(
        (f"t{i}", f"t{i}", -1, 9, 0, 4, 4, "JPEG", f"{i * 100:064x}") for i in range(20)
    )
    merged, merge = [], pd.merge
    monkeypatch.setattr(
        pd, "merge", lambda a, b, **how: merged.append(len(a) + len(b)) or merge(a, b, **how)
    )
    (shared,) = summarise_sets({"train": train, "pool": pool}, ["a"])["shared"]
    assert shared["n_images"] == 10 and shared["examples"][1] == ["t1", "000000100.jpg"]
    assert merged == [20]
