"""fp16, bf16 and int8 files: how they are made, what the gate lets through, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from deployment_cases import CLASSES, SIDE
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn import functional as F

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export import calibration as calibration_module
from hgnetv2_pipeline.deployment.export import precisions
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.calibration import activation_ranges
from hgnetv2_pipeline.deployment.export.gate import ExportError, Validation, check_precision
from hgnetv2_pipeline.deployment.export.half import round_in_float32, to_half
from hgnetv2_pipeline.deployment.export.precisions import Calibration, convert_onnx, session_logits
from hgnetv2_pipeline.deployment.export.quantize import quantize_graph, scale_groups
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.durable import read_json, sha256_file
from hgnetv2_pipeline.errors import DataError, ParameterError, WeightsError
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.fold import FoldedConv, reparameterize
from hgnetv2_pipeline.models.hgnetv2 import LearnableAffine
from hgnetv2_pipeline.weights.onnx_file import onnx_props

Graphs = dict[str, Path]


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Sixteen pictures that differ as photographs do: brightness, colour and coarse structure."""
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (16, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    fine = random.integers(-30, 31, (16, SIDE, SIDE, 3))
    return np.clip(coarse + fine, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def validation(b0_onnx: Path, pixels: np.ndarray) -> Validation:
    """The pictures, labelled by the fp32 file itself: it is right about all of them."""
    engine = load_engine(b0_onnx, "ort", threads=1)
    labels = engine.logits(engine.preprocess.normalize(pixels)).argmax(1)
    halves = [(pixels[:8], labels[:8]), (pixels[8:], labels[8:])]
    return Validation(lambda: iter(halves), "16 pictures")


@pytest.fixture(scope="session")
def calibration(pixels: np.ndarray) -> Calibration:
    return Calibration(lambda: iter([pixels[:8], pixels[8:]]), "16 pictures")


@pytest.fixture(scope="session")
def graphs(
    b0_onnx: Path, validation: Validation, calibration: Calibration,
    tmp_path_factory: pytest.TempPathFactory,
) -> Graphs:  # fmt: skip
    """The same network in every precision."""
    folder = tmp_path_factory.mktemp("precisions")
    made = {"fp32": b0_onnx}
    for name in ("fp16", "bf16", "int8"):
        made[name] = folder / f"model.{name}.onnx"
        convert_onnx(
            b0_onnx, made[name], name, validation=validation, calibration=calibration, max_drop=20
        )
    return made


@pytest.mark.parametrize(
    ("precision", "kind", "opset"),
    [("fp16", TensorProto.FLOAT16, 18), ("bf16", TensorProto.BFLOAT16, 22)],
)
def test_a_half_graph_is_strongly_typed_with_float32_ends(
    precision: str, kind: int, opset: int, graphs: Graphs
) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(graphs[precision]), strict_mode=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds.pop("height_and_width") == TensorProto.INT64
    assert set(kinds.values()) == {kind}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert [node.name for node in casts] == ["to_half", "to_float32"]
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    between = [entry for entry in model.graph.value_info if entry.name not in ("images", "logits")]
    assert {entry.type.tensor_type.elem_type for entry in between} == {kind}
    assert model.opset_import[0].version == opset
    assert graphs[precision].stat().st_size < 0.51 * graphs["fp32"].stat().st_size


def test_every_q_and_dq_is_int8_symmetric_and_weights_have_a_scale_a_channel(
    graphs: Graphs,
) -> None:
    graph = onnx.load(graphs["int8"]).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        zero = values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (values[node.input[1]] > 0).all()
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(products) == 45
    for node in products:
        image, weight = (makers[name] for name in node.input[:2])
        assert image.op_type == weight.op_type == "DequantizeLinear"
        assert makers[image.input[0]].op_type == "QuantizeLinear"
        assert values[image.input[1]].shape == ()
        stored = values[weight.input[0]]
        assert stored.dtype == np.int8
        assert stored.min() >= -127  # symmetric: -128 has no counterpart
        assert values[weight.input[1]].shape == (len(stored),)
        # Each channel's own: its largest value is the end of the range (a LAB of scale 0 has none).
        peaks = np.abs(stored.reshape(len(stored), -1).astype(int)).max(axis=1)
        assert set(peaks.tolist()) <= {0, 127}
        assert [a.i for a in weight.attribute if a.name == "axis"] == [0]
        assert all(values[name].dtype == np.float32 for name in node.input[2:])  # biases
    assert sum(node.op_type == "Clip" for node in graph.node) == 12
    assert graphs["int8"].stat().st_size < 0.28 * graphs["fp32"].stat().st_size


def test_what_a_concatenation_joins_shares_one_scale(b0_onnx: Path) -> None:
    proto = onnx.load(b0_onnx)
    groups = scale_groups(proto)
    for node in proto.graph.node:
        if node.op_type in ("Concat", "MaxPool"):
            ends = [*node.input, *node.output]
            assert len({groups[name] for name in ends}) == 1
    assert "logits" not in groups
    ranges = dict.fromkeys(groups, 1.0) | {"concat_1": 5.0}
    scales = {
        t.name: float(numpy_helper.to_array(t))
        for t in quantize_graph(proto, ranges).graph.initializer
        if t.name.endswith("_scale")
    }
    assert {scales[f"{name}_scale"] for name in groups["concat_1"]} == {np.float32(5 / 127)}


@pytest.mark.parametrize(("precision", "rms"), [("fp16", 3e-3), ("bf16", 3e-2), ("int8", 0.1)])
def test_the_card_carries_the_gates_findings(precision: str, rms: float, graphs: Graphs) -> None:
    props = onnx_props(graphs[precision])
    card = ModelCard.from_props(props, graphs[precision])
    found = json.loads(card.more["gate"])
    assert card.precision == found["precision"] == precision
    assert card.classes == CLASSES
    assert 0 < found["rms_error"] < rms
    assert card.parity_error == pytest.approx(found["relative_error"], rel=0.1)
    assert found["n"] == found["top1_fp32"] == 16
    assert found["images"] == "16 pictures"
    if precision == "int8":
        assert card.more["calibration"] == "percentile on 16 pictures"


def test_bf16_is_judged_by_rounding_as_bf16_hardware_does(
    b0: nn.Module, graphs: Graphs, pixels: np.ndarray
) -> None:
    images = load_engine(graphs["fp32"], "ort").preprocess.normalize(pixels)
    got = session_logits(round_in_float32(onnx.load(graphs["bf16"])))(images)
    exact = session_logits(onnx.load(graphs["fp32"]))(images)
    network = reparameterize(b0, "relu").bfloat16()
    network.stem.stem3 = OfTwo(network.stem.stem3)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(images).bfloat16()).float().numpy()
    # The two round the same places and sum in another order: most logits are the same number.
    assert (got == wanted).mean() > 0.5
    assert not (exact == wanted).any()


class OfTwo(nn.Module):
    """A convolution of two joined maps as the sum of one of each, which rounds once more."""

    def __init__(self, folded: FoldedConv) -> None:
        super().__init__()
        self.whole = folded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.whole.conv
        (a, b), (c, d) = x.chunk(2, 1), conv.weight.chunk(2, 1)
        ends = {"stride": conv.stride, "padding": conv.padding}
        first = F.conv2d(a, c, conv.bias, **ends)
        return self.whole.act(first + F.conv2d(b, d, **ends))


def without_clips(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every Clip gone, as ONNX Runtime's static quantiser leaves it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    renamed = {n.output[0]: n.input[0] for n in bare.graph.node if n.op_type == "Clip"}
    kept = [node for node in bare.graph.node if node.op_type != "Clip"]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del bare.graph.node[:]
    bare.graph.node.extend(kept)
    return bare


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_dropped_clips_do_not_pass_the_gate(
    precision: str,
    b0: nn.Module,
    validation: Validation,
    calibration: Calibration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = export_onnx(b0, tmp_path / "source.onnx", SIDE, lab="clip")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    name = "quantize_graph" if precision == "int8" else "to_half"
    right = getattr(precisions, name)

    def wrong(proto: onnx.ModelProto, *more: object) -> onnx.ModelProto:
        return without_clips(right(proto, *more))

    monkeypatch.setattr(precisions, name, wrong)
    with pytest.raises(ExportError, match=f"the {precision} export fails its gate.*Nothing was"):
        convert_onnx(source, path, precision, validation=validation, calibration=calibration,
                     max_drop=20)  # fmt: skip
    assert path.read_bytes() == b"earlier"
    assert set(tmp_path.iterdir()) == {path, source}


@pytest.mark.slow
def test_what_onnx_runtimes_own_quantiser_makes_of_clips_does_not_pass(
    pixels: np.ndarray, tmp_path: Path
) -> None:
    """It takes the end of uint8 for the bound, which is wrong where LAB's bias is above 0."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    torch.manual_seed(0)
    model = create_model("b0", 7)  # random weights tell images apart better than the formula's
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(-1, 0.3)
            elif isinstance(module, LearnableAffine):
                module.bias.fill_(1)
    theirs = tmp_path / "theirs.onnx"
    path = export_onnx(model, tmp_path / "ours.onnx", SIDE, lab="clip")
    engine = load_engine(path, "ort")
    images = engine.preprocess.normalize(pixels)
    batches = iter([{"images": images}])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> object:
            return next(batches, None)

    quantize_static(path, theirs, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    assert not [node for node in onnx.load(theirs).graph.node if node.op_type == "Clip"]
    proto = onnx.load(path)
    ranges = activation_ranges(proto, sorted(scale_groups(proto)), lambda: [images], method="max")
    known = Validation(lambda: [(pixels, engine.logits(images).argmax(1))], "16 pictures")

    def judged_as_int8(graph: onnx.ModelProto) -> dict[str, object]:
        return check_precision(
            engine.logits, session_logits(graph), known, engine.preprocess, precision="int8",
            max_drop=20,
        )  # fmt: skip

    assert judged_as_int8(quantize_graph(proto, ranges))["rms_error"] < 0.15
    with pytest.raises(ExportError, match="int8 export fails its gate.*logits stray"):
        judged_as_int8(onnx.load(theirs))


def verdict(
    exact: np.ndarray, rough: np.ndarray, truth: np.ndarray, max_drop: float
) -> dict[str, object]:
    """The gate on logits of fp32 (``exact``) and of a lower precision, in two batches."""
    from hgnetv2_pipeline.data.preprocess import Preprocess

    answers = {"exact": iter(np.split(exact, 2)), "rough": iter(np.split(rough, 2))}

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for labels in np.split(truth, 2):
            yield np.zeros((len(labels), 1, 1, 3), np.uint8), labels

    return check_precision(
        lambda images: next(answers["exact"]), lambda images: next(answers["rough"]),
        Validation(batches, "made up"), Preprocess(), precision="int8", max_drop=max_drop,
    )  # fmt: skip


def judged(drop: int, max_drop: float, n: int = 1000, bad: float = 0.0) -> dict[str, object]:
    """The gate's view of a graph that errs on ``drop`` of ``n`` images."""
    truth = np.arange(n) % 2
    exact = np.eye(2, dtype=np.float32)[truth] * 10
    rough = exact.copy()
    rough[:drop] = 5 - 0.001 * (exact[:drop] - 5)  # just on the other side
    rough[0] += bad
    return verdict(exact, rough, truth, max_drop)


def test_a_drop_at_the_limit_passes_and_one_image_more_does_not() -> None:
    found = judged(10, 1.0)
    assert (found["top1_fp32"], found["top1"], found["drop_points"]) == (1000, 990, 1.0)
    with pytest.raises(ExportError, match="top-1 falls from 1000 to 989 of 1000, 1.10 points"):
        judged(11, 1.0)
    with pytest.raises(ExportError, match="stray"):
        judged(0, 100, bad=float("nan"))
    with pytest.raises(DataError, match="no images"):
        check_precision(lambda x: x, lambda x: x, Validation(list, "an empty list"), None,  # type: ignore[arg-type]
              precision="fp16", max_drop=0.2)  # fmt: skip


def test_a_precision_that_is_right_more_often_passes_however_little_may_be_lost() -> None:
    truth = np.arange(1000) % 2
    right = np.eye(2, dtype=np.float32)[truth] * 10
    wrong = right.copy()
    wrong[:40] = 5 - 0.001 * (right[:40] - 5)
    found = verdict(wrong, right, truth, 0.0)
    assert (found["top1_fp32"], found["top1"], found["drop_points"]) == (960, 1000, -4.0)
    several = np.stack([1 - truth, truth], axis=1).astype(np.uint8)
    found = verdict(wrong, right, several, 0.0)
    assert found["map"] == 1.0 and found["drop_points"] < -0.1


def judged_by_map(worse: int, max_drop: float) -> dict[str, object]:
    """The same of two labels per image: of class 0 the best ``worse`` positives fall to the end."""
    truth = np.stack([np.arange(100) % 2, np.arange(100) % 5 == 0], axis=1).astype(np.uint8)
    exact = np.where(truth == 1, 5.0, -5.0).astype(np.float32)
    rough = exact.copy()
    rough[np.flatnonzero(truth[:, 0])[:worse], 0] = -6
    return verdict(exact, rough, truth, max_drop)


def test_of_several_labels_a_precision_is_judged_by_map() -> None:
    found = judged_by_map(0, 0.0)
    assert (found["map_fp32"], found["map"], found["drop_points"]) == (1.0, 1.0, 0.0)
    assert found["same_answer"] == 100 and "top1" not in found
    # One of 50 positives last: 49/50 of class 0 at precision 1, the last at 50/100.
    fallen = 100 * (1 - 0.5) / 50 / 2
    found = judged_by_map(1, fallen + 1e-6)
    assert found["drop_points"] == pytest.approx(fallen, abs=1e-3)
    assert found["same_answer"] == 99
    with pytest.raises(ExportError, match=r"mAP falls from 1.0000 to 0.9950, 0.50 points"):
        judged_by_map(1, fallen - 1e-3)


def test_without_images_halves_are_compared_on_noise_and_int8_is_refused(
    b0_onnx: Path, tmp_path: Path
) -> None:
    found = convert_onnx(b0_onnx, tmp_path / "half.onnx", "fp16")
    assert found["images"] == "8 images of noise"
    assert "top1" not in found
    with pytest.raises(ParameterError, match="int8 needs images"):
        convert_onnx(b0_onnx, tmp_path / "model.onnx", "int8")
    with pytest.raises(ParameterError, match="cannot be turned into bf16"):
        convert_onnx(tmp_path / "half.onnx", tmp_path / "model.onnx", "bf16")
    with pytest.raises(ParameterError, match="unknown precision 'int4'"):
        convert_onnx(b0_onnx, tmp_path / "model.onnx", "int4")
    assert [path.name for path in tmp_path.iterdir()] == ["half.onnx"]


def test_weights_beyond_fp16_are_refused(b0_onnx: Path) -> None:
    proto = onnx.load(b0_onnx)
    bias = next(t for t in proto.graph.initializer if t.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(7, 1e5, np.float32), "fc.bias"))
    with pytest.raises(WeightsError, match="fc.bias holds 1e.05; fp16 ends at 65504"):
        to_half(proto, "fp16")


def test_percentile_ranges_leave_out_the_rarest_values(b0_onnx: Path, pixels: np.ndarray) -> None:
    proto = onnx.load(b0_onnx)
    images = load_engine(b0_onnx, "ort").preprocess.normalize(pixels[:4])
    spiked = images.copy()
    spiked[0, 0, 0, 0] = 100.0
    ranges = {
        (method, name): activation_ranges(
            proto, ["images", "clip_3"], lambda x=x: [x], method=method, percentile=99.99
        )["images"]
        for name, x in (("plain", images), ("spiked", spiked))
        for method in ("max", "percentile")
    }
    assert ranges["max", "plain"] == np.abs(images).max()
    assert ranges["max", "spiked"] == 100
    assert ranges["percentile", "spiked"] == pytest.approx(np.abs(images).max(), rel=0.05)
    with pytest.raises(ParameterError, match="calibration 'entropy'"):
        activation_ranges(proto, ["images"], lambda: [images], method="entropy")
    with pytest.raises(DataError, match="none was given"):
        activation_ranges(proto, ["images"], list, method="max")


def test_a_percentile_ends_at_the_upper_edge_of_the_bin_it_falls_in(b0_onnx: Path) -> None:
    # 2,048 bins up to 2048: all values but one are 7.5, in the bin that ends at 8.
    images = np.full((1, 3, SIDE, SIDE), 7.5, np.float32)
    images[0, 0, 0, 0] = 2048
    ranges = activation_ranges(
        onnx.load(b0_onnx), ["images"], lambda: [images], method="percentile", percentile=99.9
    )
    assert ranges["images"] == 8.0


def test_calibration_keeps_the_activations_of_a_few_images_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    class Session:
        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="images")]

        def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
            sizes.append(len(given["images"]))
            return [2 * given["images"] for _ in names]

    monkeypatch.setattr(calibration_module, "_watching", lambda *_: Session())
    images = np.arange(70, dtype=np.float32).reshape(70, 1, 1, 1)
    for method in ("max", "percentile"):
        sizes.clear()
        found = activation_ranges(
            None, ["images", "x"], lambda: [images[:64], images[64:]], method=method, percentile=50
        )
        assert max(sizes) <= 8
        assert sum(sizes) in (70, 140)
        half = 1 if method == "max" else 0.5
        assert found == pytest.approx({"images": 69 * half, "x": 138 * half}, rel=0.02)


