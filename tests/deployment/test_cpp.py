"""The C++ engine against Python: the same pixels, answers, lines and exit codes.

Builds ``deploy/cpp`` with CMake, or takes the build that HGNETV2_CPP names (``make cpp`` does).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cpp_pictures import make_pictures
from deployment_cases import CLASSES, SIDE

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.predict import Record, predict_paths
from hgnetv2_pipeline.deployment.prediction_formats import format_infer, format_predict_cls
from hgnetv2_pipeline.deployment.preprocess_file import preprocess_file
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.models.hgnetv2 import Backbone

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "deploy" / "cpp"
sys.path.insert(0, str(SOURCE.parents[1] / "benchmarks"))

from cpp_library import Library, Model, Refused  # noqa: E402

TOOLS = {"cmake": "cmake", "c++": "g++", "cc": "gcc", "pkg-config": "pkg-config"}
HEADERS = {
    "stdio.h>\n#include <jpeglib.h": "libjpeg62-turbo-dev",
    "png.h": "libpng-dev",
    "nlohmann/json.hpp": "nlohmann-json3-dev",
}
RUNTIMES = {"openvino": "openvino", "onnxruntime": "ort"}
VIEWS = (
    Preprocess(),
    Preprocess(resize_short=256, background=(255, 255, 255)),
    Preprocess(crop=(64, 192), resize_short=72, background=(1, 2, 200), depth=12),
    Preprocess(fit="squash", crop=(96, 50), depth=(100, 40000)),
    Preprocess(fit="pad", crop=(130, 71)),
    Preprocess(fit="pad", interpolation="lanczos", pad_colour=(1, 2, 3)),
    Preprocess(interpolation="bilinear", crop=32, resize_short=40),
    Preprocess(interpolation="lanczos", crop=24, resize_short=24),
    Preprocess(interpolation="nearest"),
)


def _run(*command: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def _openvino() -> Path:
    found = importlib.util.find_spec("openvino")
    if found is None or found.origin is None:
        pytest.skip("the C++ engine needs OpenVINO's package (pip install openvino)")
    return Path(found.origin).parent / "cmake"


def _missing() -> list[str]:
    """Debian's packages of what is not here."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if not missing:
        for header, package in HEADERS.items():
            code = f"#include <{header}>\n"
            check = ["c++", "-E", "-x", "c++", "-"]
            if subprocess.run(check, input=code, capture_output=True, text=True).returncode:
                missing.append(package)
    return missing


