"""NVIDIA's own parser and builder, TensorRT for RTX: our files in it, plans, refusals."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from deployment_cases import formula_model
from rtx_cases import ALL, FIRST, LIMIT, RECORD, SIDE, Case, images, job, let_work, line, write_case
from test_tensorrt import RTX_ONLY

from hgnetv2_pipeline.deployment.choices import FILE_PRECISIONS
from hgnetv2_pipeline.deployment.export.onnx_graph import FLOAT32_ENDS
from hgnetv2_pipeline.deployment.export.to_onnx import TOLERANCE, through_torch
from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT_RTX, PlanError
from hgnetv2_pipeline.deployment.kit.plans import (
    AMPERE_ON,
    CAPABILITIES,
    BatchProfile,
    PlanSpec,
    capability,
)
from hgnetv2_pipeline.deployment.onnx_session import session_logits

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX has no wheel for this system (requirements.in)",
)

Found = tuple[Path, dict[str, Any], str]
# Besides, B0 in fp16 for these.
MORE = {f"{gpu}.onnx": gpu for gpu in ("sm75", "sm86+sm89", "+".join(CAPABILITIES))}


def shown(folder: Path, cases: tuple[Case, ...], *, more: bool = False) -> Found:
    """The files of the cases, what the library makes of each, and what it prints meanwhile."""
    jobs = []
    for case in cases:
        write_case(case, folder)
        # The API hands out no bfloat16 weights, so the layers of those files are counted only.
        jobs += [
            job(case.file(folder, each), each, evaluate=each != "bf16") for each in FILE_PRECISIONS
        ]
    for name, gpu in MORE.items() if more else ():
        (folder / name).write_bytes(cases[0].file(folder, "fp16").read_bytes())
        jobs.append(job(folder / name, "fp16", gpu=gpu))
    return folder, *let_work(jobs, folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """B0 and B4 in four precisions, parsed and built."""
    return shown(tmp_path_factory.mktemp("rtx"), FIRST, more=True)


def check_builds(found: Found, cases: tuple[Case, ...]) -> None:
    """No warning of the parser, of the builder, or past the logger; every plan is there."""
    folder, each, printed = found
    assert printed == ""
    names = [case.file(folder, name).name for case in cases for name in FILE_PRECISIONS]
    assert [name for name in each if name not in MORE] == names
    warnings = [row["parser"] + row["builder"] for row in each.values()]
    assert not any(warnings), warnings
    for case in cases:
        sizes = [each[case.file(folder, name).name]["bytes"] for name in FILE_PRECISIONS]
        exact, *lower = sizes
        assert min(sizes) > 1_000_000
        assert max(lower) < 0.7 * exact


def check_layers(found: Found) -> None:
    known = RECORD.read_text().splitlines()
    for name, row in found[1].items():
        if name in MORE:
            continue
        assert line(name, row["table"]) in known, "python tests/deployment/rtx_cases.py writes it"


def check_answers(found: Found, case: Case) -> None:
    """What the parsed network computes: fp32 as PyTorch, fp16 nearly, int8 as the file says."""
    folder = found[0]
    with torch.inference_mode():
        given = torch.from_numpy(images()).double()
        wanted = formula_model(case.variant).double()(given).numpy()

    def off(precision: str, expected: np.ndarray) -> np.ndarray:
        """The largest error of each image."""
        got = np.load(case.file(folder, precision).with_suffix(".npy"))
        return np.abs(got - expected).max(1) / wanted.std()

    assert off("fp32", wanted).max() < TOLERANCE
    assert off("fp16", wanted).max() < 1e-2
    int8 = session_logits(onnx.load(case.file(folder, "int8")))(images())
    assert np.abs(int8 - wanted).max() > 1e-3 * wanted.std()  # it is rounded
    # A value between two levels goes to either, as the last bit of a sum decides, and takes others
    # with it; an image of which no value does has the same logits. The larger the network, the
    # fewer are such images.
    if case in FIRST:
        assert off("int8", int8).min() < TOLERANCE
    assert off("int8", int8).max() < 0.5


def test_eight_networks_are_built_without_a_warning(first: Found) -> None:
    check_builds(first, FIRST)


def test_their_layers_are_those_on_record(first: Found) -> None:
    check_layers(first)


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_the_parsed_network_computes_what_pytorch_does(first: Found, case: Case) -> None:
    check_answers(first, case)


def test_a_clip_is_one_layer_with_both_its_bounds(first: Found) -> None:
    """Without the lower one it would be two, a useless MAX among them."""
    folder, found, _ = first
    for precision in FILE_PRECISIONS:
        file = FIRST[0].file(folder, precision)
        clips = [node for node in onnx.load(file).graph.node if node.op_type == "Clip"]
        table = found[file.name]["table"]
        assert sum(n for kind, n in table.items() if kind.startswith("ACTIVATION.CLIP")) == 12
        assert [len(node.input) for node in clips] == [3] * 12
        assert not [kind for kind in table if kind.startswith(("ELEMENTWISE.M", "CLIP"))]


def test_a_bound_that_the_precision_does_not_hold_would_be_seen(
    first: Found, tmp_path: Path
) -> None:
    jobs = []
    for precision in ("fp16", "bf16"):
        proto = onnx.load(FIRST[0].file(first[0], precision))
        for node in proto.graph.node:
            if node.op_type == "Clip" and node.input[2] == "highest":
                del node.input[2]
        jobs.append(job(tmp_path / f"model.{precision}.onnx", precision))
        (tmp_path / f"model.{precision}.onnx").write_bytes(proto.SerializeToString())
    _, printed = let_work(jobs, tmp_path)
    assert printed.count("requires precision-lose casting") == 20


def test_every_bound_is_held_exactly(first: Found) -> None:
    """The ends of fp16 and bf16 in place of float32's; the others as the weights say."""
    from onnx import numpy_helper

    for precision, largest in (("fp16", 65504.0), ("bf16", 2.0**128 - 2.0**120)):
        graph = onnx.load(FIRST[0].file(first[0], precision)).graph
        values = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
        ends = [float(values[name]) for name in FLOAT32_ENDS]
        assert ends == [-largest, largest]
        assert all(np.isfinite(value.astype(np.float32)).all() for value in values.values())


