"""A second copy of training images, large ones made smaller once, so that decoding costs less.

Opt-in and for training alone: a picture whose short side is longer than the cache's is resized
(Pillow, bicubic) and stored as JPEG of quality 95 without colour subsampling, which costs a
generation of compression and gives other pixels than the original; any other file is stored as it
is. Files are one behind the other in shards of a fixed number of images, with an index like that of
a tar: a frame of samples that points into the shards, with keys and labels unchanged. So the
random numbers of an image, which are keyed by its name, stay the same.
"""

from __future__ import annotations

import io
import itertools
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import PIL
from PIL import Image

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.data.decode import DECODING, Decoding, decode_image
from hgnetv2_pipeline.data.index import (
    decoding_of,
    images_hash,
    read_bytes,
    read_index,
    sorted_samples,
    write_index,
)
from hgnetv2_pipeline.durable import sha256_json
from hgnetv2_pipeline.errors import DataError, DiskFullError, ParameterError
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.shards import ShardStore, shard_slices

_log = logging.getLogger(__name__)
QUALITY = 95
INDEX = "index.parquet"
_SHARD_IMAGES = 4096
_CHECKED = 64


def resized_copy(
    samples: pd.DataFrame,
    root: Path,
    folder: Path,
    *,
    short_side: int,
    shard_images: int = _SHARD_IMAGES,
    threads: int = 0,
) -> Path:
    """Make or complete the copy of ``samples`` (paths below ``root``) in ``folder``.

    A shard that is finished and was made from the same images is kept: a stopped run goes on where
    it was, and a changed image remakes its own shard. Files that cannot be decoded are copied as
    they are, those that cannot be read are empty: the loader names them and leaves them out.

    Args:
        short_side: pixels; images with a longer short side are resized to it.
        threads: that decode; 0 = one per core.

    Returns:
        ``folder/index.parquet``, a frame of samples whose paths are relative to ``folder``.

    Raises:
        ParameterError: ``short_side`` is below 32.
        DataError: there are no samples.
        DiskFullError: the projected size is more than what is free.
    """
    if short_side < 32:
        raise ParameterError(f"a resized copy with short side {short_side}: give 32 or more")
    if not len(samples):
        raise DataError("0 samples; there is nothing to copy")
    rows = sorted_samples(samples)
    shards = copy_shards(folder)
    slices = shard_slices(len(rows), shard_images)
    wanted = {n: _identity(rows.iloc[part], short_side) for n, part in slices.items()}
    done = shards.all_finished(wanted)
    if len(done) == len(slices) and _is_index_of(folder, rows, done):
        return folder / INDEX
    # Runs side by side need the same copy: one makes it, the others wait.
    with ownership.sole(folder, wait=True):
        folder.mkdir(parents=True, exist_ok=True)
        shards.sweep(len(slices), alone=True)
        done = shards.all_finished(wanted)
        todo = {number: rows.iloc[part] for number, part in slices.items() if number not in done}
        if todo:
            left = pd.concat(list(todo.values()))
            copy = _Copier(root, short_side, decoding_of(rows))
            _check_space(left, copy, folder)
            with (
                ThreadPoolExecutor(threads or available_cpus()) as pool,
                Progress(len(left), f"resized copy {short_side}", "img") as progress,
            ):
                for number, part in todo.items():
                    files = copy.files(part, pool, progress)
                    done[number] = write_files(folder, number, wanted[number], files)
        return write_index(folder / INDEX, _index(folder, rows, done))


def copy_shards(folder: Path) -> ShardStore:
    """The shards of the copy in ``folder``: files one behind the other.

    Their sizes are compared, not their hashes: to read hundreds of gigabytes at every start would
    cost more than it protects, and a damaged picture in them is named by the loader.
    """
    return ShardStore(folder, ".bin", "identity", None, _is_of_size)


def _is_of_size(manifest: Mapping[str, Any], size: int) -> bool:
    return len(manifest["offsets"]) > 0 and bool(size == sum(manifest["lengths"]))


