"""The store of shards: finished or not there, whoever dies when; no earlier list leaves any."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.ownership import mark
from hgnetv2_pipeline.shards import ShardStore, shard_slices


def store_in(folder: Path, sha256: str | None = "hash") -> ShardStore:
    def describes(manifest: Mapping[str, Any], size: int) -> bool:
        return bool(manifest["bytes"] == size)

    return ShardStore(folder, ".bin", "made_from", sha256, describes)


def write(store: ShardStore, number: int, content: bytes, identity: str = "who") -> dict[str, Any]:
    def save(path: Path) -> dict[str, Any]:
        path.write_bytes(content)
        return {"bytes": len(content)}

    return store.write(number, identity, save)


def test_a_shard_is_its_data_and_a_manifest_beside_it(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.finished(3, "who") is None
    manifest = write(store, 3, b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shard=00003.bin",
        "shard=00003.json",
    ]
    assert store.finished(3, "who") == manifest == json.loads(store.manifest_path(3).read_text())
    assert manifest == {"bytes": 4, "made_from": "who", "hash": sha256_file(store.path(3))}
    assert store.finished(3, "another") is None
    assert store.all_finished({2: "who", 3: "who"}) == {3: manifest}
    assert "hash" not in write(store_in(tmp_path, None), 4, b"more")


@pytest.mark.parametrize("hashed", [True, False])
def test_data_that_is_not_what_the_manifest_says_is_made_again(
    tmp_path: Path, hashed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_in(tmp_path, "hash" if hashed else None)
    write(store, 0, b"data")
    store.path(0).write_bytes(b"Data")
    # Where sizes alone are compared, another byte is not seen.
    assert (store.finished(0, "who") is None) is hashed
    with caplog.at_level(logging.WARNING):
        for content in (b"cut", b""):
            store.path(0).write_bytes(content)
            assert store.finished(0, "who") is None
        store.path(0).unlink()
        assert store.finished(0, "who") is None
    assert caplog.text.count("shard=00000.bin is missing or damaged") == 3 + hashed


def test_no_manifest_speaks_for_data_it_was_not_written_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path, None)
    write(store, 0, b"data")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hgnetv2_pipeline.shards.write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        write(store, 0, b"Data", "another")
    # Of the same size: the first manifest would agree with it.
    assert store.path(0).read_bytes() == b"Data"
    assert store.finished(0, "who") is None and store.finished(0, "another") is None


def test_a_shard_that_cannot_be_written_leaves_the_earlier_one_finished(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    write(store, 0, b"data")

    def save(path: Path) -> dict[str, Any]:
        path.write_bytes(b"half")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        store.write(0, "another", save)
    assert store.finished(0, "who") is not None
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("alone", [True, False])
def test_an_earlier_longer_list_leaves_nothing_and_others_files_stay(
    tmp_path: Path, alone: bool
) -> None:
    store = store_in(tmp_path)
    for number in (0, 1, 2, 100_000):
        write(store, number, b"data")
    kept = ["index.parquet", "shard=00002.parquet", "shard=2.bin"]
    # Of a living process: it goes only where nobody else may write.
    writing = f".shard=00001.bin.{mark()}.tmp"
    for name in (*kept, writing):
        (tmp_path / name).touch()
    store.sweep(2, alone=alone)
    finished = [f"shard=0000{n}.{kind}" for n in (0, 1) for kind in ("bin", "json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*kept, *finished, *([] if alone else [writing])]
    )


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 8, 23])
def test_slices_cover_every_row_once_whatever_the_number_of_processes(rows: int) -> None:
    whole = shard_slices(rows, 4)
    assert [row for part in whole.values() for row in range(rows)[part]] == list(range(rows))
    assert list(whole) == list(range(len(whole))) and len(whole) == -(-rows // 4)
    for world_size in (2, 3, 7):
        shares = [shard_slices(rows, 4, rank, world_size) for rank in range(world_size)]
        assert sum(len(share) for share in shares) == len(whole)
        assert {n: part for share in shares for n, part in share.items()} == whole
