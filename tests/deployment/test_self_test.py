"""A file's exact answers travel with it, and an engine that does not give them is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from deployment_cases import CLASSES, SIDE

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import EngineUnavailable, choose_card
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.deployment.export.half import to_half
from hgnetv2_pipeline.deployment.onnx_session import session_logits
from hgnetv2_pipeline.deployment.self_test import (
    ALLOWED,
    SelfTest,
    make_self_test,
    self_test_count,
    self_test_images,
)
from hgnetv2_pipeline.errors import WeightsError


def drawn_by_hand(count: int, side: int) -> list[int]:
    """The images as their description says, in plain numbers."""
    sequence, state = [], 1
    for _ in range(count * 8 * 8 * 3):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        sequence.append(state // 2**24)
    pixels = []
    for n in range(count):
        for y in range(side):
            for x in range(side):
                for c in range(3):
                    total = 0
                    positions = [i * 1792 // max(side - 1, 1) for i in (y, x)]
                    cells = [min(p // 256, 6) for p in positions]
                    parts = [p - 256 * cell for p, cell in zip(positions, cells, strict=True)]
                    for dy, wy in ((0, 256 - parts[0]), (1, parts[0])):
                        for dx, wx in ((0, 256 - parts[1]), (1, parts[1])):
                            at = ((n * 8 + cells[0] + dy) * 8 + cells[1] + dx) * 3 + c
                            total += sequence[at] * wy * wx
                    pixels.append(total // 65536)
    return pixels


@pytest.mark.parametrize(("count", "side"), [(1, 1), (2, 5), (3, 8), (1, 33)])
def test_the_images_are_those_of_their_formula(count: int, side: int) -> None:
    images = self_test_images(count, side)
    assert images.shape == (count, side, side, 3)
    assert images.ravel().tolist() == drawn_by_hand(count, side)


def test_more_images_are_asked_where_each_gives_few_logits() -> None:
    assert [self_test_count(classes) for classes in (1, 2, 5, 10, 16, 1000)] == [8, 8, 7, 4, 2, 2]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_exported_file_carries_answers_that_onnx_runtime_gives(
    precision: str, precisions: Path
) -> None:
    name = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
    props = {entry.key: entry.value for entry in onnx.load(precisions / name).metadata_props}
    test = ModelCard.from_props(props, precisions).self_test
    assert test is not None
    assert np.shape(test.logits) == (self_test_count(len(CLASSES)), len(CLASSES))
    assert test.allowed >= ALLOWED[precision]
    engine = load_engine(precisions, "ort", precision=precision)
    pixels = self_test_images(len(test.logits), SIDE)
    got = engine.logits(engine.preprocess.normalize(pixels))
    # Written with six digits; fp16 itself has three.
    assert test.distance(got) <= {"fp32": 1e-4, "fp16": 0.01, "int8": 1e-3}[precision]


def test_the_answers_of_a_bf16_file_are_rounded_to_it(precisions: Path) -> None:
    graph, preprocess = onnx.load(precisions / "model.onnx"), Preprocess(66, SIDE)
    exact = make_self_test(graph, preprocess, "fp32")
    rounded = make_self_test(to_half(graph, "bf16"), preprocess, "bf16")
    assert exact is not None
    assert rounded is not None
    assert 1e-4 < exact.distance(np.array(rounded.logits)) < rounded.allowed


def test_a_folder_without_the_model_tells_the_answers_too(precisions: Path) -> None:
    assert (
        ModelCard.from_folder(precisions).self_test
        == OrtEngine(precisions / "model.onnx").card.self_test
    )


def test_onnx_runtime_computes_a_quantized_graph_as_it_is_written(precisions: Path) -> None:
    """Biases included: it would round them by itself, and did so, for 14 of 700 answers."""
    graph = onnx.load(precisions / "model.int8.onnx")
    images = np.random.default_rng(5).standard_normal((4, 3, SIDE, SIDE), np.float32)
    got = load_engine(precisions, "ort", precision="int8").logits(images)
    as_written = unoptimised(graph)(images)
    # Sums of float32 in another order; one value on the edge of a step may fall to its other side.
    assert np.abs(got - as_written).max() <= 0.02 * as_written.std()
    rounded = session_logits(graph, whole_biases=True)(images)
    assert np.abs(rounded - as_written).max() > np.abs(got - as_written).max()


def unoptimised(graph: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    return lambda images: session.run(["logits"], {"images": images})[0]


def spoil(how: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    run = OrtEngine._run
    monkeypatch.setattr(OrtEngine, "_run", lambda self, images: how(run(self, images)))


@pytest.mark.parametrize(
    "how",
    [
        lambda logits: np.clip(logits, -0.5, 0.5),
        lambda logits: np.full_like(logits, np.nan),
        lambda logits: np.roll(logits, 1, axis=1),
        lambda logits: logits + np.float32(0.3 * logits.std()),
        lambda logits: np.zeros_like(logits),
    ],
    ids=["saturates", "nan", "other class order", "offset", "zero"],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_that_computes_wrongly_is_refused_when_it_is_loaded(
    how: Callable[[np.ndarray], np.ndarray],
    precision: str,
    precisions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(how, monkeypatch)
    wrong = f"ort: computes .* wrongly on .*: its {precision} logits of the 5 images"
    with pytest.raises(EngineUnavailable, match=wrong):
        load_engine(precisions, "ort", precision=precision)
    with pytest.raises(EngineUnavailable, match=f"no engine can run .*; {wrong}"):
        load_engine(precisions, precision=precision)


def test_auto_goes_on_to_an_engine_that_computes_rightly(
    precisions: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hgnetv2_pipeline.deployment.engines import ladder

    class Wrong(OrtEngine):
        name = "openvino"
        closed = False

        def _run(self, images: np.ndarray) -> np.ndarray:
            return np.clip(super()._run(images), -0.5, 0.5)

        def close(self) -> None:
            Wrong.closed = True

    import_engine = ladder._import_engine
    wrong = lambda name, wish: Wrong(wish.onnx)  # noqa: E731
    monkeypatch.setattr(
        ladder,
        "_import_engine",
        lambda name: wrong if name == "openvino" else import_engine(name),
    )
    with caplog.at_level(logging.INFO):
        assert load_engine(precisions).name == "ort"
    assert "not openvino: computes" in caplog.text
    assert Wrong.closed


def test_other_preprocessing_or_a_file_without_answers_is_not_judged(
    precisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(np.zeros_like, monkeypatch)
    card = OrtEngine(precisions / "model.onnx").card
    other = replace(card.preprocess, mean=(0.0, 0.0, 0.0))
    assert load_engine(precisions, "ort", preprocess=other).card.self_test is None
    assert choose_card(lambda: card, card.preprocess, None).self_test == card.self_test
    bare = onnx.load(precisions / "model.onnx")
    kept = [entry for entry in bare.metadata_props if entry.key != "probes"]
    del bare.metadata_props[:]
    bare.metadata_props.extend(kept)
    onnx.save(bare, tmp_path / "model.onnx")
    assert load_engine(tmp_path / "model.onnx", "ort").card.self_test is None


def test_a_network_that_gives_all_images_the_same_logits_carries_no_answers(
    precisions: Path,
) -> None:
    graph = onnx.load(precisions / "model.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name.startswith("fc"):
            shape = onnx.numpy_helper.to_array(tensor).shape
            zeros = np.zeros(shape, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    assert make_self_test(graph, Preprocess(66, SIDE), "fp32") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"allowed": 0.1, "logits": []}',
        '{"allowed": 0.1, "logits": [[1, 2], [3]]}',
        '{"allowed": 0.1, "logits": [[1, NaN]]}',
        '{"allowed": Infinity, "logits": [[1, 2]]}',
        '{"allowed": 0.1, "logits": [["a"]]}',
        '{"allowed": null, "logits": [[1]]}',
        '{"allowed": 0.1, "logits": 5}',
    ],
)
def test_damaged_answers_are_a_damaged_card(text: str, precisions: Path) -> None:
    props = {
        entry.key: entry.value for entry in onnx.load(precisions / "model.onnx").metadata_props
    }
    with pytest.raises(WeightsError, match="damaged card"):
        ModelCard.from_props({**props, "probes": text}, precisions)


def test_answers_are_read_back_as_they_were_written() -> None:
    test = SelfTest(((1.5, -2.25), (0.0, 3e-7)), 0.05)
    assert SelfTest.from_text(test.to_text()) == test
    assert json.loads(test.to_text())["logits"][1] == [0.0, 3e-7]
    assert np.isnan(test.distance(np.full((2, 2), np.nan)))
