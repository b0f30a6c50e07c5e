"""The embedded sample: real images from inside scikit-learn, written in the ILSVRC2012 layout.

1,797 handwritten digits (8x8, made 32x32): 40 labelled for training (4 per class), 500 for
validation (50 per class), 400 for the final test (40 per class), the other 857 an unlabelled pool.
The pool also has 400 patches of two photographs (distractors) and 60 near-duplicates of validation
images. Files are grey PNGs without compression, whose bytes do not depend on the machine's zlib;
re-encoded plants are JPEGs of quality 75.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.data.classmap import write_class_map
from hgnetv2_pipeline.data.lists.read import write_list
from hgnetv2_pipeline.data.sample_rng import epoch_order, keyed_rng
from hgnetv2_pipeline.durable import read_json, sha256_file, sha256_json, write_json, write_text
from hgnetv2_pipeline.errors import DataError

_log = logging.getLogger(__name__)

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN_PER_CLASS, VAL_PER_CLASS, TEST_PER_CLASS = 4, 50, 40
EDITION = 2
"""Counts up when other images are written; a sample of an earlier edition is written again."""
DISTRACTORS = 400
PLANTS = {"exact": 20, "jpeg75": 20, "mirror": 20}
SIDE = 32
MARKER = "sample.json"

# Recipes, mining.k and the thresholds for small pictures were chosen while the first 74 of a class
# were train and val. The test images come after them, so that no figure was ever tuned on one.
_TUNED_PER_CLASS = 74
_PATCH = 48
# A patch of plain sky, stretched to full contrast, would be noise.
_LEAST_CONTRAST = 16

Grey = npt.NDArray[np.uint8]


def write_sample(root: Path, seed: int = 0) -> None:
    """Write the sample below ``root``; an intact sample of the same seed is left as it is.

    Writes ``train/<class>/*.png``, ``val/*.png``, ``test/*.png``, ``pool/*``, a list of each of the
    first three, ``class_map.txt``; beside them, for audits and tests alone, ``planted.csv``
    (pool_key, val_key, kind) and ``pool_truth.csv`` (key, truth: a digit or ``distractor``); last,
    ``sample.json`` with edition, counts and the hash of the tree. Needs no network.

    Raises:
        DataError: ``root`` holds something else.
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: a file is in the way of the sample; remove it")
    if root.is_dir() and any(root.iterdir()):
        if not (root / MARKER).is_file():
            raise DataError(f"{root}: holds other files; name an empty folder for the sample")
        marker = read_json(root / MARKER)
        same = (marker.get("seed"), marker.get("edition")) == (seed, EDITION)
        if same and marker.get("tree_sha256") == tree_sha256(root):
            return
        _log.warning(
            "%s: the sample is changed, of another seed or of another edition than %d; it is "
            "written again", root, EDITION,
        )  # fmt: skip
    with ownership.make_aside(root) as folder:
        aside = folder / "new"
        aside.mkdir()
        counts = _write_tree(aside, seed)
        marker = {"seed": seed, "edition": EDITION, "counts": counts}
        write_json(aside / MARKER, {**marker, "tree_sha256": tree_sha256(aside)})
        if root.is_dir():
            root.rename(folder / "old")
        aside.rename(root)


def is_outdated(root: Path) -> bool:
    """Whether ``root`` holds a sample of another edition; what has no marker is no sample."""
    marker = root / MARKER
    return marker.is_file() and read_json(marker).get("edition") != EDITION


def tree_sha256(root: Path) -> str:
    """SHA-256 over names and contents of all files below ``root`` but the marker."""
    return sha256_json(
        {
            file.relative_to(root).as_posix(): sha256_file(file)
            for file in sorted(Path(root).rglob("*"))
            if file.is_file() and file.name != MARKER
        }
    )


def _write_tree(root: Path, seed: int) -> dict[str, int]:
    digits, labels, photographs = _load()
    train, val, test, rest = _choose(labels, seed)

    rows = []
    for label, name in enumerate(CLASSES):
        (root / "train" / name).mkdir(parents=True)
        for number, index in enumerate(train[labels[train] == label]):
            key = f"train/{name}/{name}_{number:04d}.png"
            (root / key).write_bytes(_png(digits[index]))
            rows.append((key, label))
    _write_labels(root / "train_list.txt", rows)

    val_keys = _write_flat(root, "val", digits[val], labels[val])
    _write_flat(root, "test", digits[test], labels[test])
    write_class_map(root / "class_map.txt", CLASSES)

    # (content, ending, truth, val key, kind), shuffled, so that names tell nothing.
    pool = [(_png(digits[index]), "png", str(labels[index]), "", "") for index in rest]
    patches = _distractors(photographs, seed)
    pool += [(_png(patch), "png", "distractor", "", "") for patch in patches]
    pool += _plants(digits, labels, val, val_keys, seed)
    (root / "pool").mkdir()
    truth, planted = [], []
    for number, position in enumerate(epoch_order(len(pool), seed, 2)):
        content, ending, what, val_key, kind = pool[position]
        key = f"pool/{number:05d}.{ending}"
        (root / key).write_bytes(content)
        truth.append(f"{key},{what}")
        if kind:
            planted.append(f"{key},{val_key},{kind}")
    write_text(root / "pool_truth.csv", "\n".join(["key,truth", *truth, ""]))
    write_text(root / "planted.csv", "\n".join(["pool_key,val_key,kind", *planted, ""]))
    return {
        "train": len(train),
        "val": len(val),
        "test": len(test),
        "pool": len(pool),
        "pool_digits": len(rest),
        "pool_distractors": len(patches),
        "pool_planted": len(planted),
    }


def _write_flat(root: Path, name: str, images: Grey, labels: npt.NDArray[np.int64]) -> list[str]:
    """Write ``<name>/<name>_<number>.png`` and the list of them; return their keys."""
    (root / name).mkdir()
    keys = [f"{name}/{name}_{number:08d}.png" for number in range(1, len(images) + 1)]
    for key, image in zip(keys, images, strict=True):
        (root / key).write_bytes(_png(image))
    _write_labels(root / f"{name}_list.txt", list(zip(keys, labels.tolist(), strict=True)))
    return keys


def _load() -> tuple[Grey, npt.NDArray[np.int64], list[Grey]]:
    """The digits at 32 px, their labels, and the two photographs in grey."""
    from sklearn.datasets import load_digits, load_sample_images

    bunch = load_digits()
    # Values 0..16 of an 8x8 grid.
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    photographs = [
        np.asarray(Image.fromarray(image).convert("L")) for image in load_sample_images().images
    ]
    return (
        np.stack([_enlarge(image) for image in small]),
        bunch.target.astype(np.int64),
        photographs,
    )


def _enlarge(small: Grey) -> Grey:
    image = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _choose(labels: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Rows of train, val, test and pool: of each class, in a random order, so many of each."""
    order = epoch_order(len(labels), seed, 0)
    ends = np.cumsum([TRAIN_PER_CLASS, VAL_PER_CLASS])
    tested = slice(_TUNED_PER_CLASS, _TUNED_PER_CLASS + TEST_PER_CLASS)
    train, val, test, rest = [], [], [], []
    for label in range(len(CLASSES)):
        rows = order[labels[order] == label]
        train.append(rows[: ends[0]])
        val.append(rows[ends[0] : ends[1]])
        test.append(rows[tested])
        rest += [rows[ends[1] : tested.start], rows[tested.stop :]]
    mixed = np.concatenate(val)
    held_out = np.concatenate(test)
    return (
        np.concatenate(train),
        mixed[epoch_order(len(mixed), seed, 1)],
        held_out[epoch_order(len(held_out), seed, 4)],
        np.concatenate(rest),
    )


def _distractors(photographs: list[Grey], seed: int) -> list[Grey]:
    """Patches of 48 px at random places, shrunk to 8x8, stretched, enlarged as the digits are."""
    rng = keyed_rng(seed, 0, "distractors")
    patches: list[Grey] = []
    while len(patches) < DISTRACTORS:
        photograph = photographs[len(patches) % len(photographs)]
        top = int(rng.random() * (photograph.shape[0] - _PATCH + 1))
        left = int(rng.random() * (photograph.shape[1] - _PATCH + 1))
        patch = Image.fromarray(photograph[top : top + _PATCH, left : left + _PATCH])
        small = np.asarray(patch.resize((8, 8), Image.Resampling.BOX)).astype(np.int64)
        low, high = small.min(), small.max()
        if high - low < _LEAST_CONTRAST:
            continue
        stretched = ((small - low) * 255 // (high - low)).astype(np.uint8)
        patches.append(_enlarge(stretched))
    return patches


def _plants(
    digits: Grey,
    labels: npt.NDArray[np.int64],
    val: npt.NDArray[np.int64],
    keys: list[str],
    seed: int,
) -> list[tuple[bytes, str, str, str, str]]:
    """Near-duplicates of validation images, each of another one."""
    picks = epoch_order(len(val), seed, 3)
    kinds = [kind for kind, count in PLANTS.items() for _ in range(count)]
    plants = []
    for kind, pick in zip(kinds, picks, strict=False):
        image = digits[val[pick]]
        ending = "jpg" if kind == "jpeg75" else "png"
        if kind == "jpeg75":
            content = _jpeg(image)
        else:
            content = _png(image[:, ::-1] if kind == "mirror" else image)
        plants.append((content, ending, str(labels[val[pick]]), keys[pick], kind))
    return plants


def _png(image: Grey) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG", compress_level=0)
    return file.getvalue()


def _jpeg(image: Grey) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=75)
    return file.getvalue()


def _write_labels(path: Path, rows: list[tuple[str, int]]) -> None:
    write_list(path, pd.DataFrame(rows, columns=["path", "label"]))
