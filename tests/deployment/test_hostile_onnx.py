"""Hostile ONNX files and cards: refused in a line, or a row with its reason.

O01, O02, O03 and W08 of the fault table.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from onnx_mutations import (
    CLASSES,
    PREPROCESS,
    SIDE,
    card,
    check_onnx,
    field,
    flag,
    honest,
    make_onnx,
    model,
    rewritten_at,
)
from PIL import Image

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.data.decode import MAX_PIXELS
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines import with_ort
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.predict import iter_predictions
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from mutation import run_mutations

PICTURE = Image.new("RGB", (12, 10), (90, 20, 200))


def saved(path: Path, made: Any) -> Path:
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return path


def refused(path: Path, told: str) -> str:
    with pytest.raises(WeightsError, match=told) as caught:
        load_engine(path, "ort", threads=1).predict([PICTURE])
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_spoiled_onnx_file_is_answered_or_refused(count: int) -> None:
    report = run_mutations(make_onnx, count=count, seed=count, check=check_onnx, name="m.onnx")
    assert not report.faults, report
    assert report.verdicts["refused"] > count / 2
    assert report.verdicts["answered"] > count / 20


# --- O01: nothing outside the file ----------------------------------------------------------------

OUTSIDE = {
    "as onnx writes it": flag(14, 1) + field(13, field(1, b"location") + field(2, b"secret.bin")),
    "location alone": field(13, field(1, b"location") + field(2, b"secret.bin")),
    "flag alone": flag(14, 1),
    "a flag of 33 bits": flag(14, 1 << 32 | 1) + field(13, field(1, b"location")),
    "a flag of many bytes": b"\x70" + b"\x81" + b"\x80" * 8 + b"\x00",
    "keys of 33 bits": flag(14, 1, high=1) + field(13, field(1, b"location"), high=1),
    "keys of 60 bits": flag(14, 1, high=1 << 27) + field(13, field(1, b"location"), high=1 << 27),
    "keys of seven bytes": flag(14, 1, wide=7) + field(13, field(1, b"location"), wide=7),
    "one plain, one not": flag(14, 1) + field(13, field(1, b"location"), high=3),
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_values_outside_the_file_are_seen_however_they_are_written(
    name: str, place: str, tmp_path: Path
) -> None:
    """O01."""
    tensor = helper.make_tensor("inside", TensorProto.FLOAT, [9], [1.0] * 9)
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    nodes = [helper.make_node("Identity", ["q"], ["y"])]
    if place == "constant":
        nodes.insert(0, constant)
    if place == "branch":
        out = helper.make_tensor_value_info("c", TensorProto.FLOAT, None)
        body = helper.make_graph([constant], "b", [], [out])
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        nodes[:0] = [
            helper.make_node("Constant", [], ["t"], value=yes),
            helper.make_node("If", ["t"], ["i"], then_branch=body, else_branch=body),
        ]
    made = model(nodes)
    if place == "initializer":
        made.graph.initializer.append(tensor)
    (tmp_path / "secret.bin").write_bytes(np.ones(9, np.float32).tobytes())
    os.link(tmp_path / "secret.bin", tmp_path / "hard.bin")
    content = rewritten_at(made.SerializeToString(), b"inside", OUTSIDE[name])
    refused(saved(tmp_path / "m.onnx", content), "other files|32 bits|64 bits|whole ONNX")


def test_a_runtime_gets_the_bytes_that_were_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O01: not the path, under which another file may be by then."""
    path = saved(tmp_path / "m.onnx", model())
    read = with_ort.read_onnx

    def then_replaced(path: Path) -> Any:
        file = read(path)
        path.write_bytes(b"another file by now")
        return file

    monkeypatch.setattr(with_ort, "read_onnx", then_replaced)
    assert with_ort.OrtEngine(path).logits(np.zeros((1, 3, SIDE, SIDE), np.float32)).shape == (1, 3)


# --- O02, O03: whole, and of operators that are known ---------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 100, -1, -9])
def test_a_file_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    """O02."""
    content = honest()[0]
    refused(saved(tmp_path / "m.onnx", content[:cut]), "not a whole ONNX file")


@pytest.mark.parametrize(
    ("content", "told"),
    [(bytes(1000), "number 0"), (b"<html></html>", "whole ONNX"), (b"\x08\x08", "no graph")],
)
def test_what_is_no_onnx_file_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    """O02."""
    refused(saved(tmp_path / "m.onnx", content), told)