def test_every_name_of_the_rtx_library_exists() -> None:
    trt = importlib.import_module("tensorrt_rtx_bindings")
    kinds = {"config": ("IBuilderConfig", "IRuntimeConfig")}
    for owner, names in RTX_ONLY.items():
        places = [getattr(trt, kind) for kind in kinds.get(owner, (owner,))]
        for name in names:
            assert any(hasattr(place, name) for place in places), (owner, name)
    for place, name in (
        (trt.ICudaEngine, "create_runtime_config"), (trt.IRuntimeCache, "serialize"),
        (trt.IRuntimeCache, "deserialize"), (trt.Runtime, "get_engine_validity"),
    ):  # fmt: skip
        assert hasattr(place, name)
    known = {name.lower() for name in trt.ComputeCapability.__members__} - {"none", "current"}
    assert known == set(CAPABILITIES)


def test_a_plan_is_for_the_capabilities_that_are_asked_for(first: Found) -> None:
    exact = FIRST[0].file(first[0], "fp16").name
    sizes = [row["bytes"] for name, row in first[1].items() if name == exact or name in MORE]
    assert len(set(sizes)) == len(sizes) == 1 + len(MORE)
    assert capability("NVIDIA GeForce RTX 4090 (sm_89)") == "sm89"
    assert capability("NVIDIA H200 (sm_90)") == capability("a card") == AMPERE_ON
    with pytest.raises(PlanError, match="builds for no sm90; it knows sm75, sm80, sm86"):
        PlanSpec(TENSORRT_RTX, "fp32", BatchProfile(), "sm86+sm90")
    with pytest.raises(
        PlanError, match=r"builds bf16 for no sm75 \(Turing\), which has fp16 alone"
    ):
        PlanSpec(TENSORRT_RTX, "bf16", BatchProfile(), "sm75")


