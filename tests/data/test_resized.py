"""The resized copy of training images: same samples, smaller files, made once."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import pytest
from PIL import Image

from hgnetv2_pipeline.data.decode import decode_image
from hgnetv2_pipeline.data.index import read_bytes, read_index
from hgnetv2_pipeline.data.resized import resized_copy, resized_file
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.errors import DataError, DiskFullError, ParameterError

SIZES = [(90, 70), (40, 33), (33, 40), (64, 200), (120, 121), (32, 32), (51, 60)]


@pytest.fixture
def images(tmp_path: Path) -> tuple[pd.DataFrame, Path]:
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        folder = root / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        smooth = rng.integers(0, 256, (4, 4, 3), np.uint8)
        picture = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.png")
    return scan_folder_tree(root, min_per_class=1).samples, root


def made(folder: Path, images: tuple[pd.DataFrame, Path], **options: int) -> pd.DataFrame:
    options = {"short_side": 40, "shard_images": 3} | options
    return read_index(resized_copy(*images, folder, **options))


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard=*")}


def test_large_images_are_resized_and_small_ones_keep_their_bytes(
    images: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    samples, root = images
    copied = made(tmp_path / "copy", images)
    assert list(copied["key"]) == list(samples["key"])
    assert list(copied["label"]) == list(samples["label"])
    assert copied["path"].nunique() == 3
    for before, after in zip(samples.itertuples(), copied.itertuples(), strict=True):
        old, new = read_bytes(before, root), read_bytes(after, tmp_path / "copy")
        short = min(before.width, before.height)
        if short <= 40:
            assert new == old
            continue
        small = decode_image(new)
        assert min(small.size) == min(short, 40) or new == old
        factor = 40 / short
        wanted = (round(before.width * factor), round(before.height * factor))
        if new != old:
            assert small.size == wanted
            exact = decode_image(old).resize(wanted, Image.Resampling.BICUBIC)
            away = np.asarray(small).astype(int) - np.asarray(exact)
            assert np.abs(away).mean() < 3


def test_a_finished_copy_is_kept_and_a_changed_image_remakes_its_shard_alone(
    images: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    samples, root = images
    folder = tmp_path / "copy"
    first = made(folder, images)
    before = stamps(folder)
    pd.testing.assert_frame_equal(made(folder, images), first)
    assert stamps(folder) == before
    Image.new("RGB", (70, 80), (9, 9, 9)).save(root / samples["path"][0])
    changed = scan_folder_tree(root, min_per_class=1).samples
    made(folder, (changed, root))
    moved = {name for name, stamp in stamps(folder).items() if stamp != before[name]}
    assert moved == {"shard=00000.bin", "shard=00000.json"}
    assert set(stamps(folder)) == set(before)
    made(folder, (changed.iloc[:3], root))
    assert set(stamps(folder)) == {"shard=00000.bin", "shard=00000.json"}


def test_a_copy_in_the_layout_of_the_first_version_is_kept_as_it_is(
    images: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    """Written here with hashlib and json, as the version that had its own shards wrote it."""
    samples, root = images
    (tmp_path / "old").mkdir()
    for number, first in enumerate(range(0, len(samples), 3)):
        rows = samples.iloc[first : first + 3]
        names = ["key", "path", "offset", "length", "bytes_sha256"]
        lines = ["\0".join(map(str, row)) + "\n" for row in rows[names].itertuples(index=False)]
        of = [hashlib.sha256("".join(lines).encode()).hexdigest(), 40, 95, PIL.__version__]
        text = json.dumps(of, separators=(",", ":"))
        files = [resized_file((root / path).read_bytes(), 40) for path in rows["path"]]
        manifest = {
            "identity": hashlib.sha256(text.encode()).hexdigest(),
            "offsets": [sum(map(len, files[:n])) for n in range(len(files))],
            "lengths": [len(content) for content in files],
        }
        name = tmp_path / "old" / f"shard={number:05d}"
        name.with_suffix(".bin").write_bytes(b"".join(files))
        text = json.dumps(manifest, indent=2, sort_keys=True)
        name.with_suffix(".json").write_text(text + "\n")
    before = stamps(tmp_path / "old")
    copied = made(tmp_path / "old", images)
    assert stamps(tmp_path / "old") == before and len(before) == 6
    pd.testing.assert_frame_equal(copied, made(tmp_path / "new", images))
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes() == (tmp_path / "old" / path.name).read_bytes()


def test_a_torn_shard_and_another_size_are_made_again(
    images: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    first = made(folder, images)
    (folder / "shard=00001.bin").write_bytes(b"torn")
    (folder / "shard=00002.json").unlink()
    pd.testing.assert_frame_equal(made(folder, images), first)
    other = made(folder, images, short_side=32)
    assert not other["length"].equals(first["length"])


def test_threads_and_shard_sizes_do_not_change_the_files(
    images: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    one = made(tmp_path / "one", images, threads=1, shard_images=100)
    two = made(tmp_path / "two", images, threads=3, shard_images=2)
    for a, b in zip(one.itertuples(), two.itertuples(), strict=True):
        assert read_bytes(a, tmp_path / "one") == read_bytes(b, tmp_path / "two")


def test_bad_files_stay_bad_and_are_named_by_the_loader(
    images: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    samples, root = images
    (root / samples["path"][1]).write_bytes(b"<html>gone</html>")
    (root / samples["path"][2]).unlink()
    copied = made(tmp_path / "copy", images)
    for row, reason in ((1, "web page"), (2, "empty")):
        with pytest.raises(DataError, match=reason):
            decode_image(read_bytes(copied.iloc[row], tmp_path / "copy"))


def test_an_upright_copy_is_made_of_a_turned_photo() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (400, 300), (200, 30, 60)).save(out, "JPEG", quality=100, exif=exif)
    small = decode_image(resized_file(out.getvalue(), 40))
    assert small.size == (40, 53)


def test_what_cannot_be_made_is_refused(
    images: tuple[pd.DataFrame, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, root = images
    with pytest.raises(ParameterError, match="short side 8"):
        resized_copy(samples, root, tmp_path / "copy", short_side=8)
    with pytest.raises(DataError, match="0 samples"):
        resized_copy(samples.iloc[:0], root, tmp_path / "copy", short_side=40)
    import shutil

    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(DiskFullError, match="input.resized"):
        resized_copy(samples, root, tmp_path / "copy", short_side=40)
    assert not list((tmp_path / "copy").glob("shard=*.bin"))
