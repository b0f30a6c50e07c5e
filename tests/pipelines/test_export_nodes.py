"""The export node: which files it makes of a run, what decides about reuse, what uses them."""

from __future__ import annotations

import errno
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
from PIL import Image

from hgnetv2_pipeline.data.classmap import write_class_map
from hgnetv2_pipeline.data.index import samples_frame, write_index
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.engines.base import HINTS
from hgnetv2_pipeline.deployment.kit import plans
from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT_RTX, PlanError
from hgnetv2_pipeline.deployment.kit.plans import AMPERE_ON, capabilities_of, read_note
from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.exits import explain
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.hgnetv2 import LearnableAffine
from hgnetv2_pipeline.pipelines.export.nodes import export
from hgnetv2_pipeline.project import models
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import EvaluationParams, ExportParams
from hgnetv2_pipeline.weights.load import save_weights
from tiny_project import run_of

CLASSES = ["circle", "square", "star"]
GIVEN: dict[str, Any] = {
    "target": "onnx",
    "precisions": ["fp32"],
    "opset": 18,
    "batch": None,
    "softmax": False,
    "embedding": False,
    "lab": "relu",
    "gate": {"images": None, "max_drop": {"fp16": 100, "bf16": 100, "int8": 100}},
    "calibration": {"split": "train", "images": 4, "method": "max", "percentile": 99.99},
    "gpus": [],
    "tensorrt": {"least": 1, "best": 1, "most": 8},
    "kit": {"precisions": ["fp32", "tf32"], "labs": ["clip"], "batch_sizes": [1], "images": 4},
    "card": {"license": None, "data_license": None, "contact": None, "notes": None},
}