def test_a_bundle_holds_a_file_a_precision_and_says_what_each_cost(
    b0: nn.Module, validation: Validation, calibration: Calibration, graphs: Graphs, tmp_path: Path
) -> None:
    manifest = write_bundle(
        b0, tmp_path, image_size=SIDE, class_names=CLASSES, precisions=("int8", "fp16"),
        metadata={"source_sha256": "ab" * 32, "stage": "ssld_stage1"},
        validation=validation, calibration=calibration, max_drop={"fp16": 20, "int8": 20},
    )  # fmt: skip
    assert {path.name for path in tmp_path.glob("*.onnx")} == {
        "model.onnx", "model.fp16.onnx", "model.int8.onnx",
    }  # fmt: skip
    assert read_json(tmp_path / "manifest.json") == manifest
    assert set(manifest["precisions"]) == {"fp16", "int8"}
    assert manifest["precisions"]["int8"]["limits"]["drop_points"] == 20
    for name in ("fp32", "fp16", "int8"):  # the same inputs, the same bytes
        file = "model.onnx" if name == "fp32" else f"model.{name}.onnx"
        assert manifest["files"][file] == sha256_file(tmp_path / file)
        if name != "fp32":
            assert manifest["files"][file] == sha256_file(graphs[name])


@pytest.mark.parametrize("opset", [13, 20])
def test_older_and_newer_opsets_compute_the_same(
    opset: int, b0: nn.Module, b0_onnx: Path, tmp_path: Path
) -> None:
    path = export_onnx(b0, tmp_path / "model.onnx", SIDE, CLASSES, opset=opset, softmax=True)
    proto = onnx.load(path)
    assert proto.opset_import[0].version == opset
    images = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE), np.float32)
    expected = load_engine(b0_onnx, "ort").logits(images)
    assert np.abs(load_engine(path, "ort").logits(images) - expected).max() < 1e-5
    quantised = quantize_graph(proto, dict.fromkeys(scale_groups(proto), 4.0))
    for model in (proto, to_half(proto, "fp16"), to_half(proto, "bf16"), quantised):
        onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits, shares = session.run(["logits", "probabilities"], {"images": images})
    powers = np.exp(logits - logits.max(1, keepdims=True))
    assert shares == pytest.approx(powers / powers.sum(1, keepdims=True), abs=1e-6)


def test_an_opset_out_of_range_or_a_foreign_network_in_half_is_refused(
    b0: nn.Module, b0_onnx: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=r"opset 21 is not in 13\.\.20"):
        export_onnx(b0, tmp_path / "model.onnx", SIDE, opset=21)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(ParameterError, match="softmax is added to HGNetV2"):
        export_onnx(network, tmp_path / "model.onnx", 32, softmax=True)
    foreign = onnx.load(b0_onnx)
    foreign.producer_name = "pytorch"
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ParameterError, match="pytorch, fp32.*other networks are exported in fp32"):
        convert_onnx(tmp_path / "foreign.onnx", tmp_path / "half.onnx", "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]