def test_an_entry_of_the_metadata_twice_is_refused(tmp_path: Path) -> None:
    """Runtimes differ in which of the two they take."""
    made = model()
    made.metadata_props.add(key="classes", value='["x", "y", "z"]')
    refused(saved(tmp_path / "m.onnx", made), "'classes' of its metadata twice")


@pytest.mark.parametrize("domain", ["", "no.such.domain"])
def test_an_operator_that_nobody_knows_is_named(domain: str, tmp_path: Path) -> None:
    """O03."""
    made = model([helper.make_node("NoSuchOperator", ["q"], ["y"], domain=domain)])
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
    refused(saved(tmp_path / "m.onnx", made), "ONNX Runtime cannot read .*NoSuchOperator")


def looping(kind: str) -> list[Any]:
    def info(name: str, element: int) -> Any:
        shape = ["N", len(CLASSES)] if element == TensorProto.FLOAT else []
        return helper.make_tensor_value_info(name, element, shape)

    if kind == "Scan":
        body = helper.make_graph(
            [helper.make_node("Identity", ["v"], ["w2"])], "b", [info("v", 1)], [info("w2", 1)]
        )
        return [helper.make_node("Scan", ["q"], ["y"], body=body, num_scan_inputs=1)]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "b",
        [info("i", TensorProto.INT64), info("c", TensorProto.BOOL), info("v", TensorProto.FLOAT)],
        [info("c2", TensorProto.BOOL), info("v2", TensorProto.FLOAT)],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    loop = helper.make_node("Loop", ["", "t", "q"], ["y"], body=body)
    constant = helper.make_node("Constant", [], ["t"], value=yes)
    if kind == "Loop in a branch":
        inner = helper.make_graph([loop], "i", [], [info("y", 1)])
        return [
            constant,
            helper.make_node("If", ["t"], ["y"], then_branch=inner, else_branch=inner),
        ]
    return [constant, loop]


@pytest.mark.parametrize("kind", ["Loop", "Loop in a branch", "Scan"])
def test_what_need_not_end_is_refused_before_it_begins(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", model(looping(kind)))
    refused(path, f"has the operator {kind[:4]}, which need not end")


@pytest.mark.parametrize("depth", [1, 40])
def test_functions_that_unfold_are_refused(depth: int, tmp_path: Path) -> None:
    """Forty functions that each call the next one twice are 10**12 nodes."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for number in range(depth):
        calls = [
            helper.make_node(f"F{number + 1}", ["x"], ["t"], domain="own"),
            helper.make_node(f"F{number + 1}", ["t"], ["y"], domain="own"),
        ]
        if number == depth - 1:
            calls = [helper.make_node("Neg", ["x"], ["y"])]
        functions.append(helper.make_function("own", f"F{number}", ["x"], ["y"], calls, opsets))
    made = model([helper.make_node("F0", ["q"], ["y"], domain="own")], functions=functions)
    refused(saved(tmp_path / "m.onnx", made), f"has {depth} functions of its own.*inline them")


def test_a_graph_that_does_not_end_in_its_time_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second guard, seen by letting a Loop past the first."""
    path = saved(tmp_path / "m.onnx", model(looping("Loop")))
    monkeypatch.setattr("hgnetv2_pipeline.weights.onnx_file._ENDLESS", ())
    monkeypatch.setattr(with_ort, "A_CALL", 0.2)
    monkeypatch.setattr(with_ort, "AN_IMAGE", 0.1)
    refused(path, "was stopped: no answer to 1 images within 0.3 seconds")
    assert time_limit_thread_ends()


def time_limit_thread_ends() -> bool:
    """An idle process has no thread that waits for calls."""
    import threading

    until = time.monotonic() + 60
    while any(thread.name == "time limit" for thread in threading.enumerate()):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "nodes",
    [
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["z"]),
            helper.make_node(
                "Constant", [], ["r"],
                value=helper.make_tensor("r", TensorProto.INT64, [4], [1, 2**11, 2**11, 2**11]),
            ),
            helper.make_node("Tile", ["z", "r"], ["big"]),
            helper.make_node("ReduceMean", ["big"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("Identity", ["m"], ["y"]),
        ],
        [
            helper.make_node(
                "Constant", [], ["r"],
                value=helper.make_tensor("r", TensorProto.INT64, [2], [7, 3]),
            ),
            helper.make_node("Reshape", ["q", "r"], ["y"]),
        ],
    ],
    ids=["asks for terabytes", "cannot be reshaped"],
)  # fmt: skip
def test_a_graph_that_fails_when_it_runs_is_one_line(nodes: list[Any], tmp_path: Path) -> None:
    """O03."""
    refused(saved(tmp_path / "m.onnx", model(nodes)), "cannot answer 1 images: ")