def write_files(folder: Path, number: int, identity: str, files: Iterator[bytes]) -> dict[str, Any]:
    """Write the contents of ``files`` as shard ``number``; returns its manifest."""

    def save(path: Path) -> dict[str, Any]:
        lengths = []
        with path.open("wb") as file:
            for content in files:
                file.write(content)
                lengths.append(len(content))
        return {"offsets": [0, *itertools.accumulate(lengths)][:-1], "lengths": lengths}

    return copy_shards(folder).write(number, identity, save)


def _is_index_of(folder: Path, rows: pd.DataFrame, done: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether the index is that of these finished shards and labels."""
    try:
        found = read_index(folder / INDEX)
    except (DataError, OSError):
        return False
    return found.equals(_index(folder, rows, done)[found.columns])


def _index(folder: Path, rows: pd.DataFrame, done: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    shards = copy_shards(folder)
    manifests = [done[number] for number in sorted(done)]
    return rows.assign(
        path=[shards.path(n).name for n in sorted(done) for _ in done[n]["lengths"]],
        offset=[offset for manifest in manifests for offset in manifest["offsets"]],
        length=[length for manifest in manifests for length in manifest["lengths"]],
        bytes_sha256="",
    ).reset_index(drop=True)


def _identity(rows: pd.DataFrame, short_side: int) -> str:
    """What a shard is made from and how: other images, sizes or codecs give another."""
    return sha256_json([images_hash(rows), short_side, QUALITY, PIL.__version__])


@dataclass(frozen=True)
class _Copier:
    """Makes the files of a copy from images below ``root``."""

    root: Path
    short_side: int
    decoding: Decoding

    def file(self, place: tuple[str, int, int]) -> bytes:
        """What is stored of the image at (path, offset, length)."""
        try:
            content = read_bytes(place, self.root)
        except DataError:
            return b""  # unreadable here as there: the loader names it and leaves it out
        return resized_file(content, self.short_side, self.decoding)

    def files(
        self, rows: pd.DataFrame, pool: ThreadPoolExecutor, progress: Progress
    ) -> Iterator[bytes]:
        """The files of these images in order; few of them are held at a time."""
        places = _places(rows)
        ahead = 256
        for start in range(0, len(places), ahead):
            for content in pool.map(self.file, places[start : start + ahead]):
                yield content
                progress.advance(1)


def _places(rows: pd.DataFrame) -> list[tuple[str, int, int]]:
    return list(rows[["path", "offset", "length"]].itertuples(index=False, name=None))


def resized_file(content: bytes, short_side: int, decoding: Decoding = DECODING) -> bytes:
    """An image file with a short side of at most ``short_side``: as it is, or a JPEG of it.

    The proportions are kept to the pixel: the long side is rounded.
    """
    try:
        image = decode_image(content, decoding)
    except DataError:
        return content
    width, height = image.size
    if min(width, height) <= short_side:
        return content
    factor = short_side / min(width, height)
    size = (max(short_side, round(width * factor)), max(short_side, round(height * factor)))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY, subsampling=0)
    # A file that gets no smaller (a large one of few bytes) is worth keeping for its pixels.
    return out.getvalue() if out.tell() < len(content) else content


def _check_space(rows: pd.DataFrame, copy: _Copier, folder: Path) -> None:
    """Project the size from a few images spread over the list."""
    checked = rows.iloc[:: max(1, len(rows) // _CHECKED)]
    sizes = [len(copy.file(place)) for place in _places(checked)]
    needed = round(sum(sizes) / len(sizes) * len(rows))
    free = shutil.disk_usage(folder).free
    _log.info(
        "resized copy of %s images in %s: about %.2f GB, %.2f GB are free",
        f"{len(rows):,}", folder, needed / 1e9, free / 1e9,
    )  # fmt: skip
    if needed > free:
        raise DiskFullError(
            f"a resized copy of {len(rows):,} images needs about {needed / 1e9:.1f} GB in "
            f"{folder}, {free / 1e9:.1f} GB are free; set input.resized: null or make room"
        )
