"""ILSVRC2012 as it is on disks: val by list, devkit or folders; official order and names."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hgnetv2_pipeline.data.classmap import read_synset_map, write_class_map
from hgnetv2_pipeline.data.scan.imagenet import scan_imagenet
from hgnetv2_pipeline.errors import DataError
from image_files import blotches, encoded, put

# The development kit numbers the classes in another order than the sorted synsets.
DEVKIT = {1: "n02119789", 2: "n02100735", 3: "n01440764"}
ORDER = sorted(DEVKIT.values())
TRUTH = [2, 3, 1, 1, 3]  # ILSVRC2012_ID of each validation image
LABELS = [ORDER.index(DEVKIT[number]) for number in TRUTH]
NAMES = {"n01440764": "tench, Tinca tinca", "n02119789": "kit fox", "n02100735": "English setter"}
VAL = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(TRUTH) + 1)]


def meta_mat(path: Path) -> None:
    """A ``meta.mat`` with the fields that matter, an inner node of the hierarchy among them."""
    from scipy.io import savemat

    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, synset, NAMES[synset], 0) for number, synset in DEVKIT.items()]
    rows.append((1001, "n00001740", "entity", 3))
    savemat(path, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of two images in train/, nothing else."""
    return put(
        tmp_path,
        {
            f"train/{synset}/{synset}_{n}.JPEG": encoded(blotches(10 * at + n), "JPEG")
            for at, synset in enumerate(NAMES)
            for n in range(2)
        },
    )


def flat_val(root: Path) -> None:
    put(root, {f"val/{name}": encoded(blotches(100 + at)) for at, name in enumerate(VAL)})


def by_list(root: Path) -> None:
    flat_val(root)
    lines = [f"val/{name} {label}\n" for name, label in zip(VAL, LABELS, strict=True)]
    (root / "val_list.txt").write_text("".join(lines))


def by_devkit(root: Path) -> None:
    flat_val(root)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    meta_mat(kit / "meta.mat")
    lines = "".join(f"{number}\n" for number in TRUTH)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)


def by_folders(root: Path) -> None:
    for at, (name, label) in enumerate(zip(VAL, LABELS, strict=True)):
        put(root, {f"val/{ORDER[label]}/{name}": encoded(blotches(100 + at))})


def by_synset_tars(root: Path) -> None:
    by_folders(root)
    for folder in list((root / "val").iterdir()):
        with tarfile.open(f"{folder}.tar", "w") as tar:
            for file in sorted(folder.iterdir()):
                tar.add(file, file.name)
        shutil.rmtree(folder)


@pytest.mark.parametrize("make", [by_list, by_devkit, by_folders, by_synset_tars])
def test_every_form_of_val_gives_the_same_labels_in_the_order_of_the_synsets(
    root: Path, make: object
) -> None:
    make(root)  # type: ignore[operator]
    train = scan_imagenet(root, "train")
    assert train.classes == train.folders == ORDER
    val = scan_imagenet(root, "val", classes=train.classes, folders=train.folders)
    keys = val.samples["key"].str.rsplit("/", n=1).str[-1].str.rsplit("!", n=1).str[-1]
    assert dict(zip(keys, val.samples["label"], strict=True)) == dict(zip(VAL, LABELS, strict=True))
    assert val.classes == ORDER and len(val.quarantined) == 0


@pytest.mark.parametrize("make", [by_devkit, by_folders])
@pytest.mark.parametrize("named_by", ["LOC_synset_mapping.txt", "class_map.txt"])
def test_names_come_from_a_map_and_labels_stay(root: Path, make: object, named_by: str) -> None:
    make(root)  # type: ignore[operator]
    if named_by == "class_map.txt":
        write_class_map(root / named_by, [NAMES[synset] for synset in ORDER])
    else:
        lines = "".join(f"{synset} {name}\n" for synset, name in NAMES.items())
        (root / named_by).write_text(lines)
    train = scan_imagenet(root, "train")
    assert train.classes == ["tench, Tinca tinca", "English setter", "kit fox"]
    assert train.folders == ORDER
    val = scan_imagenet(root, "val", classes=train.classes, folders=train.folders)
    assert sorted(val.samples["label"]) == sorted(LABELS) and val.classes == train.classes