def test_another_number_of_rows_than_images_is_refused(tmp_path: Path) -> None:
    """O03."""
    twice = [helper.make_node("Concat", ["q", "q"], ["y"], axis=0)]
    refused(saved(tmp_path / "m.onnx", model(twice)), r"gave \[2, 3\] for 1 images")


# --- the card -------------------------------------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "crop": [32.5, True, False, 0, -8, 60_000, 2**70, None, "8", [8], float("nan"), float("inf")],
    "resize_short": [9.5, True, 0, 4097, 60_000, 10**9, None, {}, float("inf"), 1e30],
    "mean": [[0.5, 0.5], [0.5] * 4, 0.5, None, [None] * 3, [True, 0, 0], ["0"] * 3, [1e9, 0, 0],
             [float("nan")] * 3, [float("-inf"), 0, 0], [[0], [0], [0]]],
    "std": [[0.2, 0.2], [0, 0.2, 0.2], [-0.2, 0.2, 0.2], [1e-300, 0.2, 0.2], [1e-5, 0.2, 0.2],
            [float("nan")] * 3, [float("inf")] * 3, [1e9, 1, 1], "0.2", {}],
    "interpolation": ["cubic", 3, None, ["bicubic"], {}],
    "max_pixels": [0, -1, 1.5, True, None, "many", float("nan"), float("inf")],
    "unknown": [1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in VALUES.items() for value in values]
)
def test_a_value_of_the_card_outside_its_range_is_refused(
    name: str, value: Any, tmp_path: Path
) -> None:
    entries = card(preprocess=json.dumps(PREPROCESS | {name: value}))
    refused(saved(tmp_path / "m.onnx", model(props=entries)), "damaged (preprocessing|entry)")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in VALUES.items() for value in values]
)
def test_preprocessing_itself_takes_no_such_value(name: str, value: Any) -> None:
    with pytest.raises(ParameterError):
        Preprocess.from_dict(PREPROCESS | {name: value})


PROBES = [
    "[]", "1", "{", "null", '{"allowed": 1}', '{"allowed": 0, "logits": [[1, 2, 3]]}',
    '{"allowed": NaN, "logits": [[1, 2, 3]]}',
    *[
        f'{{"allowed": 1, "logits": {rows}}}'
        for rows in ("[[1, 1, 1]]", "[[1, 2]]", "[[1, 2, true]]", "[[1, 2, 1e400]]", "[[], []]",
                     "[[1, 2, 3], [1]]", [[1, 2, 3]] * 9)
    ],
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("preprocess", ["[]", "null", "1", '"x"', "", "{", "[" * 10_000, '{"crop": 1e400}', "NaN",
                        '{"crop": 8, "crop": 8}', '{"crop": %s}' % ("9" * 5000)]),
        ("classes", ["{}", "null", "[1, 2, 3]", '"abc"', "[[" * 5_000, "", '["a", "b", null]']),
        ("precision", ["fp33", "", "\x1b[2J", "[]"]),
        ("macs", ["-1", "1.5", "true", "null x", "9" * 5_000, "[" * 10_000, "1e3"]),
        ("params", ["[]", "NaN"]),
        ("probes", PROBES),
        ("parity_error", ["NaN", "Infinity", "-1", "true", '"0"', "1e999", "[" * 10_000]),
        ("format", ["", "hgnetv2_pipeline.onnx/2", "[" * 10_000, "\x1b[31m"]),
    ],
)  # fmt: skip
def test_a_damaged_entry_of_the_card_is_refused(key: str, texts: list[str], tmp_path: Path) -> None:
    for text in texts:
        path = saved(tmp_path / "m.onnx", model(props=card(**{key: text})))
        refused(path, "damaged|carries no card")


@pytest.mark.parametrize(
    "text", ["[" * 10_000, "{}", "null", "[0.5]", "[0.5, 0.5, 2]", "[0.5, true, 0.5]",
             "[NaN, 0, 0]", "[-0.1, 0, 0]", '["0", 0, 0]', "0.5", ""],
)  # fmt: skip
def test_thresholds_outside_their_range_are_refused(text: str, tmp_path: Path) -> None:
    props = card(task="multi_label", thresholds=text)
    engine = load_engine(saved(tmp_path / "m.onnx", model(props=props)), "ort")
    if text == "null":  # said to be unsaid
        assert engine.card.thresholds is None
        return
    with pytest.raises(WeightsError, match="damaged entry 'thresholds'"):
        engine.predict([PICTURE])


