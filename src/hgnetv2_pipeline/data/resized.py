"""A second copy of training images, large ones made smaller once, so that decoding costs less.

Opt-in and for training alone: a picture whose short side is longer than the cache's is resized
(Pillow, bicubic) and stored as JPEG of quality 95 without colour subsampling, which costs a
generation of compression and gives other pixels than the original; any other file is stored as it
is. Files lie one behind the other in shards of a fixed number of images, with an index like that of
a tar: a frame of samples that points into the shards, with keys and labels unchanged. So the
random numbers of an image, which are keyed by its name, stay the same.
"""

from __future__ import annotations

import io
import itertools
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import PIL
from PIL import Image

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.data.decode import MAX_PIXELS, decode_image
from hgnetv2_pipeline.data.index import (
    images_hash,
    read_bytes,
    read_index,
    sorted_samples,
    write_index,
)
from hgnetv2_pipeline.durable import read_json, sha256_json, write_json, written_aside
from hgnetv2_pipeline.errors import DataError, DiskFullError, ParameterError
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.progress import Progress

_log = logging.getLogger(__name__)
QUALITY = 95
INDEX = "index.parquet"
_SHARD_IMAGES = 4096
_PROBE = 64


def resized_copy(
    samples: pd.DataFrame,
    root: Path,
    folder: Path,
    *,
    short_side: int,
    shard_images: int = _SHARD_IMAGES,
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
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
    slices = [rows.iloc[at : at + shard_images] for at in range(0, len(rows), shard_images)]
    wanted = [_identity(part, short_side) for part in slices]

    def unfinished() -> list[int]:
        return [n for n, identity in enumerate(wanted) if _finished(folder, n) != identity]

    if not unfinished() and _stands(folder, rows, len(slices)):
        return folder / INDEX
    # Runs side by side need the same copy: one makes it, the others wait.
    with ownership.sole(folder, wait=True):
        folder.mkdir(parents=True, exist_ok=True)
        ownership.sweep_temporaries(folder)
        todo = unfinished()
        if todo:
            left = pd.concat([slices[number] for number in todo])
            _check_space(left, root, folder, short_side, max_pixels)
            with (
                ThreadPoolExecutor(threads or available_cpus()) as pool,
                Progress(len(left), f"resized copy {short_side}", "img") as progress,
            ):
                for number in todo:
                    _write_shard(folder, number, slices[number], wanted[number], root, short_side,
                                 max_pixels, pool, progress)  # fmt: skip
        _drop_leftovers(folder, len(slices))
        return write_index(folder / INDEX, _index(folder, rows, len(slices)))


def _stands(folder: Path, rows: pd.DataFrame, shards: int) -> bool:
    """Whether the index is that of these finished shards and labels."""
    try:
        found = read_index(folder / INDEX)
    except (DataError, OSError):
        return False
    return found.equals(_index(folder, rows, shards)[found.columns])


def _index(folder: Path, rows: pd.DataFrame, shards: int) -> pd.DataFrame:
    places = [read_json(_manifest(folder, number)) for number in range(shards)]
    return rows.assign(
        path=[_data(folder, n).name for n, place in enumerate(places) for _ in place["lengths"]],
        offset=[offset for place in places for offset in place["offsets"]],
        length=[length for place in places for length in place["lengths"]],
        bytes_sha256="",
    ).reset_index(drop=True)


def _identity(rows: pd.DataFrame, short_side: int) -> str:
    """What a shard is made from and how: other images, sizes or codecs give another."""
    return sha256_json([images_hash(rows), short_side, QUALITY, PIL.__version__])


def _data(folder: Path, number: int) -> Path:
    return folder / f"shard={number:05d}.bin"


def _manifest(folder: Path, number: int) -> Path:
    return folder / f"shard={number:05d}.json"


def _finished(folder: Path, number: int) -> str | None:
    """The identity of a shard that is whole, or None. The manifest is written last.

    Whole means of the right size: hashing a copy of hundreds of gigabytes at every start would
    cost more than it protects, and a damaged picture in it is named by the loader.
    """
    data, manifest = _data(folder, number), _manifest(folder, number)
    if not data.is_file() or not manifest.is_file():
        return None
    try:
        known = read_json(manifest)
        identity, whole = str(known["identity"]), len(known["offsets"]) > 0
        whole = whole and data.stat().st_size == sum(known["lengths"])
    except (ValueError, KeyError, TypeError):
        _log.warning("%s is damaged; its shard is made again", manifest)
        return None
    return identity if whole else None


def _write_shard(
    folder: Path,
    number: int,
    rows: pd.DataFrame,
    identity: str,
    root: Path,
    short_side: int,
    max_pixels: int,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    lengths: list[int] = []
    _manifest(folder, number).unlink(missing_ok=True)
    with written_aside(_data(folder, number)) as aside, aside.open("wb") as file:
        for content in _made(rows, root, short_side, max_pixels, pool):
            file.write(content)
            lengths.append(len(content))
            progress.advance(1)
    offsets = [0, *itertools.accumulate(lengths)][:-1]
    write_json(
        _manifest(folder, number),
        {"identity": identity, "offsets": offsets, "lengths": lengths},
    )


def _made(
    rows: pd.DataFrame, root: Path, short_side: int, max_pixels: int, pool: ThreadPoolExecutor
) -> Iterator[bytes]:
    """The files of a shard in order; few of them are held at a time."""
    places = list(rows[["path", "offset", "length"]].itertuples(index=False, name=None))
    ahead = 256
    for start in range(0, len(places), ahead):
        yield from pool.map(
            lambda place: _stored(place, root, short_side, max_pixels),
            places[start : start + ahead],
        )


def _stored(place: tuple[str, int, int], root: Path, short_side: int, max_pixels: int) -> bytes:
    try:
        content = read_bytes(place, root)
    except DataError:
        return b""  # unreadable here as there: the loader names it and leaves it out
    return resized_file(content, short_side, max_pixels)


def resized_file(content: bytes, short_side: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """An image file with a short side of at most ``short_side``: as it is, or a JPEG of it.

    The proportions are kept to the pixel: the long side is rounded.
    """
    try:
        image = decode_image(content, max_pixels)
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


def _check_space(
    rows: pd.DataFrame, root: Path, folder: Path, short_side: int, max_pixels: int
) -> None:
    """Project the size from a few images spread over the list."""
    probe = rows.iloc[:: max(1, len(rows) // _PROBE)]
    sizes = [
        len(_stored(place, root, short_side, max_pixels))
        for place in probe[["path", "offset", "length"]].itertuples(index=False, name=None)
    ]
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


def _drop_leftovers(folder: Path, shards: int) -> None:
    """Shards beyond the last one belong to a longer list of before."""
    for path in folder.glob("shard=*.*"):
        number = path.stem.partition("=")[2]
        if number.isdigit() and int(number) >= shards:
            path.unlink()
