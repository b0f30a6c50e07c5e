"""Files of 16 bits a channel: no level is lost beyond rounding, by one rule for a data set."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hgnetv2_pipeline.data import decode, index
from hgnetv2_pipeline.data.decode import DECODING, Decoding, decode_and_describe, decode_image
from hgnetv2_pipeline.data.depth import check_depth, narrow, used_depth
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.input.batches import SampleReader
from image_files import encoded, put

Deep = npt.NDArray[np.uint16]
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}


def png(levels: Deep, transparent: tuple[int, int, int] | None = None) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write in colour."""
    height, width, channels = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 16, COLOURS[channels], 0, 0, 0)
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(">3H", *transparent))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + clear
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


def tiff(levels: Deep, order: str = "<") -> bytes:
    """An uncompressed colour TIFF of 16 bits in one strip, in either order of bytes."""
    height, width, channels = levels.shape
    data = levels.astype(f"{order}u2").tobytes()
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    at = 8 + len(data)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, at), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, channels),
        (278, 4, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        short = kind == 3 and count == 1
        directory += struct.pack(f"{order}HHI", tag, kind, count) + (
            struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
        )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    where = struct.pack(f"{order}I", at + len(bits))
    return mark + where + data + bits + directory + struct.pack(f"{order}I", 0)


def noise(top: int, channels: int = 3, shape: tuple[int, int] = (9, 14)) -> Deep:
    levels = np.random.default_rng(top).integers(0, top, (*shape, channels)).astype(np.uint16)
    levels[0, 0], levels[0, 1] = 0, top - 1
    return levels


FILES = {
    "grey png": lambda levels: png(levels[..., :1]),
    "colour png": png,
    "colour tiff": tiff,
    "colour tiff of the other order": lambda levels: tiff(levels, ">"),
    "grey tiff": lambda levels: encoded(Image.fromarray(levels[..., 0]), "TIFF"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_the_upper_eight_of_the_bits_that_are_used_are_kept(kind: str, bits: int) -> None:
    levels = noise(2**bits)
    found = np.asarray(decode_image(FILES[kind](levels), Decoding(depth=bits)))
    seen = levels[..., :1] if "grey" in kind else levels
    assert np.array_equal(found, np.broadcast_to(seen >> (bits - 8), found.shape))


@pytest.mark.parametrize("kind", FILES)
def test_levels_between_two_are_scaled_and_those_beyond_are_cut_off(kind: str) -> None:
    levels = noise(5000)
    found = np.asarray(decode_image(FILES[kind](levels), Decoding(depth=(1000, 3999))))
    seen = levels[..., :1] if "grey" in kind else levels
    exact = 255 * (np.clip(seen.astype(float), 1000, 3999) - 1000) / 2999
    assert np.abs(found - exact).max() <= 0.5


@settings(max_examples=60)
@given(low=st.integers(0, 65534), span=st.integers(1, 65535), value=st.integers(0, 65535))
def test_scaling_rounds_to_the_nearest_level(low: int, span: int, value: int) -> None:
    high = min(low + span, 65535)
    found = int(narrow(np.array([value], np.uint16), (low, high))[0])
    exact = 255 * (min(max(value, low), high) - low) / (high - low)
    assert abs(found - exact) <= 0.5 + 1e-9


@pytest.mark.parametrize("kind", FILES)
def test_the_default_keeps_the_upper_bytes_and_files_of_8_bits_never_change(kind: str) -> None:
    levels = noise(2**16)
    seen = levels[..., :1] if "grey" in kind else levels
    found = np.asarray(decode_image(FILES[kind](levels)))
    assert np.array_equal(found, np.broadcast_to(seen >> 8, found.shape))
    eight = encoded(Image.fromarray(noise(256).astype(np.uint8)))
    assert decode_image(eight, Decoding(depth=12)).tobytes() == decode_image(eight).tobytes()


def test_transparency_of_deep_colours_stays_what_it_was() -> None:
    levels = noise(4096, 4)
    levels[..., 3] = np.where(np.arange(14) % 2, 65535, 0)
    white = Decoding(background=(255, 255, 255), depth=12)
    found = np.asarray(decode_image(png(levels), white))
    assert np.array_equal(found[:, 1::2], levels[:, 1::2, :3] >> 4)
    assert (found[:, ::2] == 255).all()
    named = noise(4096)
    named[2, 3] = 4000, 16, 7
    found = np.asarray(decode_image(png(named, (4000, 16, 7)), white))
    assert (found[2, 3] == 255).all() and np.array_equal(found[5], named[5] >> 4)


def test_what_a_file_says_of_its_levels() -> None:
    for kind, make in FILES.items():
        facts = decode_and_describe(make(noise(4096))).pixels
        assert facts.levels == (0, 4095) and not facts.flat and not facts.black, kind
    plain = decode_and_describe(encoded(Image.fromarray(noise(256).astype(np.uint8)))).pixels
    assert plain.levels is None and not plain.flat
    for levels, black in ((noise(1) * 0, True), (noise(1) * 0 + 7, False)):
        for kind, make in FILES.items():
            facts = decode_and_describe(make(levels)).pixels
            assert (facts.flat, facts.black) == (True, black), kind
        facts = decode_and_describe(encoded(Image.fromarray(levels.astype(np.uint8)))).pixels
        assert (facts.flat, facts.black) == (True, black)


def test_a_scan_counts_what_is_deep_flat_and_black_and_hashes_what_is_to_be_seen(
    tmp_path: Path,
) -> None:
    dark = {f"a/{n}.png": png(noise(200 + n, 1, (40, 40))) for n in range(3)}
    others = {"b/0.png": encoded(Image.new("RGB", (9, 9))), "b/1.png": png(noise(1, 1) * 0 + 999)}
    scan = scan_folder_tree(put(tmp_path, dark | others), phash=True)
    assert (scan.deep, scan.levels, scan.flat, scan.black) == (4, (0, 999), 2, 1)
    assert scan.phash is not None
    assert scan.phash[list(dark)].nunique() == 3, "not three times the hash of a black picture"


@pytest.mark.parametrize(
    ("highest", "depth"), [(0, 16), (255, 8), (256, 9), (4095, 12), (4096, 13), (65535, 16)]
)
def test_the_bits_that_levels_need(highest: int, depth: int) -> None:
    assert used_depth(highest) == depth


@pytest.mark.parametrize("value", [7, 17, True, 12.0, "12", [5], [5, 5], [9, 4], [0, 65536], None])
def test_a_depth_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises(ParameterError, match=r"bits from 8 to 16.*data\.depth"):
        check_depth(value, "data.depth")


@pytest.mark.parametrize("background", [None, (255, 255, 255)])
@pytest.mark.parametrize("depth", [16, 12, (100, 4000)])
def test_an_index_says_how_its_images_are_decoded(
    tmp_path: Path, background: Any, depth: Any
) -> None:
    root = put(tmp_path, {f"{n}/x.png": png(noise(4096, 1)) for n in "ab"})
    samples = scan_folder_tree(root).samples
    decoding = Decoding(background=background, depth=depth)
    path = index.write_index(tmp_path / "i.parquet", index.with_decoding(samples, decoding))
    again = index.read_index(path)
    assert index.decoding_in(path) == index.decoding_of(again) == decoding
    assert ("background" in again) == (decoding != DECODING), "older indexes stay what they are"
    assert (index.images_hash(again) == index.images_hash(samples)) == (decoding == DECODING)
    seen = SampleReader(again, root).image(0).pixels()
    assert np.array_equal(seen, np.asarray(decode_image(root / "a/x.png", decoding)))
    assert np.array_equal(seen, np.asarray(index.read_image(again.iloc[0], root)))


@pytest.mark.parametrize(
    "said",
    ["", "depth=", "depth=7", "depth=9-5", "depth=12 #ffffff", "#fffff", "12", "depth=99999"],
)
def test_a_damaged_column_is_named(tmp_path: Path, said: str) -> None:
    root = put(tmp_path, {f"{n}/x.png": png(noise(4096, 1)) for n in "ab"})
    samples = scan_folder_tree(root).samples.assign(background=said)
    with pytest.raises(DataError, match="depth=BITS is needed"):
        index.decoding_of(samples)


def test_one_frame_has_one_depth(tmp_path: Path) -> None:
    root = put(tmp_path, {f"{n}/x.png": png(noise(4096, 1)) for n in "ab"})
    samples = scan_folder_tree(root).samples
    mixed = [index.with_decoding(samples[at : at + 1], Decoding(depth=12 + at)) for at in (0, 1)]
    with pytest.raises(DataError, match=r"data\.depth"):
        index.decoding_of(pd.concat(mixed))


def test_a_models_preprocessing_carries_the_depth() -> None:
    levels = noise(4096, 1, (40, 40))
    how = Preprocess(32, 32, depth=12)
    assert Preprocess.from_dict(json.loads(json.dumps(how.to_dict()))) == how
    assert "depth" not in Preprocess().to_dict()
    assert Preprocess.from_dict({"depth": [1, 500]}).depth == (1, 500)
    grey = Image.fromarray((levels[..., 0] >> 4).astype(np.uint8))
    assert np.array_equal(how.image(png(levels)), Preprocess(32, 32).image(encoded(grey)))
    opened = Image.open(io.BytesIO(png(levels)))
    assert np.array_equal(how.image(opened), how.image(png(levels)))


def test_a_nearly_black_file_is_said_where_no_depth_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    decode._warn_once.cache_clear()
    dark, bright = png(noise(4096, 1, (40, 40))), png(noise(60000, 1, (40, 40)))
    Preprocess(32, 32, depth=12).image(dark)
    Preprocess(32, 32).image(bright)
    decode_and_describe(dark)
    assert not caplog.records
    for _ in range(2):
        Preprocess(32, 32).image(dark)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "nearly black" in said and "data.depth" in said


def test_a_damaged_deep_file_is_named() -> None:
    whole = png(noise(4096))
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_and_describe(whole[:60] + b"\0" * 20 + whole[80:])
