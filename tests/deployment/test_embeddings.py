"""Embeddings beside the logits: in exported files, on every engine, and in a table of files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from deployment_cases import CLASSES, SIDE, formula_model

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.deployment.engines.base import EngineUnavailable
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import ExportError, Validation
from hgnetv2_pipeline.deployment.export.precisions import Calibration, convert_onnx
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.predict import predict_paths
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models import create_model
from hgnetv2_pipeline.models.hgnetv2 import Backbone
from hgnetv2_pipeline.weights.load import save_weights

NOISE = np.random.default_rng(3).standard_normal((3, 3, SIDE, SIDE), np.float32)


def embedded(model: Backbone, images: np.ndarray = NOISE) -> np.ndarray:
    with torch.inference_mode():
        return model.embed(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def both(b0: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export folder of b0 with embeddings, in fp32, fp16 and int8."""
    folder = tmp_path_factory.mktemp("both")
    pixels = np.random.default_rng(4).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    names = ("fp32", "fp16", "int8")
    manifest = write_bundle(
        b0, folder, image_size=SIDE, class_names=CLASSES, precisions=names, embedding=True,
        softmax=True, validation=Validation(lambda: [(pixels, np.zeros(8, np.int64))], "8"),
        calibration=Calibration(lambda: [pixels], "8"), max_drop=dict.fromkeys(names, 100.0),
    )  # fmt: skip
    assert manifest["embedding"] == "float32 [batch, 2048]"
    return folder


@pytest.mark.parametrize(
    ("variant", "lab"),
    [("b0", "relu"), ("b0", "clip"), ("b0", "affine")]
    + [pytest.param(name, "relu", marks=pytest.mark.slow) for name in ("b4", "hgnet_tiny")],
)
def test_a_files_embedding_is_the_networks_and_its_logits_are_those_of_a_file_without(
    variant, lab, tmp_path: Path
):
    model = formula_model(variant)
    path = export_onnx(model, tmp_path / "m.onnx", SIDE, CLASSES, embedding=True, lab=lab)
    plain = load_engine(export_onnx(model, tmp_path / "plain.onnx", SIDE, CLASSES, lab=lab), "ort")
    engine = load_engine(path, "ort", embeddings=True)
    logits, found = engine.logits_and_embeddings(NOISE)
    wanted = embedded(model)
    assert found.dtype == np.float32 and engine.embedding_size == 2048
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_array_equal(logits, plain.logits(NOISE))
    np.testing.assert_array_equal(logits, engine.logits(NOISE))
    assert engine.logits_and_embeddings(NOISE[:0])[1].shape == (0, 2048)
    assert engine.card == plain.card