# What NVIDIA's code does with damaged files is tried where a crash would end nothing else.
REFUSED = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from onnx import TensorProto, helper
from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT, TENSORRT_RTX, PlanError
from hgnetv2_pipeline.deployment.kit.plan_runner import PlanRunner
from hgnetv2_pipeline.deployment.kit.plans import AMPERE_ON, BatchProfile, PlanSpec, build_plan

folder, data = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
spec = PlanSpec(TENSORRT_RTX, "fp32", BatchProfile(), AMPERE_ON)
value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, 8, 8]) for n in "ab"]
def graph(kind, **more):
    nodes = [helper.make_node(kind, ["a"], ["b"], name="odd", **more)]
    made = helper.make_graph(nodes, "g", value[:1], value[1:])
    return helper.make_model(made).SerializeToString()
def run(content):
    (folder / "a.plan").write_bytes(content)
    PlanRunner(folder / "a.plan", SimpleNamespace(name="GPU (sm_89)"), library=TENSORRT_RTX)
plan = build_plan(data, spec).plan
attempts = {
    "cut": lambda: build_plan(data[:-1000], spec), "text": lambda: build_plan(b"broken", spec),
    "empty": lambda: build_plan(b"", spec), "operator": lambda: build_plan(graph("Gelly"), spec),
    "unsupported": lambda: build_plan(graph("StringNormalizer"), spec),
    "plan of text": lambda: run(b"abc" * 100), "empty plan": lambda: run(b""),
    "cut plan": lambda: run(plan[:-1000]), "plan without a driver": lambda: run(plan),
    "no library": TENSORRT.load,
}
said = {}
for name, attempt in attempts.items():
    try:
        attempt()
        said[name] = "taken"
    except PlanError as error:
        said[name] = str(error)
(folder / "said.json").write_text(json.dumps(said))
"""


# Rows O05 and O06 of docs/reliability.md.
def test_what_it_cannot_take_is_refused_in_one_line(first: Found, tmp_path: Path) -> None:
    file = FIRST[0].file(first[0], "fp32")
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, tmp_path, file],
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "said.json").read_text())
    assert not [text for text in said.values() if "\n" in text]
    for name in ("cut", "text"):
        assert "cannot read the ONNX model" in said[name]
        assert "Failed to parse" in said[name]
    assert "no inputs or no outputs" in said["empty"]
    assert "Gelly" in said["operator"]
    assert "StringNormalizer" in said["unsupported"]
    for name in ("plan of text", "empty plan"):
        assert "it is damaged, or no plan of this library" in said[name]
    for name in ("cut plan", "plan without a driver"):
        assert "cannot run this plan" in said[name]
        assert "export.gpus" in said[name]
    if importlib.util.find_spec("tensorrt") is None:
        assert "TensorRT cannot be imported" in said["no library"]
        assert "pip install tensorrt" in said["no library"]


@pytest.mark.slow
def test_every_network_in_every_form_is_built_and_computes_what_pytorch_does(
    tmp_path: Path,
) -> None:
    found = shown(tmp_path, ALL)
    check_builds(found, ALL)
    check_layers(found)
    assert len(found[1]) == len(RECORD.read_text().splitlines()) == 4 * len(ALL)
    for case in ALL:
        check_answers(found, case)


@pytest.mark.slow
def test_an_export_of_a_timm_network_is_built(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("resnet18", num_classes=7).eval()
    (tmp_path / "resnet18.onnx").write_bytes(through_torch(model, SIDE).SerializeToString())
    found, printed = let_work([job(tmp_path / "resnet18.onnx", "fp32", evaluate=True)], tmp_path)
    assert printed == ""
    row = found["resnet18.onnx"]
    assert (row["parser"], row["builder"]) == ([], [])
    with torch.inference_mode():
        wanted = model.double()(torch.from_numpy(images()).double()).numpy()
    got = np.load(tmp_path / "resnet18.npy")
    assert np.abs(got - wanted).max() < TOLERANCE * wanted.std()
