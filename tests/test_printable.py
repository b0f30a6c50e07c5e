"""Text of others cannot steer a terminal, forge a line or start a formula, whatever its door.

Rows of the fault table: S11 (log injection) for the commands, and all whose message names a file.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from hgnetv2_pipeline import printable as doors
from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.data.decisions import Decision, record_decision
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import quarantine_frame, read_quarantine, write_quarantine
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.exits import explain
from hgnetv2_pipeline.mining.review import apply_review, count_decisions, read_review
from hgnetv2_pipeline.printable import csv_cell, csv_value, json_text, lines, printable
from hgnetv2_pipeline.reporting.blocks import Report, Section, Table, Text
from hgnetv2_pipeline.reporting.page import to_html, to_markdown

SOURCE = Path(doors.__file__).parent

# C0, DEL, C1, line and paragraph separators, bidirectional and zero-width signs, broken UTF-8.
HOSTILE = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "one-byte CSI": "\x9b31m",
    "forged line": "\nloads       yes",
    "carriage return": "\rloads       yes",
    "next line": "\x85loads       yes",
    "backspace": "\b\b\b",
    "delete": "\x7f",
    "line separator": "\u2028loads       yes",
    "paragraph separator": "\u2029loads       yes",
    "right to left": "gpj.\u202eexe",
    "isolate": "\u2066\u2069",
    "zero width": "\u200b\u200d\u2060",
    "byte order mark": "\ufeff",
    "tag": "\U000e0041",
}
every_hostile = pytest.mark.parametrize("sign", HOSTILE.values(), ids=HOSTILE)
texts = st.text(st.characters(codec=None, categories=None) | st.sampled_from("\x1b\n'=+-@\u202e"))


def unprintable(text: str) -> set[str]:
    """Signs of ``text`` that do something else than stand there; the ends of lines may."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {sign for sign in text if unicodedata.category(sign) in kinds} - {"\n"}


# --- the functions --------------------------------------------------------------------------------


@given(texts)
@settings(deadline=None)
def test_shown_text_is_one_printable_line_and_shown_twice_the_same(text: str) -> None:
    shown = printable(text)
    assert not unprintable(shown)
    assert "\n" not in shown
    assert printable(shown) == shown


@given(texts)
@example("=1+2")
@example("'=1+2")
@example("\uff1d1")
@settings(deadline=None)
def test_a_cell_is_no_formula_and_its_text_comes_back(text: str) -> None:
    cell = csv_cell(text)
    assert isinstance(cell, str)
    assert cell[:1] not in {*"=+-@\t\r\uff1d\uff0b\uff0d\uff20"} - {""}
    row = next(csv.reader(io.StringIO(doors.csv_line([text, 3]))))
    assert row[-1] == "3"
    assert csv_value(row[0]) == printable(text)


@pytest.mark.parametrize("number", [-1, -1.5, 3, True, None])
def test_numbers_are_no_formulas(number: object) -> None:
    assert csv_cell(number) is number


@given(st.dictionaries(texts, st.lists(texts, max_size=2), max_size=2))
@settings(deadline=None, max_examples=50)
def test_json_is_exact_and_printable(value: object) -> None:
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert not unprintable(text)
        assert json.loads(text) == value


@every_hostile
def test_only_line_ends_between_parts_end_a_line(sign: str) -> None:
    made = lines(f"a{sign}", lines("b", f"c{sign}"))
    assert len(made.splitlines()) == 3
    assert lines(made) == made


def test_a_long_text_is_cut_and_says_how_long_it_is() -> None:
    assert doors.shorten("x\n" * 500, 6) == "x\\nx\\n... (1,000 characters)"