def _build(folder: Path, *options: str, targets: tuple[str, ...] = ()) -> Path:
    if missing := _missing():
        pytest.skip(f"the C++ engine needs: apt-get install {' '.join(missing)}")
    _run("cmake", "-S", SOURCE, "-B", folder, *options)
    _run("cmake", "--build", folder, "-j2", *(("--target", *targets) if targets else ()))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("HGNETV2_CPP"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("cpp")
    return _build(folder, f"-DOpenVINO_DIR={_openvino()}")


@pytest.fixture(scope="module")
def library(built: Path) -> Library:
    return Library(built)


@pytest.fixture(scope="module")
def exported(b0: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write_bundle(b0, folder, image_size=SIDE, class_names=CLASSES)
    return folder


@pytest.fixture(scope="module")
def model(library: Library, exported: Path) -> Model:
    return library.open(exported, threads=1)


@pytest.fixture(scope="module")
def engine(exported: Path) -> Engine:
    return load_engine(exported, engine="openvino", threads=1, batch_size=4)


@pytest.fixture(scope="module")
def files() -> list[tuple[str, bytes]]:
    return list(make_pictures(200))


@pytest.fixture(scope="module")
def pictures_folder(
    files: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """200 pictures, and what is none, under names that have to be shown with care."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "inner dir" / ".hidden").mkdir(parents=True)
    for number, (what, content) in enumerate(files):
        place = folder / "inner dir" if number % 3 else folder
        ending = "PNG" if "PNG" in what else "jpg"
        name = "é '\x1b\u202e" if number % 50 == 0 else ""
        (place / f"{number:03}{name}.{ending}").write_bytes(content)
    (folder / "inner dir" / ".hidden" / "a.png").write_bytes(content)
    (folder / "cut.png").write_bytes(content[:-20])
    (folder / "empty.jpg").touch()
    (folder / "notes.md").touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/latin \xe9.png")).touch()
    return folder


@pytest.mark.parametrize("preprocess", VIEWS, ids=lambda view: f"{view.fit}-{view.interpolation}")
def test_pixels_are_pythons_on_200_pictures(
    preprocess: Preprocess, library: Library, files: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    write_json(tmp_path / "preprocess.json", preprocess_file(preprocess))
    view = library.open_preprocess(tmp_path)
    assert view.size == preprocess.size
    differing = []
    for what, content in files:
        pixels = view.pixels(content)
        if not np.array_equal(pixels, preprocess.image(content)):
            differing.append(what)
        assert np.array_equal(view.tensor(content), preprocess.normalize(pixels[None])[0])
    assert differing == []


@pytest.mark.parametrize("style", ["predict_cls", "infer", "jsonl"])
def test_answers_and_lines_are_pythons(
    style: str, built: Path, exported: Path, engine: Engine, pictures_folder: Path
) -> None:
    expected = predict_paths(engine, pictures_folder, batch_size=4)
    printed = _run(
        built / "hgnetv2_predict", "--model", exported, "--threads", 1, "--batch-size", 4,
        "--format", style, pictures_folder,
    ).stdout  # fmt: skip
    assert len(expected) == 203
    if style == "infer":
        assert printed == format_infer(expected) + "\n"
    elif style == "predict_cls":
        assert printed == "".join(f"{format_predict_cls(record)}\n" for record in expected)
    else:
        found: list[Record] = [json.loads(line) for line in printed.splitlines()]
        assert [_without_scores(record) for record in found] == list(map(_without_scores, expected))
        for one, other in zip(found, expected, strict=True):
            # The logits are the same bits; exp of two libraries differs in the last one.
            np.testing.assert_allclose(one["scores"], other["scores"], rtol=1e-12)


def _without_scores(record: Record) -> dict[str, object]:
    return {name: value for name, value in record.items() if name != "scores"}


def test_logits_are_the_same_bits_as_of_the_same_runtime_in_python(
    library: Library, exported: Path
) -> None:
    """Of every runtime that the build has and that runs here; the tests' own has OpenVINO alone."""
    images = np.random.default_rng(2).normal(size=(5, 3, SIDE, SIDE)).astype(np.float32)
    for name in set(library.engines) & set(RUNTIMES):
        opened = library.open(exported, engine=name, threads=1, batch_size=2)
        with load_engine(exported, engine=RUNTIMES[name], threads=1, batch_size=2) as python:
            filled = np.concatenate([images, np.zeros_like(images[:1])])
            expected = np.concatenate([python.logits(filled[i : i + 2]) for i in (0, 2, 4)])[:5]
        assert np.array_equal(opened.logits(images), expected)
        opened.close()


def test_a_bad_picture_of_a_batch_costs_the_others_nothing(
    library: Library, exported: Path, engine: Engine
) -> None:
    good = [content for _, content in make_pictures(4)]
    opened = library.open(exported, threads=1, batch_size=4)
    first, bad, *rest = opened.classify([good[0], b"no picture", *good[1:]], 2)
    assert bad == "not an image of an allowed format; allowed are JPEG and PNG"
    expected = [
        list(zip(record["class_ids"], record["scores"], strict=True))
        for record in predict_paths(engine, good, topk=2)
    ]
    for one, other in zip([first, *rest], expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    opened.close()


def test_what_the_c_library_is_not_given_is_a_parameter_error(
    library: Library, model: Model, exported: Path
) -> None:
    assert library.engines[0] == "openvino"
    assert [model.label(number) for number in (0, len(CLASSES) - 1, len(CLASSES))] == [
        CLASSES[0], CLASSES[-1], None,
    ]  # fmt: skip
    for options in ({"engine": "abacus"}, {"threads": -1}, {"batch_size": -1}):
        with pytest.raises(Refused) as caught:
            library.open(exported, **options)
        assert caught.value.args[0] == 2
    with pytest.raises(Refused, match="NULL"):
        library.call("hgnetv2_open", None, None, None)


def test_several_labels_are_chosen_by_the_models_thresholds(
    built: Path, b0: Backbone, tmp_path: Path
) -> None:
    thresholds = [0.9, 0.5, 0.1, 0.0, 1.0, 0.3, 0.7]
    card = {"task": "multi_label", "thresholds": json.dumps(thresholds)}
    write_bundle(b0, tmp_path / "m", image_size=SIDE, class_names=CLASSES, metadata=card)
    (tmp_path / "a.png").write_bytes(list(make_pictures(2))[1][1])
    with load_engine(tmp_path / "m", engine="openvino", threads=1) as loaded:
        for options, python in (([], {}), (["--threshold", "0.2"], {"threshold": 0.2}),
                                (["--single-label"], {"multi_label": False})):  # fmt: skip
            expected = predict_paths(loaded, tmp_path / "a.png", topk=7, **python)
            printed = _run(built / "hgnetv2_predict", "--model", tmp_path / "m", "--topk", 7,
                           "--format", "infer", *options, tmp_path / "a.png").stdout  # fmt: skip
            assert printed == format_infer(expected) + "\n"


def _spoilt(exported: Path, folder: Path, name: str, content: bytes | None) -> Path:
    shutil.copytree(exported, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.onnx", None, "has no model.onnx"),
        ("model.onnx", b"\x08\x07garbage", "no ONNX file"),
        ("model.onnx", b"\x3a\x00", "OpenVINO cannot read"),  # an empty graph
        ("model.onnx", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "no ONNX file"),
        ("labels.txt", None, "labels.txt: no such file"),
        ("labels.txt", b"one\ntwo\n", "7 outputs and 2 class names"),
        ("preprocess.json", None, "preprocess.json: no such file"),
        ("preprocess.json", b"[1]", "no JSON object"),
        ("preprocess.json", b'{"fit": "stretch"}', "one of crop, pad, squash is needed"),
        ("preprocess.json", b'{"crop": 96}', "wrongly"),  # the self-test of another input
        ("preprocess.json", b'{"crop": 64, "mean": [0, 0, 0]}', "wrongly"),
        ("manifest.json", b"[" * 100_000, "no JSON object"),
        ("manifest.json", b'{"task": "multi_label", "thresholds": "[2]"}', "thresholds"),
    ],
)
def test_a_damaged_folder_is_one_line_and_exit_code_4(
    name: str, content: bytes | None, said: str, built: Path, exported: Path, tmp_path: Path
) -> None:
    folder = _spoilt(exported, tmp_path / "m", name, content)
    done = _run(built / "hgnetv2_predict", "--model", folder, tmp_path / "a.jpg", code=4)
    *others, last = done.stderr.splitlines()
    assert said in last and done.stdout == ""
    assert others == [] or "OpenVINO" in said  # which prints lines of its own before


def test_exit_codes_are_those_of_hgnetv2_predict(
    built: Path, exported: Path, tmp_path: Path
) -> None:
    tool = [built / "hgnetv2_predict", "--model", exported]
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(list(make_pictures(2))[1][1])
    bad.write_text("<html>")
    (tmp_path / "empty").mkdir()
    (tmp_path / "names").write_text("0 a\n2 b\n")
    os.mkfifo(tmp_path / "pipe.png")
    missing = tmp_path / "missing.png"
    assert "no such file" in _run(*tool, good, missing).stdout
    assert "a web page" in _run(*tool, good, bad, "--strict", code=3).stderr
    assert "2 of 2 inputs" in _run(*tool, bad, tmp_path / "pipe.png", code=3).stderr
    assert "nothing to predict" in _run(*tool, tmp_path / "empty", code=3).stderr
    assert "without a gap" in _run(*tool, good, "--class-map", tmp_path / "names", code=3).stderr
    for options in (["--topk", 0], ["--threshold", 2], ["--engine", "abacus"], ["--device", "tpu"],
                    ["--format", "xml"], ["--colour"], ["--out", tmp_path / "a.xls"],
                    ["--out", tmp_path / "no" / "a.txt"], ["--batch-size"]):  # fmt: skip
        assert len(_run(*tool, good, *options, code=2).stderr.splitlines()) == 1
    _run(built / "hgnetv2_predict", "--model", tmp_path / "nowhere", good, code=4)
    _run(*tool, good, "--out", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == _run(*tool, good).stdout


def test_class_names_of_a_file_replace_the_models(
    built: Path, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(list(make_pictures(2))[1][1])
    tool = [built / "hgnetv2_predict", "--model", exported, "--topk", 7, "--format", "jsonl"]
    found = []
    for text in ("\n".join("abcdefg"), "\n".join(f"{6 - n} {c}" for n, c in enumerate("gfedcba"))):
        (tmp_path / "names").write_text(text)
        row = json.loads(_run(*tool, "--class-map", tmp_path / "names", tmp_path / "a.png").stdout)
        found.append(row["label_names"])
        assert row["label_names"] == ["abcdefg"[number] for number in row["class_ids"]]
    assert found[0] == found[1]


def test_damaged_jpegs_are_read_or_refused_as_by_python(
    library: Library, files: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    """With the same pixels. PNG is left out: libpng holds the checksums of pixels, Pillow not."""
    write_json(tmp_path / "preprocess.json", preprocess_file(VIEWS[0]))
    view, random = library.open_preprocess(tmp_path), np.random.default_rng(3)
    differing = []
    for what, content in (file for file in files if "PNG" not in file[0]):
        cut = int(random.integers(1, len(content)))
        for damaged in (content[:cut], content + b"trailing", content[:cut] + content[cut + 1 :]):
            expected = found = None
            with suppress(DataError):
                expected = VIEWS[0].image(damaged)
            with suppress(Refused):
                found = view.pixels(damaged)
            if expected is None or found is None:
                same = expected is found
            else:
                same = np.array_equal(expected, found)
            if not same:
                differing.append((what, cut))
    assert differing == []


def test_the_installed_library_is_linked_by_a_c_program(
    built: Path, exported: Path, tmp_path: Path
) -> None:
    _run("cmake", "--install", built, "--prefix", tmp_path / "usr")
    (config,) = (tmp_path / "usr").rglob("hgnetv2.pc")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "hgnetv2"], capture_output=True, text=True, check=True,
        env=os.environ | {"PKG_CONFIG_PATH": str(config.parent)},
    ).stdout.split()  # fmt: skip
    program = tmp_path / "classify"
    _run("cc", "-std=c11", "-Wall", "-Werror", SOURCE / "examples" / "classify.c", *flags,
         f"-Wl,-rpath,{config.parent.parent}", "-o", program)  # fmt: skip
    (tmp_path / "a.png").write_bytes(list(make_pictures(2))[1][1])
    rows = _run(program, exported, tmp_path / "a.png").stdout.splitlines()
    assert len(rows) == 5 and rows[0].split("\t")[3] in CLASSES
    assert "no model.onnx" in _run(program, tmp_path, tmp_path / "a.png", code=4).stderr


def test_2000_damaged_pictures_under_the_sanitizers(tmp_path: Path) -> None:
    """Every step outside of memory and every undefined operation would end the program."""
    programs = ("test_pictures", "fuzz_pictures")
    folder = _build(
        tmp_path, "-DHGNETV2_SANITIZE=ON", "-DHGNETV2_OPENVINO=OFF", targets=programs
    )  # fmt: skip
    assert "0 checks failed" in _run(folder / programs[0]).stdout
    assert "2000 pictures" in _run(folder / programs[1], 2000).stdout
