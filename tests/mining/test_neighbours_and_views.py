"""The hash index against plain loops, and what the views must catch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from hgnetv2_pipeline.data.perceptual import phash64
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.mining.duplicates.neighbours import HashIndex, expected_by_chance, hamming
from hgnetv2_pipeline.mining.duplicates.views import VIEW_COUNT, view_hashes, view_matrix


def picture(seed: int, side: int = 96) -> np.ndarray:
    """A smooth random picture with detail, uint8."""
    rng = np.random.default_rng(seed)
    out = np.zeros((side, side))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        out += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) / cells**0.5
    out = (out - out.min()) / (out.max() - out.min())
    return (out * 255).astype(np.uint8)


@pytest.mark.parametrize("reach", [0, 4, 12])
@pytest.mark.parametrize("most", [1, 3])
def test_the_search_equals_plain_loops(reach: int, most: int) -> None:
    rng = np.random.default_rng(reach)
    index = rng.integers(0, 2**64, (9_000, 2), dtype=np.uint64)
    queries = rng.integers(0, 2**64, 40, dtype=np.uint64)
    for place in range(30):  # neighbours at known distances, several a query
        for copy in range(3):
            bits = rng.choice(64, (place + copy) % 14, replace=False)
            flipped = int(queries[place]) ^ sum(1 << int(bit) for bit in bits)
            index[rng.integers(9_000), rng.integers(2)] = flipped
    found = HashIndex(index).search(queries, reach, most)
    expected = []
    for number, query in enumerate(queries):
        best = {}
        for entry in range(index.size):
            apart = int(index.flat[entry] ^ query).bit_count()
            if apart <= reach and apart < best.get(entry // 2, (99,))[0]:
                best[entry // 2] = (apart, entry // 2, entry % 2)
        expected += [(number, p, v, d) for d, p, v in sorted(best.values())[:most]]
    assert expected
    got = zip(found.query, found.picture, found.view, found.distance, strict=True)
    assert [tuple(int(value) for value in row) for row in got] == expected


@pytest.mark.parametrize("reach", [0, 12])
def test_faiss_finds_the_same(reach: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(1)
    index = rng.integers(0, 2**64, (2_000, 3), dtype=np.uint64)
    queries = index[rng.integers(2_000, size=600), 1] ^ np.uint64(0b1011)
    fast = HashIndex(index)
    monkeypatch.setitem(sys.modules, "faiss", None)
    plain = HashIndex(index).search(queries, reach)
    for mine, theirs in zip(
        vars(fast.search(queries, reach)).values(), vars(plain).values(), strict=True
    ):
        assert np.array_equal(mine, theirs)


def test_the_nearest_distance_is_that_of_the_search() -> None:
    rng = np.random.default_rng(2)
    index = HashIndex(rng.integers(0, 2**64, (5_000, 2), dtype=np.uint64))
    queries = rng.integers(0, 2**64, 40, dtype=np.uint64)
    best = index.search(queries, 32, most=1)
    assert np.array_equal(best.query, np.arange(40))
    assert np.array_equal(index.nearest(queries), best.distance)


@pytest.mark.parametrize(("distance", "images"), [(4, 1.4), (6, 163), (8, 9.7e3), (10, 336e3)])
def test_unlike_images_met_by_chance(distance: int, images: float) -> None:
    assert expected_by_chance(14_200_000, 1_400_000, distance) == pytest.approx(images, rel=0.05)


def test_random_hashes_never_meet_within_four_bits() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 2**64, 50_000, dtype=np.uint64)
    index = HashIndex(rng.integers(0, 2**64, (100, VIEW_COUNT), dtype=np.uint64))
    assert len(index.search(pool, 4).query) == 0


def test_hamming_counts_differing_bits() -> None:
    first = np.array([0, 2**64 - 1, 0b1011], dtype=np.uint64)
    second = np.array([0, 0, 0b0110], dtype=np.uint64)
    assert hamming(first, second).tolist() == [0, 64, 3]


def test_the_first_two_views_are_the_picture_and_its_mirror_image() -> None:
    grey = picture(1)
    hashes = view_hashes(grey)
    assert len(hashes) == VIEW_COUNT == len(set(hashes.tolist()))
    assert int(hashes[0]) == phash64(Image.fromarray(grey))
    assert int(hashes[1]) == phash64(Image.fromarray(grey[:, ::-1].copy()))
    assert view_hashes(grey, 5).tolist() == hashes[:5].tolist()


@pytest.mark.parametrize("count", [0, 65])
def test_another_number_of_views_is_refused(count: int) -> None:
    with pytest.raises(ParameterError, match=r"1 to 64"):
        view_hashes(picture(1), count)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("edit", ["mirror", "turn", "crop", "frame"])
def test_an_edited_copy_is_nearer_to_a_view_than_to_the_plain_picture(edit: str, seed: int) -> None:
    grey = picture(seed + 10, 160)
    image = Image.fromarray(grey)
    if edit == "mirror":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif edit == "turn":
        image = image.rotate(9, Image.Resampling.BICUBIC)
    elif edit == "crop":
        image = image.crop((0, 0, 136, 136))
    else:
        framed = Image.new("L", (188, 188), 250)
        framed.paste(image, (14, 14))
        image = framed
    apart = hamming(view_hashes(grey), np.uint64(phash64(image)))
    assert apart.min() <= 10 and apart.min() < apart[0]


def test_views_come_in_mirrored_pairs() -> None:
    flip = np.array([[-1.0, 0.0, 99.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for view in range(0, VIEW_COUNT, 2):
        plain, mirrored = view_matrix(view, 100), view_matrix(view + 1, 100)
        assert np.allclose(plain @ flip, mirrored)