# --- logs -----------------------------------------------------------------------------------------


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with a handler of its own, as libraries have, and what the handler wrote."""
    before = logging.getLogRecordFactory()
    logger, written = logging.Logger("a library"), io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    doors.show_logs()
    doors.show_logs()
    yield logger, written
    logging.setLogRecordFactory(before)


@every_hostile
def test_no_record_of_a_log_holds_a_hostile_sign(
    sign: str, logged: tuple[logging.Logger, io.StringIO]
) -> None:
    """C04 and S11: what a log says of a file is one line, of whatever type the argument is."""
    logger, written = logged
    logger.info("%s: %s", f"a{sign}.jpg", DataError(f"bad {sign}"))
    logger.info(f"made of anything {sign}")
    logger.info("%(name)s", {"name": sign})
    logger.info(DataError(sign))
    logger.info("%r", Path(sign))
    text = written.getvalue()
    assert not unprintable(text)
    assert len(text.splitlines()) == 5


def test_a_record_keeps_its_numbers_its_own_lines_and_what_is_printable(
    logged: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = logged
    logger.info("%d of %.1f\n%s", np.int64(2), 0.25, lines("a table", "of two lines"))
    logger.info("%r %s", "it's", "Äpfel 四")
    assert written.getvalue() == ('INFO 2 of 0.2\na table\nof two lines\nINFO "it\'s" Äpfel 四\n')


@every_hostile
def test_no_line_of_a_traceback_passes_for_a_record(
    sign: str, logged: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, written = logged
    try:
        raise RuntimeError(f"no{sign}\nINFO all is well")
    except RuntimeError:
        logger.exception("failed")
    first, *rest = written.getvalue().split("\n")[:-1]
    assert first == "ERROR failed"
    assert all(line.startswith("  ") for line in rest)
    assert not unprintable(written.getvalue())


# --- errors ---------------------------------------------------------------------------------------


@every_hostile
@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError, 3), (RuntimeError, 1), (lambda text: FileNotFoundError(2, "No such", text), 2)],
    ids=["ours", "a library's", "a file's"],
)
def test_the_words_of_an_error_are_one_printable_line(error, code: int, sign: str) -> None:
    raised = error(f"a{sign}.jpg")
    assert explain(raised, debug="x")[0] == code
    raised.add_note(f"the end of a log {sign}")
    told, note = explain(raised, debug="x")[1].split("\n")
    assert not unprintable(told + note)
    assert note.startswith("  the end of a log")


# --- the commands ---------------------------------------------------------------------------------


def hgnetv2(*arguments: object, exits: int = 0) -> tuple[str, str]:
    """What is printed on a terminal, which takes colours: (standard output, standard error)."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], color=True)
    assert done.exit_code == exits, done.output
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX classifier whose class names and other metadata are hostile."""
    names = (*(f"x{sign}" for sign in HOSTILE.values()), "=cmd|'/c calc'!A1")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        "hostile",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", len(names)])],
        [onnx.numpy_helper.from_array(np.ones((3, len(names)), np.float32), "w")],
    )
    model = onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    props = ModelCard(preprocess=Preprocess(32, 32), classes=names).to_props()
    props |= {f"note {n}{sign}": f"a{sign}" for n, sign in enumerate(HOSTILE.values())}
    onnx.helper.set_model_props(model, props)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def hostile_pictures(tmp_path: Path) -> list[Path]:
    """Pictures with hostile names, every second of them none."""
    made = []
    for number, sign in enumerate([*HOSTILE.values(), "=1+2", "\udcff"]):
        path = tmp_path / f"{sign}{number}.png"
        if number % 2:
            path.write_bytes(b"no picture")
        else:
            Image.new("RGB", (40, 40), (number, 0, 0)).save(path)
        made.append(path)
    return made


@pytest.mark.parametrize("style", ["predict_cls", "infer", "csv", "jsonl"])
def test_predict_shows_hostile_names_of_files_and_classes(
    style: str, hostile_model: Path, hostile_pictures: list[Path], tmp_path: Path
) -> None:
    model = ("predict", "--model", hostile_model, "--engine", "ort", "--topk", 20)
    out, err = hgnetv2(*model, "--format", style, *hostile_pictures)
    assert not unprintable(out)
    assert not unprintable(re.sub("\x1b\\[[0-9]+m", "", err))
    rows = out.splitlines()
    assert len(rows) == {"infer": 1, "csv": 1 + len(hostile_pictures)}.get(
        style, len(hostile_pictures)
    )
    if style == "jsonl":
        names = [json.loads(row)["file_name"] for row in rows]
        given = [os.fsencode(path).decode("utf-8", "backslashreplace") for path in hostile_pictures]
        assert names == given, "JSON is exact"
    if style == "csv":
        for row in csv.reader(rows):
            assert not any(cell.startswith(("=", "+", "@")) for cell in row)
        assert "'=cmd|'/c calc'!A1" in out
    written = tmp_path / f"out.{'txt' if style in ('predict_cls', 'infer') else style}"
    hgnetv2(*model, "--format", style, "--out", written, *hostile_pictures)
    assert written.read_text(encoding="utf-8") == out


@pytest.mark.parametrize("more", [(), ("--tensors",), ("--json",)], ids=" ".join)
@pytest.mark.parametrize("kind", ["onnx", "safetensors", "pth"])
def test_inspect_shows_what_a_file_holds_and_forges_no_line(
    kind: str, more: tuple[str, ...], hostile_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = hostile_model if kind == "onnx" else tmp_path / f"forged.{kind}"
    # Names of tensors with control characters are refused, see below.
    tensors = {str(number): torch.ones(2) for number in range(len(HOSTILE))}
    if kind == "safetensors":
        save_file(tensors, path, metadata={sign: sign * 300 for sign in HOSTILE.values()})
    elif kind == "pth":
        torch.save(tensors, path)
    out, _ = hgnetv2("inspect", path, *more)
    assert not unprintable(out)
    if more == ("--json",):
        facts = json.loads(out)
        assert len(facts["metadata"] if kind == "onnx" else facts["tensors"]) >= len(HOSTILE)
        return
    assert sum(line.startswith("loads") for line in out.splitlines()) == (kind == "onnx") * 0
    assert max(map(len, out.splitlines())) < 1000


@every_hostile
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_inspect_shows_the_name_of_a_tensor_or_refuses_it_in_one_printable_line(
    kind: str, sign: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"forged.{kind}"
    tensors = {f"0{sign}": torch.ones(2)}
    save_file(tensors, path) if kind == "safetensors" else torch.save(tensors, path)
    done = CliRunner().invoke(main, ["inspect", str(path), "--tensors"], color=True)
    assert done.exit_code in (0, 4)
    assert not unprintable(done.stdout)
    told = re.sub("\x1b\\[[0-9]+m", "", done.stderr)
    assert not unprintable(told)
    assert len(told.splitlines()) == (done.exit_code == 4)


@every_hostile
def test_a_refusal_of_a_command_is_one_printable_line(sign: str, tmp_path: Path) -> None:
    for arguments in (
        ("inspect", tmp_path / f"no{sign}.pth"),
        ("predict", "--model", tmp_path / f"no{sign}.onnx", "x.jpg"),
        ("predict", "--model", "x.onnx", f"--no{sign}"),
        ("export-weights", f"no{sign}", "--style", "timm", "--out", "x.pth"),
    ):
        done = CliRunner().invoke(main, [str(part) for part in arguments], color=False)
        assert done.exit_code in (2, 3, 4)
        assert not unprintable(done.stderr)
        assert not [line for line in done.stderr.splitlines() if line.startswith("loads")]


def test_a_traceback_that_was_asked_for_is_printable() -> None:
    sign = "".join(HOSTILE.values())
    call = "import sys; from hgnetv2_pipeline.commands.main import main; main(sys.argv[1:])"
    words = ["--debug", "predict", "--model", f"no{sign}.onnx", "x.jpg"]
    done = subprocess.run(
        [sys.executable, "-c", call, *words], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not unprintable(done.stderr)
    assert all(line.startswith("  ") for line in done.stderr.splitlines())


# --- files that are read by people ----------------------------------------------------------------


def test_a_quarantine_with_hostile_keys_is_read_back(tmp_path: Path) -> None:
    rows = [(f"{number}{sign}", f"={sign}", number) for number, sign in enumerate(HOSTILE.values())]
    frame = quarantine_frame([*rows, ("=1+2", "'=x", None), ("NA", "null", 3)])
    text = write_quarantine(tmp_path / "q.csv", frame).read_text(encoding="utf-8")
    assert not unprintable(text)
    assert "\n'=1+2,''=x,\n" in text
    back = read_quarantine(tmp_path / "q.csv")
    assert back["key"].tolist() == frame["key"].map(printable).tolist()
    assert back["reason"].tolist() == frame["reason"].map(printable).tolist()
    assert back["line"].equals(frame["line"])


def test_decisions_reach_the_images_whose_names_a_csv_spells_otherwise(tmp_path: Path) -> None:
    keys = ["=1+2.jpg", "'=x.jpg", "a\u202eb.jpg", "+49.jpg", "plain.jpg", "a\\u202ec.jpg"]
    dedup = pd.DataFrame(
        {
            "key": keys, "val_key": "@v.jpg", "protected": "val", "channel": "phash",
            "distance": 3, "inliers": 0, "correlation": 0.5, "high_pass": 0.5, "decision": "review",
        }
    )  # fmt: skip
    path = tmp_path / "review.csv"
    for key in keys:
        row = {"list": "duplicates", "key": key, "decision": "remove", "label": "", "shown": "",
               "score": ""}  # fmt: skip
        record_decision(path, row, Decision())
    assert not unprintable(path.read_text(encoding="utf-8"))
    decided = apply_review(dedup, read_review(path))
    assert sorted(decided["key"]) == sorted(keys)
    assert set(decided["decision"]) == {"remove"}
    assert count_decisions(dedup, read_review(path))["waiting"] == 0


@every_hostile
def test_a_page_shows_hostile_signs(sign: str) -> None:
    table = Table(("name",), ((f"a{sign}b",),), f"caption {sign}", code=("name",))
    report = Report(
        title=f"t{sign}", subtitle=sign, banner=sign, head=(Text(f"x{sign}"),),
        sections=(Section(title=f"s{sign}", anchor="a", blocks=(table,)),),
    )  # fmt: skip
    for text in (to_html(report), to_markdown(report)):
        assert not unprintable(text)


# --- there is no other door -----------------------------------------------------------------------


def test_nothing_else_prints_or_writes_a_csv() -> None:
    # Decisions of a person become part of a fingerprint there, not a file.
    of_their_own = {"printable.py", "deployment/kit/run.py", "project/mining/selecting.py"}
    door = re.compile(r"(?m)^ *print\(|click\.s?echo\(|csv\.writer\(")
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).as_posix() in of_their_own:
            continue
        text = path.read_text(encoding="utf-8")
        assert not door.findall(text), path
        for found in re.finditer(r"\.to_csv\(", text):
            line = text[: found.start()].rpartition("\n")[2]
            assert "csv_frame(" in line, f"{path}: {line}"
