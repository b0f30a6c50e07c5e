"""Files for phones and boards: ExecuTorch and ncnn beside ``model.onnx``, and a fixed batch."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from deployment_cases import CLASSES, SIDE
from PIL import Image
from torch import nn

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.deployment.engines.base import HINTS, Engine, EngineUnavailable
from hgnetv2_pipeline.deployment.engines.ladder import load_engine, model_file
from hgnetv2_pipeline.deployment.export import on_device
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import ExportError, Validation
from hgnetv2_pipeline.deployment.export.on_device import DevicePlan, write_device_files
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.deployment.timing.benchmark import run_benchmark
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.models.hgnetv2 import Backbone, HGNetV2, LearnableAffine
from hgnetv2_pipeline.variants import Variant

needs = {
    name: pytest.mark.skipif(
        any(importlib.util.find_spec(module) is None for module in modules),
        reason=HINTS[name],
    )
    for name, modules in on_device.CONVERTERS.items()
}
BOTH = [pytest.param(name, marks=mark) for name, mark in needs.items()]
BEST = {"executorch": "fp32", "ncnn": "fp16"}


def small_network() -> Backbone:
    """Every kind of layer of B0, few channels, LABs with scales and biases of both signs."""
    torch.manual_seed(0)
    shape = Variant((4, 4), (4, 4, 4, 4), (8, 8, 8, 8), (1, 1, 1, 1), 2, True)
    network = HGNetV2(shape, len(CLASSES))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LearnableAffine):
                module.scale.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.4, 0.4)
        labs = [module for module in network.modules() if isinstance(module, LearnableAffine)]
        for lab in labs[::5]:
            lab.scale.neg_()
    return network.eval()


def pictures_of(count: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE))) for one in coarse])


def write(
    network: nn.Module, folder: Path, engine: Any, precisions: list[str], batch: int = 1
) -> None:
    """The files for ``engine`` beside ``model.onnx``; the labels are the network's own answers."""
    exact = load_engine(folder, "ort", threads=1)
    pixels = pictures_of(40)
    labels = exact.logits(exact.preprocess.normalize(pixels)).argmax(1)
    write_device_files(
        DevicePlan(engine, precisions, batch, {"int8": 5.0}), folder / "model.onnx", folder,
        network, validation=Validation(lambda: [(pixels, labels)], "40 pictures"),
        calibration=Calibration(lambda: [pictures_of(9, seed=1)], "9 pictures"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Backbone:
    return small_network()


@pytest.fixture(scope="module")
def exported(network: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_bundle(network, folder, image_size=SIDE, class_names=CLASSES)
    return folder


@pytest.fixture(scope="module")
def made(network: Backbone, exported: Path) -> dict[str, Path]:
    """Engine -> the export folder with its files; each is made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, engine: str) -> Path:
            others = [] if engine == "executorch" else ["fp16"]
            write(network, exported, engine, ["fp32", *others])
            self[engine] = exported
            return exported

    return Made()


def images_for(engine: Engine, count: int) -> np.ndarray:
    return engine.preprocess.normalize(pictures_of(count, seed=2))


def off(engine: Engine, network: nn.Module, count: int = 3) -> float:
    """The largest error of the logits, over their standard deviation in float64."""
    images = images_for(engine, count)
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()(torch.from_numpy(images).double()).numpy()
    return float(np.abs(engine.logits(images) - exact).max() / exact.std())


@pytest.mark.parametrize("engine", BOTH)
def test_fp32_is_the_network_for_any_number_of_images(
    engine: str, made: dict[str, Path], network: Backbone
) -> None:
    with load_engine(made[engine], engine, threads=1) as loaded:
        assert (loaded.name, loaded.precision, loaded.batch, loaded.place) == (
            engine, "fp32", 1, "cpu",
        )  # fmt: skip
        assert loaded.classes == list(CLASSES)
        assert off(loaded, network) < 1e-5
        images = images_for(loaded, 3)
        one_by_one = [loaded.logits(images[at : at + 1])[0] for at in range(3)]
        assert np.array_equal(loaded.logits(images), one_by_one)
        assert loaded.logits(images[:0]).shape == (0, len(CLASSES))
        loaded.require_batch(1)
        with pytest.raises(EngineUnavailable, match=f"{engine}: .* takes batches of 1 alone, and"):
            loaded.require_batch(2)


@needs["ncnn"]
def test_ncnn_in_fp16_halves_the_file_and_stays_within_its_rounding(
    made: dict[str, Path], network: Backbone
) -> None:
    folder = made["ncnn"]
    with load_engine(folder / "model.fp16.ncnn.bin") as loaded:
        assert (loaded.name, loaded.precision) == ("ncnn", "fp16")
        # 2^-11 each of some 30 roundings one after the other.
        assert 1e-5 < off(loaded, network) < 30 * 2**-11
    sizes = [(folder / f"model{kind}.ncnn.bin").stat().st_size for kind in ("", ".fp16")]
    assert 0.5 <= sizes[1] / sizes[0] < 0.55


@pytest.mark.parametrize("engine", BOTH)
def test_auto_takes_the_engine_of_a_file_and_another_one_says_what_it_runs(
    engine: str, made: dict[str, Path]
) -> None:
    path = model_file(made[engine] / "model.onnx", engine, "fp32")
    assert path.name in ("model.pte", "model.ncnn.bin")
    assert load_engine(path, threads=1).name == engine
    assert load_engine(made[engine], threads=1).name == "ort", "a folder has better files for here"
    with pytest.raises(EngineUnavailable, match=r"ort: runs ONNX files, and .* is none"):
        load_engine(path, "ort")
    other = next(name for name in BEST if name != engine)
    with pytest.raises(EngineUnavailable, match=f"{other}: runs .* files, and .* is none"):
        load_engine(path, other)
    with pytest.raises(EngineUnavailable, match=f"{engine}: no bf16 on this engine"):
        load_engine(path, precision="bf16")
    lacking = {"executorch": "int8", "ncnn": "fp16"}[engine]
    nowhere = made[engine] / "elsewhere"
    shutil.rmtree(nowhere, ignore_errors=True)
    nowhere.mkdir()
    shutil.copy(made[engine] / "model.onnx", nowhere)
    with pytest.raises(EngineUnavailable, match=f"export.target={engine},.*=fp32.{lacking}"):
        load_engine(nowhere, engine, precision=lacking)
    with pytest.raises(EngineUnavailable, match=r"\[executorch\]|runs|needs"):
        load_engine("scratch:b0", engine)


@pytest.mark.parametrize("engine", BOTH)
def test_predict_and_benchmark_take_the_files(
    engine: str, made: dict[str, Path], tmp_path: Path
) -> None:
    for number, pixels in enumerate(pictures_of(3, seed=5)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    folder = str(made[engine])
    words = ["predict", "--threads", "1", "--model", folder, str(tmp_path), "--engine"]
    answers = [CliRunner().invoke(main, [*words, name]) for name in ("ort", engine)]
    assert [answer.exit_code for answer in answers] == [0, 0], answers[1].output
    assert answers[0].stdout == answers[1].stdout and answers[0].stdout.count("\n") == 3
    found = run_benchmark([folder], engines=[engine], batch_sizes=[1, 4], warmup=1, runs=2,
                          root=tmp_path)  # fmt: skip
    assert [(row["engine"], row["batch_size"]) for row in found["rows"]] == [(engine, 1)]
    assert "takes batches of 1 alone, and batch size 4 was asked" in found["not_run"][0]["reason"]


@pytest.mark.parametrize("engine", BOTH)
def test_a_file_that_is_not_what_its_note_says_is_refused(
    engine: str, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[engine], folder)
    path = model_file(folder / "model.onnx", engine, "fp32")
    (folder / "model.onnx").write_bytes(b"of other weights")
    with pytest.raises(WeightsError, match=r"is of another model\.onnx than the one beside it"):
        load_engine(path)
    (folder / "model.onnx").unlink()  # a device has it not
    assert load_engine(path, threads=1).name == engine
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"", bytes([whole[40] ^ 1]).join([whole[:40], whole[41:]])):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=f"is of another {path.name}"):
            load_engine(path)
    path.write_bytes(whole)
    for note in ("{}", "[]", '{"files": 3}', "no json"):
        next(folder.glob("model.*.json")).write_text(note)
        for each in folder.glob("model.*.json"):
            each.write_text(note)
        with pytest.raises(WeightsError, match="json"):
            load_engine(path)


@pytest.mark.parametrize("engine", BOTH)
def test_a_file_that_answers_otherwise_than_its_card_says_is_refused(
    engine: str, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[engine], folder)
    path = model_file(folder / "model.onnx", engine, "fp32")
    note = path.with_name(path.name.removesuffix(".bin") + ".json")
    said = json.loads(note.read_text())
    answers = json.loads(said["probes"])
    answers["logits"] = answers["logits"][::-1]
    note.write_text(json.dumps({**said, "probes": json.dumps(answers)}))
    with pytest.raises(EngineUnavailable, match=f"^{engine}: computes .* wrongly"):
        load_engine(path)
    (folder / "labels.txt").write_text("one\ntwo\n")
    note.write_text(json.dumps({key: value for key, value in said.items() if key != "probes"}))
    with pytest.raises(WeightsError, match=f"has {len(CLASSES)} outputs and 2 class names"):
        load_engine(path)


@needs["executorch"]
def test_executorch_has_one_pool_of_threads(made: dict[str, Path]) -> None:
    with load_engine(made["executorch"], "executorch", threads=1) as first:
        assert first.threads == 1
        with pytest.raises(EngineUnavailable, match="with 1 threads is open .* and 2 were asked"):
            load_engine(made["executorch"], "executorch", threads=2)
        assert load_engine(made["executorch"], "executorch").threads == 1
    with load_engine(made["executorch"], "executorch", threads=2) as second:
        assert second.threads == 2 and np.isfinite(second.logits(images_for(second, 1))).all()


@pytest.mark.parametrize("engine", BOTH)
def test_a_failed_gate_and_a_converter_that_fails_are_lines(
    engine: str, network: Backbone, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgnetv2_pipeline.deployment.export.gate.MAX_RMS", {"fp32": 0.0})
    if engine == "ncnn":
        shutil.copytree(exported, tmp_path / "copy")
        with pytest.raises(ExportError, match="the fp32 export fails its gate on 40 pictures"):
            write(network, tmp_path / "copy", engine, ["fp32"])
        monkeypatch.setattr("pnnx.EXEC_PATH", shutil.which("false"))
        with pytest.raises(ExportError, match=r"pnnx cannot convert .*code 1\): it says no more"):
            write(network, tmp_path / "copy", engine, ["fp32"])
        return

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    shutil.copytree(exported, tmp_path / "copy")
    with pytest.raises(ExportError, match="^ExecuTorch cannot take this network: [^\n]*$"):
        write(Branching(), tmp_path / "copy", engine, ["fp32"])


@needs["executorch"]
def test_int8_keeps_every_bound_in_its_convolution() -> None:
    """Rounded between the two, int8 would end where the convolution does, not where the bound."""
    from hgnetv2_pipeline.deployment.export.to_executorch import quantize_for_xnnpack

    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Hardtanh(0.2, 3e38), nn.Conv2d(4, 4, 1), nn.Hardtanh(-3e38, -0.1)
    )
    images = np.random.default_rng(0).standard_normal((9, 3, 8, 8), np.float32)
    graph: Any = quantize_for_xnnpack(
        layers.eval(), 8, lambda: [images], method="percentile", percentile=99.0
    )
    names = [str(node.target) for node in graph.graph.nodes]
    bounds = [node for node in graph.graph.nodes if "hardtanh" in str(node.target)]
    assert [str(node.args[0].target) for node in bounds] == ["aten.conv2d.default"] * 2
    assert sum("quantize_per_tensor" in name for name in names) == 6  # three pairs
    with torch.inference_mode():
        answer = graph(torch.from_numpy(images))
    assert float(answer.max()) == pytest.approx(-0.1, abs=0.05)


FIXED = {"ort": 1e-6, "openvino": 1e-5}


@pytest.fixture(scope="module")
def fixed(network: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fixed")
    pixels = pictures_of(8)
    write_bundle(
        network, folder, image_size=SIDE, class_names=CLASSES, batch=4, opset=13,
        precisions=("fp32", "int8"),
        validation=Validation(lambda: [(pixels, np.full(8, -1))], "8 pictures"),
        calibration=Calibration(lambda: [pixels], "8 pictures"),
    )  # fmt: skip
    yield folder


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_a_fixed_batch_is_written_into_every_file(fixed: Path, name: str) -> None:
    proto = onnx.load(fixed / name)
    onnx.checker.check_model(proto, full_check=True)
    ends = [*proto.graph.input, *proto.graph.output]
    assert [end.type.tensor_type.shape.dim[0].dim_value for end in ends] == [4, 4]
    assert proto.opset_import[0].version == 13
    manifest = json.loads((fixed / "manifest.json").read_text())
    assert manifest["batch"] == 4
    assert manifest["input"] == "images float32 [4, 3, H, W]"


@pytest.mark.parametrize("engine", FIXED)
def test_a_fixed_batch_answers_any_number_of_images_as_the_free_file_does(
    engine: str, fixed: Path, exported: Path
) -> None:
    free = load_engine(exported, "ort", threads=1)
    for hint in (None, 16):
        loaded = load_engine(fixed, engine, threads=1, batch_size=hint)
        assert loaded.batch == 4
        for count in (0, 1, 4, 5, 9):
            images = images_for(free, 9)[:count]
            wanted = free.logits(images)
            spread = float(wanted.std()) if count else 1.0
            assert np.abs(loaded.logits(images) - wanted).max(initial=0) <= FIXED[engine] * spread
    with pytest.raises(EngineUnavailable, match="batches of 4 alone, and batch size 8"):
        loaded.require_batch(8)


@pytest.mark.parametrize("size", [0, 2**31])
@pytest.mark.parametrize("engine", FIXED)
def test_a_fixed_batch_that_no_memory_holds_is_refused(
    engine: str, size: int, exported: Path, tmp_path: Path
) -> None:
    proto = onnx.load(exported / "model.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(WeightsError, match="1 to 1024|OpenVINO cannot read"):
        load_engine(tmp_path / "model.onnx", engine, threads=1)


@needs["ncnn"]
def test_what_a_note_says_is_what_was_found(made: dict[str, Path]) -> None:
    folder = made["ncnn"]
    note = json.loads((folder / "model.fp16.ncnn.json").read_text())
    files = ["model.fp16.ncnn.bin", "model.fp16.ncnn.param"]
    assert sorted(note["files"]) == files
    assert note["size_bytes"] == sum((folder / name).stat().st_size for name in files)
    assert (note["gate"]["n"], note["engine"], note["batch"]) == (40, "ncnn", 1)
    assert note["gate"]["same_answer"] >= 39
    assert 0 < note["parity_error"] == note["gate"]["relative_error"] < 0.05


@pytest.mark.slow
@needs["executorch"]
def test_int8_of_b0_is_a_quarter_of_the_size_and_answers_as_its_graph(
    b0: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And one delegate has all of it, in fp32 and int8, and for a batch of two."""
    caplog.set_level("WARNING")
    write_bundle(b0, tmp_path, image_size=SIDE, class_names=CLASSES)
    write(b0, tmp_path, "executorch", ["fp32", "int8"], batch=2)
    assert not [record for record in caplog.records if "parts" in record.message]
    sizes = [(tmp_path / f"model{kind}.pte").stat().st_size for kind in ("", ".int8")]
    assert sizes[1] / sizes[0] < 0.3
    with (
        load_engine(tmp_path, "executorch") as exact,
        load_engine(tmp_path / "model.int8.pte") as rough,
    ):
        assert (exact.batch, rough.batch, rough.precision) == (2, 2, "int8")
        assert off(exact, b0) < 1e-5
        images = images_for(rough, 33)
        same = (exact.logits(images).argmax(1) == rough.logits(images).argmax(1)).sum()
        assert same >= 32
    note = json.loads((tmp_path / "model.int8.pte.json").read_text())
    assert note["calibration"] == "percentile on 9 pictures"