def test_a_class_map_of_the_folders_themselves_fixes_their_order(root: Path) -> None:
    turned = ORDER[::-1]
    write_class_map(root / "class_map.txt", turned)
    train = scan_imagenet(root, "train")
    assert train.classes == train.folders == turned
    first = train.samples[train.samples["label"] == 0]["key"].iloc[0]
    assert first.startswith(f"train/{turned[0]}/")


def test_of_a_flat_val_what_is_missing_or_superfluous_is_named(root: Path) -> None:
    by_devkit(root)
    (root / "val" / VAL[1]).unlink()
    put(root, {"val/extra.JPEG": encoded(blotches(7)), f"val/x_{6:08d}.JPEG": b""})
    val = scan_imagenet(root, "val", classes=ORDER)
    reasons = dict(val.quarantined[["key", "reason"]].itertuples(index=False))
    assert reasons.keys() == {f"val/{VAL[1]}", "val/extra.JPEG", "val/x_00000006.JPEG"}
    assert "missing" in reasons[f"val/{VAL[1]}"] and "no number" in reasons["val/extra.JPEG"]
    assert val.quarantined.set_index("key")["line"][f"val/{VAL[1]}"] == 2
    assert val.ledger(1).summary()["n_listed"] == 7


def test_half_a_kit_or_one_that_does_not_fit_is_refused(root: Path) -> None:
    by_devkit(root)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    with pytest.raises(
        DataError, match="names n01440764, which is no class folder of train .2 such"
    ):
        scan_imagenet(root, "val", classes=["n02119789"])
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("2\n1001\n")
    with pytest.raises(DataError, match="truth.txt:2: '1001' is no class number"):
        scan_imagenet(root, "val", classes=ORDER)
    (kit / "meta.mat").write_bytes(b"MATLAB 5.0 but no more")
    with pytest.raises(DataError, match="not the meta.mat"):
        scan_imagenet(root, "val", classes=ORDER)
    (kit / "meta.mat").unlink()
    with pytest.raises(DataError, match="meta.mat is missing"):
        scan_imagenet(root, "val", classes=ORDER)


def test_maps_that_do_not_fit_the_folders_are_refused(root: Path) -> None:
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench\n")
    with pytest.raises(DataError, match="no line for the class folder 'n02100735'"):
        scan_imagenet(root, "train")
    write_class_map(root / "class_map.txt", ["tench", "kit fox"])
    with pytest.raises(DataError, match="2 classes, but there are 3 class folders"):
        scan_imagenet(root, "train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 classes"),
        (b"tench n01440764\n", ":1: .* is not 'n01440764 name'"),
        (b"n01440764 a\nn01440764 b\n", ":2: n01440764 is named twice"),
        (b"n01440764 caf\xe9\n", "not UTF-8"),
    ],
)
def test_a_bad_synset_map_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "map.txt").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_synset_map(tmp_path / "map.txt")


def test_the_official_tar_of_tars_is_read_in_place(root: Path) -> None:
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in sorted(NAMES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for file in sorted((root / "train" / synset).iterdir()):
                    tar.add(file, file.name)
            info = tarfile.TarInfo(f"{synset}.tar")
            info.size = len(inner.getvalue())
            outer.addfile(info, io.BytesIO(inner.getvalue()))
    by_folder = scan_imagenet(root, "train")
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    (root / "ILSVRC2012_img_train.tar").rename(root / "train" / "ILSVRC2012_img_train.tar")
    in_place = scan_imagenet(root, "train")
    assert in_place.classes == ORDER
    for column in ("label", "length", "width", "bytes_sha256"):
        assert list(in_place.samples[column]) == list(by_folder.samples[column])