@pytest.mark.parametrize(
    ("engine", "precision", "near"),
    [
        ("ort", "fp32", 1e-5), ("ort", "fp16", 1e-2), ("ort", "int8", 0.2),
        ("openvino", "fp32", 1e-4), ("openvino", "int8", 0.2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("batch_size", [None, 2])
def test_every_engine_and_precision_gives_embeddings(
    engine, precision, near, batch_size, both: Path, b0: Backbone
):
    if engine == "openvino":
        pytest.importorskip("openvino")
    try:
        loaded = load_engine(
            both, engine, precision=precision, batch_size=batch_size, embeddings=True
        )
    except EngineUnavailable as error:
        pytest.skip(str(error))
    wanted = embedded(b0)
    logits, found = loaded.logits_and_embeddings(NOISE)
    error = np.sqrt(np.square(found - wanted).mean()) / wanted.std()
    assert error < near
    np.testing.assert_array_equal(logits, loaded.logits(NOISE))


def test_bf16_files_carry_embeddings_too(both: Path, tmp_path: Path):
    convert_onnx(both / "model.onnx", tmp_path / "model.bf16.onnx", "bf16")
    graph = onnx.load(tmp_path / "model.bf16.onnx").graph
    kinds = {output.name: output.type.tensor_type.elem_type for output in graph.output}
    assert kinds == dict.fromkeys(("logits", "probabilities", "embedding"), onnx.TensorProto.FLOAT)


def test_weights_give_embeddings_on_torch_and_so_do_timms(b0: Backbone, tmp_path: Path):
    save_weights(tmp_path / "b0.safetensors", b0.state_dict(), {"variant": "b0"})
    loaded = load_engine(tmp_path / "b0.safetensors", "torch", device="cpu", embeddings=True)
    side = loaded.preprocess.crop
    images = np.random.default_rng(5).standard_normal((2, 3, side, side), np.float32)
    logits, found = loaded.logits_and_embeddings(images)
    wanted = embedded(b0, images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(
        logits, loaded.logits(images), rtol=0, atol=1e-5 * np.abs(logits).max()
    )


def test_a_file_without_embeddings_is_refused_with_what_to_do(b0_onnx: Path, pictures: Path):
    wanted = r"gives no embeddings; export it again with export.embedding=true, or name its weights"
    with pytest.raises(EngineUnavailable, match=wanted):
        load_engine(b0_onnx, "ort", embeddings=True)
    with pytest.raises(EngineUnavailable, match=rf"ort: .*{wanted}"):
        load_engine(b0_onnx, embeddings=True)
    with pytest.raises(ParameterError, match=wanted):
        predict_paths(load_engine(b0_onnx, "ort"), [str(pictures)], embeddings=True)


def test_an_embedding_that_strays_is_not_exported(b0: Backbone, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        "hgnetv2_pipeline.deployment.export.hgnet_graph._embedding",
        lambda graph, x, model, lab: graph.copy(x),  # without the LAB that was folded forward
    )
    with torch.no_grad():
        b0.lab.bias.add_(1)
    try:
        with pytest.raises(ExportError, match="largest embedding error"):
            export_onnx(b0, tmp_path / "m.onnx", SIDE, CLASSES, embedding=True)
    finally:
        with torch.no_grad():
            b0.lab.bias.sub_(1)
    assert not (tmp_path / "m.onnx").exists()


def test_what_has_no_classes_or_other_channels_is_not_exported(tmp_path: Path):
    for given in ({"num_classes": 0}, {"num_classes": 3, "in_chans": 1}):
        with pytest.raises(ParameterError, match="is not exported: classes and 3 channels"):
            export_onnx(create_model("b0", **given).eval(), tmp_path / "m.onnx", SIDE)
    with pytest.raises(ParameterError, match=r"embedding is added .* only \(export.embedding\)"):
        export_onnx(torch.nn.Flatten(), tmp_path / "m.onnx", SIDE, embedding=True)


def test_predict_writes_a_row_of_features_for_every_input(
    both: Path, b0: Backbone, pictures: Path, tmp_path: Path
):
    out, table = tmp_path / "answers.jsonl", tmp_path / "features.parquet"
    words = ["predict", "--model", both, pictures, "--features", table, "--out", out]
    done = CliRunner().invoke(main, [str(word) for word in [*words, "--batch-size", "2"]])
    assert done.exit_code == 0, done.output
    found = pq.read_table(table)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert found.column_names == ["file_name", "embedding", "error"]
    rows = found.to_pylist()
    assert [row["file_name"] for row in rows] == [answer["file_name"] for answer in answers]
    assert [row["error"] for row in rows] == [answer.get("error") for answer in answers]
    assert not any("embedding" in answer for answer in answers)
    engine = load_engine(both, "ort")
    for row in rows:
        assert (row["embedding"] is None) == (row["error"] is not None)
        if row["error"] is None:
            (wanted,) = embedded(b0, engine.preprocess(Path(row["file_name"]))[None])
            np.testing.assert_allclose(row["embedding"], wanted, rtol=0, atol=1e-4)
    said = {key.decode(): value.decode() for key, value in found.schema.metadata.items()}
    assert said["model"] == str(both / "model.onnx") and said["variant"] == "b0"
    assert json.loads(said["preprocess"]) == engine.preprocess.to_dict()


def test_features_that_cannot_be_written_are_refused_first(
    both: Path, b0_onnx: Path, pictures: Path
):
    for model, path, message in (
        (both, "f.csv", "unknown ending '.csv'"),
        (both, "f/g", "unknown ending ''"),
        (b0_onnx, pictures / "f.parquet", "gives no embeddings"),
    ):
        words = ["predict", "--model", str(model), str(pictures), "--features", str(path)]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2 and message in done.output, done.output
        assert "b.PNG" not in done.output
    assert not (pictures / "f.parquet").exists()