def params(**changes: Any) -> ExportParams:
    return ExportParams.model_validate({**GIVEN, **changes})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of B0 and nine images in train and val."""
    folder = tmp_path_factory.mktemp("project")
    torch.manual_seed(0)
    model = create_model("b0", 3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LearnableAffine):
                module.scale.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.4, 0.4)
    run = folder / "data/06_models/shapes/train/b0/seed=0"
    run.mkdir(parents=True)
    facts = {
        "format": "hgnetv2_pipeline/1", "variant": "b0", "stage": "train", "num_classes": "3",
        "classes": json.dumps(CLASSES), "preprocess": json.dumps(Preprocess(32, 32).to_dict()),
        "inputs": "{}",
    }  # fmt: skip
    save_weights(run / "student.safetensors", model, facts)
    images = folder / "data/01_raw/shapes"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for number in range(9):
        path = images / f"{number}.png"
        coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((40, 40)).save(path)
        size = path.stat().st_size
        rows.append((path.name, path.name, -1, size, number % 3, 40, 40, "PNG", ""))
    lists = folder / "data/02_intermediate/shapes"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        write_index(lists / f"index_{split}.parquet", samples_frame(rows))
    write_class_map(lists / "class_map.txt", CLASSES)
    return folder


@pytest.fixture(scope="module")
def identity(project: Path) -> Identity:
    return Identity(
        project=project, environment="base", dataset="shapes", variant="b0", run="seed=0", seed=0,
        teacher="t", model="train/b0/seed=0", download=False,
    )  # fmt: skip


def run(identity: Identity, **changes: Any) -> set[str]:
    lists = identity.folder("lists")
    folder, _ = export(run_of(identity), params(**changes), lists, Path())
    return {path.name for path in folder.iterdir() if "made_by" not in path.name}


BASE = {
    "model.onnx", "labels.txt", "preprocess.json", "predict.py", "manifest.json",
    "export.manifest.json", "MODEL_CARD.md", "card.manifest.json",
}  # fmt: skip


def test_fp32_needs_no_images_and_a_new_target_keeps_the_export(
    identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = Path("there/are/no/lists")
    folder, record = export(run_of(identity), params(), nowhere, Path())
    assert {path.name for path in folder.iterdir()} >= BASE
    assert record["model"] == "train/b0/seed=0"
    kinds = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    assert (kinds.count("Relu"), kinds.count("Clip")) == (19, 12)
    assert json.loads((folder / "manifest.json").read_text())["tensorrt_profile"] == "1,1,8"
    caplog.set_level("INFO")
    (params_then,) = [json.loads((folder / "export.manifest.json").read_text())["params"]]
    assert "embedding" not in params_then, "a folder from before the choice was there stays valid"
    made = run(identity, target="tensorrt-kit", gate={"images": 6, "max_drop": {}})
    assert made == BASE | {"tensorrt-kit", "tensorrt-kit.manifest.json"}
    assert "train/b0/seed=0/export: reused" in caplog.text
    kit = json.loads((folder / "tensorrt-kit/kit.json").read_text())
    assert [graph["name"] for graph in kit["graphs"]] == ["clip-fp32", "clip-tf32"]
    assert (kit["packed"], kit["profile"]["most"]) == (4, 8)
    # Spread over all of val, which is there class by class, whatever the gate looks at.
    packed = np.load(folder / "tensorrt-kit/validation.npz")
    assert packed["labels"].tolist() == [number % 3 for number in (0, 3, 5, 8)]


def test_a_card_comes_to_an_export_without_one_and_follows_what_is_measured(
    identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    folder = identity.folder("export")
    run(identity)
    for name in ("MODEL_CARD.md", "card.manifest.json"):  # as an older version left it
        (folder / name).unlink()
    caplog.set_level("INFO")
    run(identity)
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "train/b0/seed=0/export: reused" in caplog.text
    assert "circle, square, star" in card and "Not measured when this card" in card
    weights = identity.run_folder(identity.model) / "student.safetensors"
    counts = {
        "model": identity.model, "split": "test", "engine": "torch", "precision": "fp32",
        "n_listed": 9, "n_used": 9, "n_quarantined": 0, "n_refused": 0, "top1_count": 6,
    }  # fmt: skip
    others = [("test", sha256_file(weights)), ("val", "0" * 64)]
    for split, digest in others:
        made = identity.folder("evaluation") / f"{split}-torch-fp32.json"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps({**counts, "split": split}))
        note = {"inputs": {"model": digest, "split": "1" * 64}}
        made.with_name(f"{split}-torch-fp32.manifest.json").write_text(json.dumps(note))
    ours = sha256_file(folder / "model.onnx")
    for name, inputs in (("ort-fp32-bs1", [ours]), ("turns-ort-fp32-bs1", [ours, "0" * 64])):
        made = identity.folder("latency") / f"{name}.json"
        made.parent.mkdir(parents=True, exist_ok=True)
        row = {"model": name, "p50_ms": 0.5, "device": "here", "threads": 1, "image_size": 32}
        made.write_text(json.dumps(row))
        note = {"inputs": {f"model {place}": one for place, one in enumerate(inputs)}}
        made.with_name(f"{name}.manifest.json").write_text(json.dumps(note))
    run(identity)
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    speed = card.partition("## Speed")[2].partition("## Files")[0]
    assert "| ort-fp32-bs1 |" in speed and "turns" not in speed, "timed beside other models"
    assert "| test | torch | fp32 | 9 | 0 | 66.7 |" in card
    assert "| val |" not in card, "an evaluation of other weights"
    caplog.clear()
    run(identity)
    assert "train/b0/seed=0/card: reused" in caplog.text


def test_the_lines_of_python_in_a_card_run_where_it_is(identity: Identity) -> None:
    run(identity)
    folder = identity.folder("export")
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    picture = folder / "picture.jpg"
    Image.new("RGB", (40, 40), (200, 10, 10)).save(picture)
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(answer)"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    picture.unlink()
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in CLASSES)


def test_a_model_repository_is_made_beside_the_export_and_again_when_a_plan_comes(
    identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    models = {"b0", "b0_images", "b0_preprocess"}
    folder = identity.folder("export")
    assert {"triton", "triton.manifest.json"} <= run(identity, target="triton")
    assert {path.name for path in (folder / "triton").iterdir()} == models
    caplog.set_level("INFO")
    run(identity, target="triton")
    assert "train/b0/seed=0/triton: reused" in caplog.text
    (folder / "model.plan").write_bytes(b"a plan")
    run(identity, target="triton")
    (folder / "model.plan").unlink()
    more = {"b0_tensorrt", "b0_tensorrt_images"}
    assert {path.name for path in (folder / "triton").iterdir()} == models | more


def test_embeddings_are_exported_on_request(identity: Identity) -> None:
    run(identity, embedding=True)
    folder = identity.folder("export")
    outputs = [output.name for output in onnx.load(folder / "model.onnx").graph.output]
    assert outputs == ["logits", "embedding"]
    assert json.loads((folder / "export.manifest.json").read_text())["params"]["embedding"] is True
    assert json.loads((folder / "manifest.json").read_text())["embedding"].endswith("2048]")


def test_a_run_is_that_of_its_variant_under_whatever_name(identity: Identity) -> None:
    """W12: names of timm and PaddleClas give no folders of their own."""
    same = Identity(**{**identity.model_dump(), "variant": "PPHGNetV2_B0"})
    assert same == identity and same.folder("export") == identity.folder("export")


def test_precisions_are_calibrated_judged_and_then_evaluated_by_the_engine_that_runs_them(
    identity: Identity,
) -> None:
    made = run(identity, precisions=["fp32", "int8"])
    assert made >= BASE | {"model.int8.onnx"}
    folder, lists = identity.folder("export"), Lists(identity.folder("lists"))
    gate = json.loads((folder / "manifest.json").read_text())["precisions"]["int8"]
    assert gate["images"] == "9 of 9 val images of shapes"

    def top1(engine: str, precision: str) -> dict[str, Any]:
        how = EvaluationParams(
            engine=engine, precision=precision, batch_size=4, workers=0, max_bad=0.0,
            resize_short=None, fast=False,
        )  # fmt: skip
        return models.evaluate(run_of(identity), identity.model, lists, "val", how).metrics

    assert top1("torch", "fp32")["top1_count"] == top1("ort", "fp32")["top1_count"]
    assert top1("ort", "fp32")["top1_count"] == gate["top1_fp32"]
    assert top1("ort", "int8")["top1_count"] == gate["top1"]
    assert top1("ort", "int8")["precision"] == "int8"
    inputs = models.model_inputs(identity, "ort", "int8")
    assert inputs == {"model": folder / "model.int8.onnx"}
    with pytest.raises(ParameterError, match="evaluation.precision=int8 with engine torch"):
        top1("torch", "int8")
    with pytest.raises(ParameterError, match=r"model\.fp16\.onnx.*export.precisions=fp32\+fp16"):
        top1("ort", "fp16")


def test_a_failed_gate_leaves_the_earlier_export_where_it_is(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(identity)
    manifest = identity.folder("export") / "manifest.json"
    before = manifest.read_bytes()
    monkeypatch.setattr(
        "hgnetv2_pipeline.deployment.export.gate.MAX_RMS", {"int8": 0.0, "fp16": 0.0}
    )
    with pytest.raises(WeightsError, match="int8 export fails its gate on 9 of 9 val images"):
        run(identity, precisions=["int8"])
    assert manifest.read_bytes() == before
    assert not list(identity.folder("export").parent.glob(".partial*"))


PLANS = {"model.tensorrt-rtx.plan", "model.tensorrt-rtx.json", "tensorrt-rtx.manifest.json"}
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX has no wheel for this system (requirements.in)",
)


def clear_plans(identity: Identity) -> None:
    for path in identity.folder("export").glob("*tensorrt-rtx*"):
        path.unlink()


@needs_rtx
def test_plans_are_built_without_a_gpu_for_the_gpus_that_are_named(
    identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = run(identity, target="tensorrt-rtx", gpus="sm89+sm86")
    assert made >= BASE | PLANS
    folder = identity.folder("export")
    plan, note = folder / "model.tensorrt-rtx.plan", read_note(folder / "model.tensorrt-rtx.plan")
    assert note == {
        "bytes": plan.stat().st_size, "gpu": "sm86+sm89", "library": "tensorrt-rtx",
        "onnx": "model.onnx", "onnx_sha256": sha256_file(folder / "model.onnx"),
        "plan_sha256": sha256_file(plan), "precision": "fp32",
        "profile": {"least": 1, "best": 1, "most": 8}, "version": TENSORRT_RTX.load().__version__,
        "warnings": [],
    }  # fmt: skip
    assert "wrote model.tensorrt-rtx.plan for sm86+sm89" in caplog.text
    manifest = json.loads((folder / "tensorrt-rtx.manifest.json").read_text())
    assert manifest["outputs"]["model.tensorrt-rtx.plan"] == note["plan_sha256"]
    caplog.clear()
    run(identity, target="tensorrt-rtx", gpus=["sm86", "sm89"])
    assert "tensorrt-rtx: reused" in caplog.text
    # Runtime caches and earlier plans beside them change nothing.
    (folder / "model.tensorrt-rtx.A-GPU-sm-89.cache").write_bytes(b"compiled")
    run(identity, target="tensorrt-rtx", gpus="all")
    assert read_note(plan)["gpu"] == "sm80+sm86+sm89+sm120+sm121"  # Turing has fp16 alone
    run(identity, target="tensorrt-rtx")
    assert read_note(plan)["gpu"] == AMPERE_ON
    clear_plans(identity)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpus": "sm90"}, "'sm90'|Input should be 'sm75'"),
        ({"gpus": "all+sm86"}, "all cannot be combined"),
        ({"gpus": "sm75+sm86"}, r"builds fp32 for no sm75: Turing \(sm75\) has fp16 alone"),
        ({"gpus": "sm75", "precisions": "fp16", "embedding": True}, "fp16 with embeddings for no"),
        (
            {"gpus": "sm86", "target": "onnx"},
            "gpus are for target tensorrt-rtx, and target is",
        ),
    ],
)
def test_gpus_that_no_plan_is_for_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        params(**{"target": "tensorrt-rtx", **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target": "executorch", "precisions": "fp16"}, "executorch has fp32, int8, no fp16"),
        ({"target": "ncnn", "precisions": "fp32+int8"}, "ncnn has fp32, fp16, no int8"),
        ({"target": "ncnn", "embedding": True}, "ncnn gives logits alone; leave embedding=false"),
        ({"target": "ncnn", "batch": 2}, "ncnn takes one image at a time; batch=2 is no 1"),
        ({"target": "tensorrt-kit", "batch": 2}, "takes the batch sizes of tensorrt, not batch"),
        ({"batch": 0}, "greater than or equal to 1"),
    ],
)
def test_what_a_target_has_not_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        params(**given)


@pytest.mark.parametrize("target", ["executorch", "ncnn"])
def test_without_the_packages_of_a_device_engine_nothing_is_made(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    run(identity)
    monkeypatch.setitem(sys.modules, {"executorch": "torchao", "ncnn": "pnnx"}[target], None)
    before = {path.name for path in identity.folder("export").iterdir()}
    with pytest.raises(ParameterError) as caught:
        run(identity, target=target, opset=17)
    line = str(caught.value)
    assert line.startswith(f"export.target={target}: ")
    assert line.endswith(f"is not installed ({HINTS[target]})")
    assert {path.name for path in identity.folder("export").iterdir()} == before


def test_files_for_devices_are_made_beside_the_export_and_again_when_it_changes(
    identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pnnx", reason=HINTS["ncnn"])
    caplog.set_level("INFO")
    made = run(identity, target="ncnn")
    files = {"model.ncnn.param", "model.ncnn.bin", "model.ncnn.json", "ncnn.manifest.json"}
    assert made >= BASE | files
    folder = identity.folder("export")
    first = json.loads((folder / "model.ncnn.json").read_text())
    assert first["onnx_sha256"] == sha256_file(folder / "model.onnx")
    assert (first["gate"]["n"], first["gate"]["same_answer"]) == (9, 9)
    caplog.clear()
    run(identity, target="ncnn")
    assert "ncnn: reused" in caplog.text
    run(identity, target="ncnn", batch=1, opset=13)
    again = json.loads((folder / "model.ncnn.json").read_text())
    assert again["onnx_sha256"] == sha256_file(folder / "model.onnx") != first["onnx_sha256"]
    inputs = models.model_inputs(identity, "ncnn", "fp32")
    assert inputs == {"model": folder / "model.ncnn.bin"}
    for path in folder.glob("*ncnn*"):
        path.unlink()
    run(identity)


def test_turing_takes_fp16() -> None:
    assert params(target="tensorrt-rtx", gpus="sm75+sm86", precisions="fp16").gpus[0] == "sm75"
    assert capabilities_of("fp16")[0] == "sm75"
    assert "sm75" not in capabilities_of("fp16", embedding=True)


def test_without_the_library_nothing_is_made(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(identity)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    before = {path.name for path in identity.folder("export").iterdir()}
    with pytest.raises(ParameterError, match=r"export.target=tensorrt-rtx: TensorRT for RTX cannot "
                       r"be imported .*pip install tensorrt-rtx-cu12-libs"):  # fmt: skip
        run(identity, target="tensorrt-rtx", opset=17)
    assert {path.name for path in identity.folder("export").iterdir()} == before


@needs_rtx
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PlanError("no kernel"), WeightsError),
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=str,
)
def test_a_build_that_ends_early_leaves_no_plan(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, error: BaseException,
    raised: type[BaseException],
) -> None:  # fmt: skip
    """O06: the library refuses, the disk is full, the user stops it, at the second of two plans."""
    whole = plans.write_whole

    def write(path: Path, data: bytes) -> None:
        if path.name == "model.fp16.tensorrt-rtx.plan":
            raise error
        whole(path, data)

    monkeypatch.setattr(plans, "write_whole", write)
    with pytest.raises(raised) as caught:
        run(identity, target="tensorrt-rtx", precisions="fp32+fp16")
    if isinstance(error, OSError):
        assert "disk full" in explain(caught.value, debug="")[1]
    folder = identity.folder("export")
    assert (folder / "model.fp16.onnx").is_file()
    assert not list(folder.glob("*tensorrt-rtx*"))
    assert not list(folder.parent.glob(".partial*"))
    monkeypatch.setattr(plans, "write_whole", whole)
    made = run(identity, target="tensorrt-rtx", precisions="fp32+fp16")
    assert made >= PLANS | {"model.fp16.tensorrt-rtx.plan", "model.fp16.tensorrt-rtx.json"}
    clear_plans(identity)
