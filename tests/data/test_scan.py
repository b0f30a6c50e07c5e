"""Scans: folders, lists, ILSVRC2012, tars read in place; every file accounted for."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hgnetv2_pipeline.data.classmap import write_class_map
from hgnetv2_pipeline.data.index import SCHEMA, read_bytes, read_index, write_index
from hgnetv2_pipeline.data.scan.archives import index_archive
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree, scan_list, scan_unlabelled
from hgnetv2_pipeline.data.scan.imagenet import scan_imagenet
from hgnetv2_pipeline.data.scan.walk import natural
from hgnetv2_pipeline.errors import DataError


def picture(seed: int, kind: str = "PNG", size: tuple[int, int] = (12, 9)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def make_tar(path: Path, files: dict[str, bytes], style: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=style) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def check_bytes(scan, root: Path) -> None:
    for row in scan.samples.itertuples(index=False):
        content = read_bytes(row, root)
        assert hashlib.sha256(content).hexdigest() == row.bytes_sha256
        assert len(content) == row.length
        assert Image.open(io.BytesIO(content)).size == (row.width, row.height)


def test_a_folder_tree_is_read_whole_with_its_odd_files_named(tmp_path):
    root = put(
        tmp_path,
        {
            "class 2/a b.png": picture(1),
            "class 10/deep/er/é.JPEG": picture(2),
            "class 10/plain.jpg": picture(3, "JPEG"),
            "猫/x.webp": picture(4, "WEBP"),
            "猫/noending": picture(5),
            "猫/broken.png": picture(6)[:-40],
            "猫/empty.jpg": b"",
            "猫/photo.heic": b"not really",
            "猫/more.zip": b"PK\x03\x04",
            "猫/notes.txt": b"hello",
            "猫/README": b"hello",
            "猫/.hidden.png": picture(7),
            "outside.png": picture(8),
            "empty folder/notes.txt": b"",
        },
    )
    scan = scan_folder_tree(root, phash=True)
    assert scan.classes == ["class 2", "class 10", "猫"]
    assert list(scan.samples.columns) == list(SCHEMA)
    assert list(scan.samples["key"]) == sorted(scan.samples["key"])
    assert dict(scan.samples[["key", "label"]].itertuples(index=False)) == {
        "class 2/a b.png": 0,
        "class 10/deep/er/é.JPEG": 1,
        "class 10/plain.jpg": 1,
        "猫/x.webp": 2,
        "猫/noending": 2,
    }
    formats = dict(scan.samples[["key", "format"]].itertuples(index=False))
    assert formats["class 10/deep/er/é.JPEG"] == "PNG"
    bad = dict(scan.quarantined[["key", "reason"]].itertuples(index=False))
    assert sorted(bad) == sorted(
        ["outside.png", "猫/broken.png", "猫/empty.jpg", "猫/photo.heic", "猫/more.zip"]
    )
    assert "empty" in bad["猫/empty.jpg"] and "outside any class" in bad["outside.png"]
    assert "zip" in bad["猫/more.zip"] and scan.ignored == 3
    ledger = scan.ledger(0.5)
    assert ledger.summary() == {"n_listed": 10, "n_used": 5, "n_quarantined": 5, "n_refused": 0}
    with pytest.raises(DataError, match="5 of 10 images"):
        scan.ledger(0.4).check()
    assert scan.phash is not None and list(scan.phash.index) == list(scan.samples["key"])
    check_bytes(scan, root)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_scan_does_not_depend_on_the_threads(tmp_path, threads):
    files = {f"{n % 3}/{n}.png": picture(n) for n in range(300)}
    files |= {f"0/bad{n}.png": b"" for n in range(5)}
    root = put(tmp_path / "tree", files)
    scan = scan_folder_tree(root, threads=threads)
    write_index(tmp_path / "one.parquet", scan.samples)
    write_index(tmp_path / "two.parquet", scan.samples.sample(frac=1, random_state=0))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    frame = read_index(tmp_path / "one.parquet")
    assert frame.equals(scan.samples) and frame.dtypes.equals(scan.samples.dtypes)
    assert len(frame) == 300 and len(scan.quarantined) == 5
    check_bytes(scan, root)


def test_classes_follow_in_natural_order():
    names = ["10", "9", "class10", "class9", "a", "Z", "n02", "n1", "n01"]
    assert sorted(names, key=natural) == [
        "9",
        "10",
        "Z",
        "a",
        "class9",
        "class10",
        "n01",
        "n1",
        "n02",
    ]


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_are_read_in_place_with_any_names(tmp_path, style):
    long = "d" * 80 + "/" + "n" * 120 + " é 猫.png"
    make_tar(tmp_path / "cats" / "part 1.tar", {long: picture(1), "./b.png": picture(2)}, style)
    make_tar(tmp_path / "dogs" / "x.tar", {"c.JPEG": picture(3), "bad.png": b"no", "t.txt": b""})
    scan = scan_folder_tree(tmp_path)
    keys = dict(scan.samples[["key", "label"]].itertuples(index=False))
    assert keys == {
        f"cats/part 1.tar!{long}": 0,
        "cats/part 1.tar!b.png": 0,
        "dogs/x.tar!c.JPEG": 1,
    }
    assert list(scan.quarantined["key"]) == ["dogs/x.tar!bad.png"] and scan.ignored == 1
    check_bytes(scan, tmp_path)


def test_the_class_of_an_image_in_a_tar_below_the_root(tmp_path):
    trees = {
        "synsets": ({"n01.tar": ["a.png"], "n02.tar": ["b.png"]}, ["n01", "n02"]),
        "wrapped": ({"cats.tar": ["images/a.png"], "dogs.tar": ["images/b.png"]}, ["cats", "dogs"]),
        "folders": ({"all.tar": ["cat/a.png", "dog/b.png"]}, ["cat", "dog"]),
    }
    for name, (tars, classes) in trees.items():
        for tar, members in tars.items():
            make_tar(tmp_path / name / tar, {member: picture(1) for member in members})
        assert scan_folder_tree(tmp_path / name).classes == classes


def test_a_tar_of_tars_is_read_in_place(tmp_path):
    inner = {
        name: make_tar(tmp_path / "inner" / name, {f"{name[:3]}_1.JPEG": picture(n)}).read_bytes()
        for n, name in enumerate(["n01.tar", "n02.tar"])
    }
    root = tmp_path / "outer"
    make_tar(root / "train.tar", inner)
    scan = scan_folder_tree(root)
    assert scan.classes == ["n01", "n02"]
    assert list(scan.samples["key"])[0] == "train.tar!n01.tar!n01_1.JPEG"
    check_bytes(scan, root)


def test_odd_members_of_a_tar_are_named_with_a_reason(tmp_path):
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as tar:
        for name, body in [("a.png", b"1"), ("../up.png", b"2"), ("a.png", b"33")]:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        for kind, name in ((tarfile.SYMTYPE, "soft.png"), (tarfile.LNKTYPE, "hard.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
    index = index_archive(path)
    assert {m.name: path.read_bytes()[m.offset : m.offset + m.length] for m in index.members} == {
        "a.png": b"33",
        "hard.png": b"33",
    }
    assert [refused.key for refused in index.refused] == [
        "../up.png",
        "a.png (at byte 512)",
        "soft.png",
    ]


def test_a_damaged_or_packed_tar_is_named(tmp_path):
    whole = make_tar(tmp_path / "w.tar", {f"{n}.png": picture(n, size=(90, 90)) for n in range(4)})
    content = whole.read_bytes()
    root = put(
        tmp_path / "pool", {"cut.tar": content[: len(content) // 2], "junk.tar": b"x" * 2000}
    )
    put(root, {"ok.png": picture(9), "packed.tar.gz": b"\x1f\x8b"})
    scan = scan_unlabelled(root)
    bad = dict(scan.quarantined[["key", "reason"]].itertuples(index=False))
    assert len(scan.samples) >= 2 and scan.samples["label"].isna().all() and scan.classes is None
    assert any(key.startswith("cut.tar!") for key in bad)
    assert "not a plain tar" in bad["junk.tar"] and "compressed" in bad["packed.tar.gz"]
    check_bytes(scan, root)


def test_links_are_followed_into_trusted_roots_alone(tmp_path):
    store = put(tmp_path / "store", {"x.png": picture(1), "more/y.png": picture(2)})
    root = put(tmp_path / "root", {"a/own.png": picture(3)})
    (root / "a" / "x.png").symlink_to(store / "x.png")
    (root / "a" / "gone.png").symlink_to(store / "gone.png")
    (root / "more").symlink_to(store / "more")
    (root / "a" / "loop").symlink_to(root)
    scan = scan_folder_tree(root)
    assert list(scan.samples["key"]) == ["a/own.png"]
    assert sorted(scan.quarantined["key"]) == ["a/gone.png", "a/loop", "a/x.png", "more"]
    trusting = scan_folder_tree(root, trusted_roots=[store])
    assert list(trusting.samples["key"]) == ["a/own.png", "a/x.png", "more/y.png"]


def test_names_that_no_list_can_hold_are_quarantined(tmp_path):
    root = put(tmp_path, {"a/good.png": picture(1), "a/new\nline.png": picture(2)})
    (root / "a" / "latin\udce9.png").write_bytes(picture(3))
    scan = scan_folder_tree(root)
    assert list(scan.samples["key"]) == ["a/good.png"]
    assert list(scan.quarantined["key"]) == ["a/latin\\udce9.png", "a/new\\nline.png"]


def test_what_cannot_be_scanned_says_why(tmp_path):
    with pytest.raises(DataError, match="missing or not a folder"):
        scan_unlabelled(tmp_path / "no")
    with pytest.raises(DataError, match="0 images found"):
        scan_unlabelled(tmp_path)
    put(tmp_path / "flat", {"x.png": picture(1)})
    with pytest.raises(DataError, match="no images in class folders"):
        scan_folder_tree(tmp_path / "flat")
    put(tmp_path / "bad", {"x.png": b"", "y.png": b"1"})
    with pytest.raises(DataError, match="none of 2 images can be used"):
        scan_unlabelled(tmp_path / "bad")
    put(tmp_path / "half", {"a/x.png": picture(1), "b/y.png": b""})
    with pytest.raises(DataError, match="class 'b' has no readable image.*min_per_class"):
        scan_folder_tree(tmp_path / "half")
    with pytest.raises(DataError, match="'b' is not among the 1 known classes"):
        scan_folder_tree(tmp_path / "half", classes=["a"])


def test_small_classes_are_left_out_and_counted_if_asked(tmp_path):
    root = put(
        tmp_path,
        {
            f"{c}/{n}.png": picture(n)
            for c, k in zip("abc", (3, 1, 2), strict=True)
            for n in range(k)
        },
    )
    scan = scan_folder_tree(root, min_per_class=2, phash=True)
    assert scan.classes == ["a", "c"] and list(scan.samples["label"]) == [0, 0, 0, 1, 1]
    assert list(scan.refused["key"]) == ["b/0.png"]
    assert scan.ledger(0).summary() == {
        "n_listed": 6,
        "n_used": 5,
        "n_quarantined": 0,
        "n_refused": 1,
    }
    assert list(scan.phash.index) == list(scan.samples["key"])
    with pytest.raises(DataError, match="every class has fewer than 9"):
        scan_folder_tree(root, min_per_class=9)


def test_a_list_is_scanned_with_its_line_numbers(tmp_path):
    root = put(tmp_path, {"a.png": picture(1), "b.png": b"broken"})
    make_tar(root / "t.tar", {"in.png": picture(3)})
    (root / "list.txt").write_text("a.png 1\n\nb.png 0\nt.tar!in.png 0\n")
    scan = scan_list(root / "list.txt", root, classes=["x", "y"])
    assert list(scan.samples["key"]) == ["a.png", "t.tar!in.png"]
    assert list(scan.samples["label"]) == [1, 0] and scan.classes == ["x", "y"]
    assert scan.quarantined["line"].tolist() == [3]
    check_bytes(scan, root)
    (root / "pool.txt").write_text("a.png\n")
    assert scan_list(root / "pool.txt", root, labelled=False).samples["label"].isna().all()
    with pytest.raises(DataError, match=":1: label 1 is outside the 1 classes"):
        scan_list(root / "list.txt", root, classes=["x"])


def test_ilsvrc2012_by_lists_and_by_folders(tmp_path):
    train = {
        f"train/n0{c}/n0{c}_{n}.JPEG": picture(10 * c + n, "JPEG") for c in (1, 2) for n in range(3)
    }
    root = put(tmp_path, train | {f"val/v{n}.JPEG": picture(90 + n, "JPEG") for n in range(2)})
    by_folder = scan_imagenet(root, "train")
    assert by_folder.classes == ["n01", "n02"] and set(by_folder.samples["key"]) == set(train)
    check_bytes(by_folder, root)
    with pytest.raises(DataError, match="images without class folders; put val_list.txt"):
        scan_imagenet(root, "val", classes=by_folder.classes)
    (root / "train_list.txt").write_text("".join(f"{key} {int(key[8]) - 1}\n" for key in train))
    (root / "val_list.txt").write_text("val/v0.JPEG 1\nval/v1.JPEG 0\n")
    by_list = scan_imagenet(root, "train")
    assert by_list.samples.equals(by_folder.samples) and by_list.classes == ["n01", "n02"]
    val = scan_imagenet(root, "val", classes=by_list.classes)
    assert list(val.samples["label"]) == [1, 0]
    write_class_map(root / "class_map.txt", ["tench", "goldfish"])
    assert scan_imagenet(root, "train").classes == ["tench", "goldfish"]
    with pytest.raises(DataError, match="neither test_list.txt"):
        scan_imagenet(root, "test")


def test_validation_folders_take_the_labels_of_train(tmp_path):
    root = put(tmp_path, {"val/n02/x.png": picture(1), "train/n01/a.png": picture(2)})
    with pytest.raises(DataError, match="scan train first"):
        scan_imagenet(root, "val")
    scan = scan_imagenet(root, "val", classes=["n01", "n02"])
    assert list(scan.samples["label"]) == [1] and scan.classes == ["n01", "n02"]


def test_reading_says_what_happened_since_the_scan(tmp_path):
    root = put(tmp_path, {"a.png": picture(1)})
    make_tar(root / "t.tar", {"in.png": picture(3)})
    rows = {row.key: row for row in scan_unlabelled(root).samples.itertuples(index=False)}
    (root / "a.png").unlink()
    with pytest.raises(DataError, match="missing"):
        read_bytes(rows["a.png"], root)
    (root / "t.tar").write_bytes((root / "t.tar").read_bytes()[:600])
    with pytest.raises(DataError, match="ends early"):
        read_bytes(rows["t.tar!in.png"], root)
    for path in ("../a.png", "/etc/passwd"):
        with pytest.raises(DataError, match="out of the root"):
            read_bytes((path, -1, 3), root)


def test_a_file_that_is_no_index_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match="parquet"):
        read_index(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="missing"):
        read_index(tmp_path / "y.parquet")