@pytest.mark.parametrize("said", [1, MAX_PIXELS, MAX_PIXELS + 1, 178_000_000, 10**18])
def test_a_card_lowers_the_cap_on_pixels_and_never_raises_it(said: int, tmp_path: Path) -> None:
    entries = card(preprocess=json.dumps(PREPROCESS | {"max_pixels": said}))
    engine = load_engine(saved(tmp_path / "m.onnx", model(props=entries)), "ort")
    assert engine.preprocess.max_pixels == min(said, MAX_PIXELS)


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b"], list("abcd")])
def test_the_wrong_number_of_class_names_is_the_files_fault_or_the_callers(
    names: list[str], tmp_path: Path
) -> None:
    path = saved(tmp_path / "m.onnx", model(props=card(classes=json.dumps(names))))
    refused(path, f"has 3 outputs and {len(names)} class names")
    with pytest.raises(ParameterError, match=f"has 3 outputs and {len(names)} class names"):
        load_engine(saved(path, model()), "ort", classes=names)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("preprocess.json", "[]"),
        ("preprocess.json", "{"),
        ("preprocess.json", "[" * 100_000),
        ("preprocess.json", b"\xff\xfe"),
        ("manifest.json", "[]"),
        ("manifest.json", '{"macs": -1}'),
        ("manifest.json", '{"precision": ["fp32"]}'),
        ("manifest.json", '{"parity_error": NaN}'),
        ("labels.txt", b"\xff\n"),
    ],
)
def test_a_damaged_card_in_files_beside_a_plan_is_refused(
    name: str, content: str | bytes, tmp_path: Path
) -> None:
    (tmp_path / "preprocess.json").write_text(json.dumps(PREPROCESS))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    (tmp_path / "manifest.json").write_text("{}")
    assert ModelCard.from_folder(tmp_path).classes == CLASSES
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WeightsError, match="damaged"):
        ModelCard.from_folder(tmp_path)


# --- W08: no answer is no answer ------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    PICTURE.save(tmp_path / "p.png")
    return tmp_path / "p.png"


@pytest.mark.parametrize("style", ["predict_cls", "infer", "jsonl", "csv"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_a_row_with_an_error_and_exit_3(
    value: float, style: str, tmp_path: Path, picture: Path
) -> None:
    """W08."""
    weight = np.ones((3, 3), np.float32)
    weight[:, 1] = value
    path = saved(tmp_path / "m.onnx", model(weight=weight))
    done = CliRunner().invoke(
        main, ["predict", "--model", str(path), "--engine", "ort", "--format", style, str(picture)]
    )
    assert done.exit_code == 3, done.output
    assert "its logits are NaN or infinite" in done.stdout
    assert "1 of 1 inputs could not be predicted" in done.stderr


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_image_without_an_answer_does_not_cost_the_others_theirs(
    multi_label: bool, tmp_path: Path
) -> None:
    """Only a dark picture has logits that are no numbers: log of a negative sum."""
    nodes = [
        helper.make_node("Log", ["q"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", model(nodes, weight=np.ones((3, 3), np.float32)))
    pictures = [Image.new("RGB", (9, 9), (level,) * 3) for level in (250, 0, 240)]
    engine = load_engine(path, "ort")
    records = list(iter_predictions(engine, pictures, multi_label=multi_label, threshold=0.0))
    assert ["error" in record for record in records] == [False, True, False]
    assert [len(record["class_ids"]) for record in records] == [3, 0, 3]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: model(looping("Loop")), 4),
        (lambda: model(props=card(classes='["a"]')), 4),
        (lambda: model(props=card(preprocess="[]")), 4),
        (lambda: b"", 4),
        (model, 0),
    ],
)
def test_predict_ends_with_4_and_one_line_for_a_bad_model(
    make: Callable[[], Any], code: int, tmp_path: Path, picture: Path
) -> None:
    path = saved(tmp_path / "m.onnx", make())
    done = CliRunner().invoke(
        main, ["predict", "--model", str(path), "--engine", "ort", str(picture)]
    )
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    if code:
        assert len(done.stderr.strip().splitlines()) == 1
