"""Splits: shares met, nothing on two sides, deterministic; perceptual hashes and their pairs."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from hgnetv2_pipeline.data import perceptual
from hgnetv2_pipeline.data.index import samples_frame
from hgnetv2_pipeline.data.perceptual import near_groups, near_pairs, phash64
from hgnetv2_pipeline.data.split import conflicting_copies, split_samples
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.input.balance import (
    class_weights,
    own_weights,
    positive_weights,
    sampling_weights,
)


def frame(keys, labels, digests=None) -> pd.DataFrame:
    digests = digests or [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    rows = zip(keys, labels, digests, strict=True)
    return samples_frame((k, k, -1, 9, label, 4, 4, "PNG", d) for k, label, d in rows)


def sides(parts: dict[str, pd.DataFrame]) -> dict[str, str]:
    return {key: name for name, part in parts.items() for key in part["key"]}


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=6),
    val=st.floats(0, 0.45),
    test=st.floats(0, 0.45),
    seed=st.integers(0, 5),
)
def test_class_shares_are_met_within_one_image(counts, val, test, seed):
    keys = [f"{label}/{n}" for label, count in enumerate(counts) for n in range(count)]
    samples = frame(keys, [int(key.split("/")[0]) for key in keys])
    parts = split_samples(samples, val=val, test=test, seed=seed)
    assert sorted(sides(parts)) == sorted(keys)
    for label, count in enumerate(counts):
        got = {name: int((part["label"] == label).sum()) for name, part in parts.items()}
        assert abs(got["val"] - count * val) <= 1 and abs(got["test"] - count * test) <= 1
        assert got["train"] >= 1
        if count >= 3:
            assert got["val"] >= (val > 0) and got["test"] >= (test > 0)


def test_a_split_depends_on_seed_and_keys_alone():
    keys = [f"{n % 3}/{n}" for n in range(90)]
    samples = frame(keys, [n % 3 for n in range(90)])
    one = sides(split_samples(samples, val=0.2, test=0.1, seed=1))
    shuffled = samples.sample(frac=1, random_state=3)
    assert sides(split_samples(shuffled, val=0.2, test=0.1, seed=1)) == one
    assert sides(split_samples(samples, val=0.2, test=0.1, seed=2)) != one


@settings(max_examples=40)
@given(st.lists(st.integers(0, 12), min_size=30, max_size=80), st.integers(0, 3))
def test_groups_stay_on_one_side(patients, seed):
    keys = [f"{n % 2}/patient{p:02d}_{n}.png" for n, p in enumerate(patients)]
    samples = frame(keys, [n % 2 for n in range(len(keys))])
    parts = split_samples(samples, val=0.2, test=0.2, seed=seed, group_pattern=r"patient(\d+)")
    where = sides(parts)
    assert len(where) == len(keys) and len(parts["train"]) > 0
    for patient in set(patients):
        assert len({side for key, side in where.items() if f"patient{patient:02d}" in key}) == 1


def test_many_small_groups_meet_the_shares_nearly():
    keys = [f"{p % 4}/video{p:03d}_{n}.png" for p in range(120) for n in range(1 + p % 5)]
    samples = frame(keys, [int(key[0]) for key in keys])
    parts = split_samples(samples, val=0.2, test=0.1, seed=0, group_pattern="video[0-9]+")
    for label in range(4):
        of = (samples["label"] == label).sum()
        for name, share in (("val", 0.2), ("test", 0.1)):
            assert abs((parts[name]["label"] == label).sum() - share * of) <= 1


def test_near_duplicates_and_exact_copies_stay_on_one_side():
    rng = np.random.default_rng(0)
    keys = [f"{n:03d}" for n in range(200)]
    hashes = rng.integers(0, 2**63, 200, np.uint64)
    for n in range(0, 60, 3):  # a chain of two steps of three bits
        hashes[n + 1] = hashes[n] ^ np.uint64(0b111)
        hashes[n + 2] = hashes[n + 1] ^ np.uint64(0b111 << 40)
    digests = [
        hashlib.sha256(str(n // 2 if 100 <= n < 160 else n).encode()).hexdigest()
        for n in range(200)
    ]
    samples = frame(keys, [n % 2 for n in range(200)], digests)
    series = pd.Series(hashes, index=keys)
    where = sides(split_samples(samples, val=0.3, test=0.2, seed=0, near_duplicates=series))
    for n in range(0, 60, 3):
        assert where[keys[n]] == where[keys[n + 1]] == where[keys[n + 2]]
    for n in range(100, 160, 2):
        assert where[keys[n]] == where[keys[n + 1]]
    without = sides(split_samples(samples, val=0.3, test=0.2, seed=0))
    assert any(without[keys[n]] != without[keys[n + 2]] for n in range(0, 60, 3))
    with pytest.raises(ParameterError, match="no hash for"):
        split_samples(samples, val=0.3, test=0, seed=0, near_duplicates=series.iloc[:5])


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=30, max_size=70),
    shares=st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.0, 0.15, 0.3])),
    seed=st.integers(0, 99),
)
def test_no_group_copy_or_near_duplicate_has_two_sides_and_shares_are_met(sizes, shares, seed):
    rng = np.random.default_rng(seed)
    keys, labels, digests, codes, told = [], [], [], [], []
    for number, size in enumerate(sizes):
        kind = ("patient", "copies", "near")[number % 3]
        code = int(rng.integers(0, 2**63))
        for n in range(size):
            # A group is told by its name, by its bytes or by its looks, never by two of them.
            name = f"patient{number}" if kind == "patient" else f"alone{number}x{n}"
            keys.append(f"{number % 2}/{name}_{n}.png")
            labels.append(number % 2)
            digests.append(f"{number}" if kind == "copies" else f"{number}.{n}")
            near = code ^ sum(1 << int(bit) for bit in rng.choice(64, 2, replace=False))
            codes.append(near if kind == "near" else int(rng.integers(0, 2**63)))
            told.append(number)
    phash = pd.Series(np.array(codes, np.uint64), index=keys)
    parts = split_samples(
        frame(keys, labels, digests), val=shares[0], test=shares[1], seed=seed,
        group_pattern=r"(patient\d+)_", near_duplicates=phash,
    )  # fmt: skip
    where = sides(parts)
    assert sorted(where) == sorted(keys)
    side = np.array([where[key] for key in keys])
    for number in range(len(sizes)):
        assert len(set(side[np.array(told) == number])) == 1
    a, b = near_pairs(phash.to_numpy(), 4)
    assert (side[a] == side[b]).all()
    for label in (0, 1):
        count, of_class = labels.count(label), np.array(labels) == label
        wanted = [share * count for share in shares]
        got = [int(((side == name) & of_class).sum()) for name in ("val", "test")]
        off = max(abs(a - b) for a, b in zip(got, wanted, strict=True))
        assert off <= 1 or off <= best_possible(sizes[label::2], wanted)


def best_possible(sizes, wanted):
    """The least that val or test can be off, whichever of the groups go there; by trying all."""
    reachable = {(0, 0)}
    for size in sizes:
        reachable |= {(v + size, t) for v, t in reachable} | {(v, t + size) for v, t in reachable}
        # Far above what is wanted nothing gets nearer again.
        v_most, t_most = wanted[0] + 4, wanted[1] + 4
        reachable = {(v, t) for v, t in reachable if v <= v_most and t <= t_most}
    return max(1e-9, min(max(abs(v - wanted[0]), abs(t - wanted[1])) for v, t in reachable)) + 1e-9


def test_copies_under_two_labels_are_reported(caplog):
    samples = frame(["a", "b", "c", "d"], [0, 1, 0, 1], ["x", "x", "y", "z"])
    split_samples(samples, val=0.5, test=0, seed=0)
    assert "2 images have an exact copy under another label (a, b)" in caplog.text
    assert conflicting_copies(samples)["key"].tolist() == ["a", "b"]


def test_a_class_in_one_group_is_warned_about(caplog):
    keys = [f"0/p{n}" for n in range(9)] + [f"1/q_{n}" for n in range(9)]
    samples = frame(keys, [0] * 9 + [1] * 9)
    parts = split_samples(samples, val=0.2, test=0, seed=0, group_pattern="q", classes=["p", "q"])
    assert (parts["train"]["label"] == 1).sum() == 9
    assert "val has no image of 1 classes (first 'q')" in caplog.text


def test_what_cannot_be_split_says_why():
    samples = frame(["a", "b", "c"], [0, 0, 1])
    with pytest.raises(DataError, match="class 'dog' has one image.*min_per_class: 2"):
        split_samples(samples, val=0.5, test=0, seed=0, classes=["cat", "dog"])
    assert len(split_samples(samples, val=0, test=0, seed=0)["train"]) == 3
    with pytest.raises(DataError, match="no label"):
        split_samples(frame(["a"], [pd.NA]), val=0.5, test=0, seed=0)
    with pytest.raises(DataError, match="0 samples"):
        split_samples(samples.iloc[:0], val=0.5, test=0, seed=0)
    for shares in ((0.5, 0.5), (-0.1, 0), (0, 1)):
        with pytest.raises(ParameterError, match="below 1"):
            split_samples(samples, val=shares[0], test=shares[1], seed=0)
    two = frame(["a", "b"], [0, 0])
    for pattern in ("(", "zzz"):
        with pytest.raises(ParameterError, match="data.split.group_pattern"):
            split_samples(two, val=0.5, test=0, seed=0, group_pattern=pattern)


@settings(max_examples=60)
@given(st.integers(0, 10), st.integers(0, 60), st.integers(0, 99), st.integers(1, 3))
def test_near_pairs_equal_an_exhaustive_search(distance, n, seed, agree):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 5, np.uint64)
    flips = np.array(
        [sum({1 << int(b) for b in rng.integers(0, 64, 6)}) for _ in range(n)], np.uint64
    )
    hashes = base[rng.integers(0, 5, n)] ^ flips
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(np.triu(apart <= distance, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "_cost", lambda n, distance, bands: bands != agree)
        got = np.stack(near_pairs(hashes, distance), axis=1)
    assert np.array_equal(got, expected)


def test_groups_are_chains_of_near_pairs():
    far = 0xFFFF << 48
    hashes = np.array([0, 0b1111, 0b11111111, far, 0, far + 1], np.uint64)
    groups = near_groups(hashes, 4)
    assert groups[0] == groups[1] == groups[2] == groups[4] and groups[3] == groups[5] != groups[0]


def test_phash_moves_little_under_mild_edits_and_much_between_images():
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((90, 70), Image.BICUBIC)
        for _ in range(12)
    ]
    codes = [phash64(image) for image in images]
    for image, code in zip(images, codes, strict=True):
        for edited in (image.resize((45, 35)), image.filter(ImageFilter.BoxBlur(1))):
            assert (phash64(edited) ^ code).bit_count() <= 4
    apart = [(a ^ b).bit_count() for i, a in enumerate(codes) for b in codes[:i]]
    assert min(apart) > 10


def test_balanced_weights():
    labels = [0, 0, 0, 2]
    weights = sampling_weights(labels)
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    loss = class_weights(labels, 3)
    assert loss.tolist() == pytest.approx([2 / 3, 0, 2]) and loss[labels].mean() == pytest.approx(1)
    for bad in ([], [-1]):
        with pytest.raises(DataError):
            sampling_weights(bad)
        with pytest.raises(DataError):
            class_weights(bad, 3)


def test_own_weights_keep_their_ratio_and_the_scale_of_the_loss():
    labels = np.array([0, 0, 0, 2])
    by_name = own_weights({"c": 3.0}, ["a", "b", "c"], labels)
    assert by_name[labels].mean() == pytest.approx(1) and by_name.dtype == np.float32
    assert by_name[2] / by_name[0] == pytest.approx(3) and by_name[1] == by_name[0]
    assert own_weights([2, 2, 6], ["a", "b", "c"], labels).tolist() == by_name.tolist()
    assert own_weights([2, 2, 6], ["a", "b", "c"]).tolist() == [2, 2, 6]
    for bad, words in (
        ({"d": 1.0}, "'d'"),
        ([1.0], "1 class weights for 3"),
        ([0, 9, 0], "weight 0"),
    ):
        with pytest.raises(ParameterError, match=words):
            own_weights(bad, ["a", "b", "c"], labels)


def test_positives_weigh_as_much_as_negatives():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]], np.uint8)
    assert positive_weights(labels).tolist() == [3.0, 1.0, 1.0]
    assert positive_weights(labels).dtype == np.float32
