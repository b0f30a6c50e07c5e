"""The matrix of faults: rows L01-L20 (lists) and I01-I15 (images), each with its expectation."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hang_guard import ends
from hgnetv2_pipeline.data.index import samples_frame
from hgnetv2_pipeline.data.leaks import find_leaks, report_leaks
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree, scan_list, scan_unlabelled
from hgnetv2_pipeline.errors import DataError
from image_files import blotches, encoded, huge_png, put

REFUSED = {
    "L01": [(b"../x.JPEG 3\n", "1:.*leads out of the root")],
    "L02": [(b"/etc/passwd 3\n", "1:.*write it relative to the root")],
    "L05": [
        (b"a.jpg 0\nb.jpg -1\n", "2:.*whole number from 0"),
        (b"a.jpg -100\n", "1:.*whole number from 0"),
        (b"a.jpg 99999\n", "1:.*outside the 5 classes 0-4.*class names"),
    ],
    "L06": [
        (f"a.jpg {label}\n".encode(), "1:.*is not a class number; write a whole number")
        for label in ("3.5", "cat", "1_0", "\u0663", "1" * 20)
    ],
    "L07": [
        (b"a.jpg\n", "1:.*no label.*write 'path label'"),
        (b"a.jpg\t3\nb.jpg 4\n", "1:.*a tab.*put one space"),
        (b"a.jpg  3\n", "1:.*put exactly one space"),
        (b"a.jpg 3 4\n", "1:.*keep the label alone"),
    ],
    "L11": [
        (b"a.jpg 0\ncaf\xe9.jpg 3\n", "2:.*byte 0xe9 is not UTF-8 at byte 11"),
        ("a.jpg 3\n".encode("utf-16"), "1:.*UTF-16 text; save"),
        (b"a.jpg 0\nb\x00.jpg 3\n", "2:.*a NUL byte at byte 9"),
    ],
    "L12": [(b"", "0 samples"), (b"# only\n\n# comments\n", "0 samples")],
    "L13": [(b"a.jpg 0\na.jpg 0\n", "2:.*already in line 1 .1 such lines.*data.duplicates")],
    "L14": [(b"a.jpg 0\nb.jpg 1\na.jpg 2\n", "3:.*label 2 here and 0 in line 1")],
    "L18": [
        (b"a.jpg 0\nb.jpg 2\n", "3 of 5 classes have no image: 1, 3, 4"),
    ],
    "L19": [(b"x" * 10_000_000, "1:.*longer than")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "content", "said"),
    [(row, content, said) for row, cases in REFUSED.items() for content, said in cases],
)
def test_a_bad_list_is_refused_with_place_and_remedy(
    tmp_path: Path, row: str, content: bytes, said: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"list\.txt{'' if said[0] == ':' else '.*'}{said}"
    ) as told:
        read_list(path, num_classes=5, every_class=row == "L18")
    assert "\n" not in str(told.value)


ACCEPTED = {
    "L07": (b"\na.jpg 3\n\n# note\n", [("a.jpg", 3)]),
    "L08": (b"my cat.JPEG 3\n", [("my cat.JPEG", 3)]),
    "L09": (b"a.jpg 3\r\nb.jpg 1\r\n", [("a.jpg", 3), ("b.jpg", 1)]),
    "L10": (b"\xef\xbb\xbfa.jpg 3\n", [("a.jpg", 3)]),
    "L13": (b"a.jpg 3\na.jpg 3\n", [("a.jpg", 3)]),
    "L20": (b"A.JPEG 0\na.jpeg 1\n", [("A.JPEG", 0), ("a.jpeg", 1)]),
}


@pytest.mark.parametrize("row", ACCEPTED)
def test_an_odd_list_is_read_as_it_was_meant(
    tmp_path: Path, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    content, expected = ACCEPTED[row]
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    frame = read_list(path, duplicates="drop" if row == "L13" else "refuse")
    assert list(frame.itertuples(index=False, name=None)) == expected
    said = {
        "L07": "3 blank or comment lines skipped",
        "L13": "1 lines that repeat an earlier one are left out",
        "L20": "1 paths differ from another only in upper and lower case",
    }
    assert said.get(row, "") in caplog.text


def _outside_link(root: Path, outside: Path) -> str:
    (outside / "o.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(outside / "o.jpg")
    return "link.jpg"


def _linked_folder(root: Path, outside: Path) -> str:
    (outside / "o.jpg").write_bytes(b"x")
    (root / "away").symlink_to(outside)
    return "away/o.jpg"


def _self_loop(root: Path, outside: Path) -> str:
    (root / "loop").symlink_to(root)
    return "loop/loop/loop/good.jpg"


def _ring(root: Path, outside: Path) -> str:
    (root / "ring").symlink_to(root / "ring")
    return "ring"


def _folder(root: Path, outside: Path) -> str:
    (root / "sub.jpg").mkdir()
    return "sub.jpg"


def _fifo(root: Path, outside: Path) -> str:
    os.mkfifo(root / "pipe.jpg")
    return "pipe.jpg"


def _device(root: Path, outside: Path) -> str:
    (root / "null.jpg").symlink_to("/dev/null")
    return "null.jpg"


@pytest.mark.parametrize("many", [False, True], ids=["few files", "a folder of many"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(_outside_link, "leads out of the root.*trusted_roots", id="L03"),
        pytest.param(_linked_folder, "leads out of the root.*trusted_roots", id="L04 folder"),
        pytest.param(_self_loop, "a link to a folder inside the root", id="L04 loop"),
        pytest.param(_ring, "cannot be looked up: Too many levels", id="L04 ring"),
        pytest.param(_folder, "a directory", id="L16 directory"),
        pytest.param(_fifo, "not a regular file", id="L16 FIFO"),
        pytest.param(_device, "leads out of the root", id="L16 device"),
    ],
)
def test_a_listed_place_that_is_no_file_inside_the_root_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path, Path], str], said: str, many: bool
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    names = [f"{number}.jpg" for number in range(40 if many else 2)] + ["good.jpg"]
    put(root, dict.fromkeys(names, b"x"))
    bad = make(root, outside)
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{name} 0\n" for name in [*names, bad]))
    refused = pytest.raises(DataError, match=f"list.txt:{len(names) + 1}: 1 of .*{said}")
    with ends("a list that names a pipe"), refused:  # never opened, so never waited for
        read_list(path, root)


def frame(keys: list[str], digests: list[str] | None = None) -> pd.DataFrame:
    rows = zip(keys, digests or keys, strict=True)
    return samples_frame((key, key, -1, 9, 0, 4, 4, "PNG", digest) for key, digest in rows)


def test_l15_an_image_of_two_sets_is_refused_by_its_path_and_by_its_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(DataError, match="'b' is listed in train and in val .1 such"):
        find_leaks({"train": frame(["a", "b"]), "val": frame(["b", "c"])}, None)
    sets = {"train": frame(["a", "b"], ["x", "y"]), "val": frame(["c"], ["y"])}
    leaks = find_leaks(sets, None)
    assert leaks[["key", "other_key", "same_bytes"]].values.tolist() == [["b", "c", True]]
    with pytest.raises(DataError, match="too: 1 with .* first b of train as c of val .*data.leaks"):
        report_leaks(leaks, refuse=True)
    report_leaks(leaks, refuse=False)
    assert "b of train has the same bytes as c of val" in caplog.text


@pytest.mark.parametrize("n", [2_000, pytest.param(1_280_000, marks=pytest.mark.slow)])
def test_l17_every_missing_file_is_listed_once_the_first_twenty_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, n: int
) -> None:
    root = tmp_path / "root"
    for folder in range(n // 1000):
        (root / f"{folder}").mkdir(parents=True)
    for i in range(n):
        if i % 20:
            os.close(os.open(f"{root}/{i // 1000}/{i}.jpg", os.O_CREAT))
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{i // 1000}/{i}.jpg 0\n" for i in range(n)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=f"list.txt:1: {n // 20:,} of {n:,} files cannot be used"):
        read_list(path, root, missing_to=tmp_path / "missing.csv")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1 << 30
    assert caplog.text.count("the file is missing") == 20
    written = pd.read_csv(tmp_path / "missing.csv")
    assert written["line"].tolist() == list(range(1, n + 1, 20)) and written["key"].is_unique


def test_l19_a_long_list_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    block = "".join(f"d{i % 10}/{{0}}_{i}.jpg {i % 10}\n" for i in range(20_000))
    with path.open("w") as file:
        for number in range(20):
            file.write(block.replace("{0}", str(number)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    listed = read_list(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert len(listed) == 400_000 and grown < 40 * path.stat().st_size


# --- images --------------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
JPEG = encoded(Image.fromarray(NOISE), "JPEG")
GOOD = encoded(blotches(2))


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(blotches(3), "JPEG", exif=exif)


QUARANTINED = {
    "I01 zero bytes": (b"", "empty"),
    "I02 half a JPEG": (JPEG[: len(JPEG) // 2], "cannot be decoded"),
    "I02 two bytes short": (JPEG[:-2], "cannot be decoded"),
    "I06 bomb of 48 KB": (huge_png(20_000), "too many pixels"),
    "I07 bomb below Pillow's line": (huge_png(13_000), "too many pixels: 13000x13000"),
    "I08 a web page": (b"<html>403 Forbidden</html>", "a web page"),
    "I08 noise": (bytes(range(256)) * 8, "not an image"),
    "I10 EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "I10 PDF": (b"%PDF-1.7\n", "PDF"),
    "I10 FITS": (b"SIMPLE  =                    T", "FITS"),
    "I10 float TIFF": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "32-bit"),
}


@pytest.mark.parametrize("case", QUARANTINED)
def test_an_image_that_cannot_be_used_is_named_and_the_rest_go_on(
    tmp_path: Path, case: str
) -> None:
    content, reason = QUARANTINED[case]
    root = put(tmp_path, {"a/good.png": GOOD, "a/bad.JPEG": content})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scan = scan_folder_tree(root, threads=1)
    # Nor the time: what takes long here is to fill the memory of all those pixels.
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 50_000
    assert list(scan.samples["key"]) == ["a/good.png"]
    assert list(scan.quarantined["key"]) == ["a/bad.JPEG"]
    assert reason in scan.quarantined["reason"][0]
    assert scan.ledger(0.5).summary()["n_quarantined"] == 1


def _mode(mode: str, kind: str) -> bytes:
    return encoded(blotches(4).convert(mode), kind)


USABLE = {
    "I03 PNG named .JPEG": (encoded(blotches(3), "PNG"), "PNG", (48, 40)),
    "I03 WebP named .JPEG": (encoded(blotches(3), "WEBP"), "WEBP", (48, 40)),
    "I03 GIF named .JPEG": (encoded(blotches(3), "GIF"), "GIF", (48, 40)),
    "I04 CMYK": (_mode("CMYK", "JPEG"), "JPEG", (48, 40)),
    "I04 grey": (_mode("L", "JPEG"), "JPEG", (48, 40)),
    "I04 grey and alpha": (_mode("LA", "PNG"), "PNG", (48, 40)),
    "I04 alpha": (_mode("RGBA", "PNG"), "PNG", (48, 40)),
    "I04 palette": (_mode("P", "PNG"), "PNG", (48, 40)),
    "I04 16 bits": (
        encoded(Image.fromarray(np.full((40, 48), 4096, np.uint16)), "PNG"), "PNG", (48, 40)),
    "I05 turned": (_exif(6), "JPEG", (40, 48)),
    "I05 broken EXIF": (
        encoded(blotches(3), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), "JPEG", (48, 40)),
    "I09 one pixel": (encoded(Image.new("RGB", (1, 1))), "PNG", (1, 1)),
    "I09 a sliver": (encoded(Image.new("RGB", (5000, 1))), "PNG", (5000, 1)),
    "I10 a phone's MPO": (
        encoded(blotches(3), "MPO", save_all=True, append_images=[blotches(5)]),
        "JPEG", (48, 40)),
    "I11 a zip behind a JPEG": (JPEG + b"PK\x03\x04 more", "JPEG", (200, 150)),
}  # fmt: skip


@pytest.mark.parametrize("case", USABLE)
def test_an_odd_image_is_used_and_counted_by_what_it_is(tmp_path: Path, case: str) -> None:
    from hgnetv2_pipeline.data.preprocess import Preprocess

    content, kind, size = USABLE[case]
    root = put(tmp_path, {"odd.JPEG": content})
    scan = scan_unlabelled(root, threads=1)
    row = scan.samples.iloc[0]
    assert (row["format"], (row["width"], row["height"])) == (kind, size)
    pixels = Preprocess(resize_short=32, crop=24).image(content)
    assert pixels.shape == (24, 24, 3) and pixels.dtype == np.uint8


def test_i10_no_foreign_decoder_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    eps = encoded(blotches(1), "EPS")
    root = put(tmp_path, {"x.eps": eps, "y.JPEG": eps, "good.png": GOOD})
    assert list(scan_unlabelled(root).quarantined["key"]) == ["x.eps", "y.JPEG"]


@pytest.mark.parametrize("how", ["deleted", "emptied", "locked"])
def test_i12_what_changed_between_listing_and_reading_is_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    root = put(tmp_path, {"a.png": GOOD, "b.png": encoded(blotches(8))})
    (root / "list.txt").write_text("a.png 0\nb.png 0\n")
    read = os.open

    def meddle(path: object, *arguments: object) -> int:
        if Path(str(path)).name == "b.png":
            if how == "deleted":
                (root / "b.png").unlink()
            elif how == "emptied":
                (root / "b.png").write_bytes(b"")
            else:
                raise PermissionError(13, "Permission denied")
        return read(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", meddle)
    scan = scan_list(root / "list.txt", root, threads=1)
    assert scan.quarantined[["key", "line"]].values.tolist() == [["b.png", 2]]
    assert list(scan.samples["key"]) == ["a.png"]


def test_i13_a_set_of_bad_images_alone_stops_with_one_reason(tmp_path: Path) -> None:
    root = put(tmp_path, {f"a/{number}.jpg": b"" for number in range(50)})
    with pytest.raises(DataError, match="none of 50 images can be used; a/0.jpg: .*empty"):
        scan_folder_tree(root)


@pytest.mark.parametrize(
    ("listed", "max_bad", "bad", "stops"),
    [
        (1000, 0.0, 1, True),
        (1000, 0.001, 1, False),
        (999, 0.001, 1, True),
        (3000, 0.001, 3, False),
        (3000, 0.001, 4, True),
    ],
)
def test_i14_max_bad_is_exact_and_the_sum_holds(
    listed: int, max_bad: float, bad: int, stops: bool
) -> None:
    ledger = Ledger(listed, max_bad)
    for number in range(bad):
        ledger.quarantine(f"{number}.jpg", "empty")
    if stops:
        with pytest.raises(DataError, match=f"{bad} of {listed:,} images cannot be used"):
            ledger.check()
    else:
        ledger.check()
    counts = ledger.summary()
    assert counts["n_used"] + counts["n_quarantined"] + counts["n_refused"] == listed


def test_i15_a_bad_last_image_loses_no_other(tmp_path: Path) -> None:
    files = {f"{number:02d}.png": encoded(blotches(number)) for number in range(40)}
    root = put(tmp_path, {**files, "99.png": b"no image"})
    scan = scan_unlabelled(root, threads=2)
    assert list(scan.samples["key"]) == sorted(files)
    assert list(scan.quarantined["key"]) == ["99.png"]
