"""The TensorRT kit: what is in it; its script runs without torch and without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from deployment_cases import CLASSES, formula_model

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.gate import Validation
from hgnetv2_pipeline.deployment.export.kit_folder import KitPlan, trtexec_lines, write_kit
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.deployment.kit import run
from hgnetv2_pipeline.deployment.kit.libraries import LIBRARIES
from hgnetv2_pipeline.deployment.kit.plans import BatchProfile
from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models.hgnetv2 import Backbone
from hgnetv2_pipeline.reporting.chapters import speed
from hgnetv2_pipeline.reporting.chapters.speed import export_blocks
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs

SIDE = 32
PREPROCESS = Preprocess(SIDE, SIDE)
PLAN = KitPlan(
    labs=("clip", "affine"), precisions=("fp32", "tf32", "int8"), profile=BatchProfile(1, 1, 4),
    batch_sizes=(1, 4), images=6,
)  # fmt: skip
# Runs the kit's own modules with ONNX Runtime in place of TensorRT, torch and this package away.
EXECUTE = """
import sys
class Away:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "hgnetv2_pipeline", "kedro", "onnx", "tensorrt",
                                  "tensorrt_rtx_bindings"):
            raise ImportError(f"{name} is away")
sys.meta_path.insert(0, Away())
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
import onnxruntime
import run

def open_graph(path, precision):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = lambda images: session.run(None, {"images": images})[0]
    return logits, lambda images: {"batch_size": len(images), "gpu": {"p50_ms": 1.0},
                                   "seen": logits(images).shape}

folder = Path(run.__file__).parent
(folder / "graphs" / "affine.int8.onnx").write_bytes(b"damaged")
found = run.measure_kit(folder, open_graph, engine="tensorrt-rtx", device="no GPU", versions={},
                        batch_sizes=[1, 4])
print(run.write_results(folder, found).name)
assert run.main([]) == 2
"""


def validation(count: int = 12) -> Validation:
    pixels = np.random.default_rng(2).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    halves = [(pixels[:5], np.arange(5) % 7), (pixels[5:], np.arange(5, count) % 7)]
    return Validation(lambda: iter(halves), f"{count} pictures")


@pytest.fixture(scope="module")
def kit(b0: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit") / "tensorrt-kit"
    source = validation()
    write_kit(
        b0, folder, PLAN, model_name="train/b0/seed=0", class_names=CLASSES, preprocess=PREPROCESS,
        validation=source, packed=source,
        metadata={"tensorrt_profile": "1,1,4", "source_sha256": "ab" * 32},
        calibration=Calibration(lambda: (pixels for pixels, _ in source.batches()), "the same"),
        max_drop={"int8": 100},
    )  # fmt: skip
    return folder


def test_it_holds_graphs_images_logits_and_scripts(kit: Path) -> None:
    facts = json.loads((kit / "kit.json").read_text())
    assert [graph["name"] for graph in facts["graphs"]] == [
        "clip-fp32", "clip-tf32", "clip-int8", "affine-fp32", "affine-tf32", "affine-int8",
    ]  # fmt: skip
    for graph in facts["graphs"]:
        assert graph["sha256"] == sha256_file(kit / graph["file"])
    assert facts["source_sha256"] == "ab" * 32
    packed = np.load(kit / "validation.npz")
    assert packed["images"].shape == (6, SIDE, SIDE, 3)
    assert packed["labels"].tolist() == [0, 1, 2, 3, 4, 5]
    engine = load_engine(kit / "graphs" / "affine.fp32.onnx", "ort")
    logits = engine.logits(PREPROCESS.normalize(packed["images"]))
    assert np.abs(packed["logits"] - logits).max() < 1e-4 * logits.std()
    for path in kit.glob("*.py"):
        assert "hgnetv2_pipeline.deployment" not in path.read_text(encoding="utf-8")
    readme = (kit / "README.md").read_text(encoding="utf-8")
    assert "Not run yet" in readme
    for name, package in (("", "tensorrt>=10"), ("-rtx", "tensorrt-rtx-cu12-libs>=1.7")):
        assert package in (kit / f"requirements{name}.txt").read_text()
    assert all(line in readme for line in trtexec_lines(facts))


def test_trtexec_gets_the_same_profile_and_no_tf32_for_fp32(kit: Path) -> None:
    lines = trtexec_lines(json.loads((kit / "kit.json").read_text()))
    assert len(lines) == 6
    assert f"--maxShapes=images:4x3x{SIDE}x{SIDE}" in lines[0]
    assert ["--noTF32" in line for line in lines] == [True, False, False] * 2
    assert all("--onnx=graphs/" in line and "--stronglyTyped" in line for line in lines)


def test_its_script_checks_times_and_reports_without_torch_or_this_package(
    kit: Path, tmp_path: Path
) -> None:
    kit = shutil.copytree(kit, tmp_path / "kit")
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE], cwd=kit, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TensorRT cannot be imported" in done.stdout
    assert "pip install tensorrt" in done.stdout
    (path,) = (kit / "results").glob("*.json")
    assert path.name in done.stdout
    found = json.loads(path.read_text())
    assert (found["device"], found["model"]) == ("no GPU", "train/b0/seed=0")
    assert found["engine"] == found["rows"][0]["engine"] == "tensorrt-rtx"
    assert "pip install tensorrt-rtx-cu12-libs" in done.stdout
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["affine-int8"]["failed"].endswith("not the file that the kit was made with")
    check = rows["affine-fp32"]["check"]
    assert check["n"] == check["same_top1"] == check["same_top5_set"] == 6
    assert check["top1_count"] == check["stored_top1_count"]
    assert check["relative_error"] < 1e-4
    assert rows["clip-int8"]["check"]["rms_error"] > check["rms_error"]
    assert [timing["seen"] for timing in rows["clip-fp32"]["timings"]] == [[1, 7], [4, 7]]


@pytest.mark.tensorrt
def test_its_script_runs_with_tensorrt(kit: Path, tmp_path: Path) -> None:
    kit = shutil.copytree(kit, tmp_path / "kit")
    command = [sys.executable, "run.py", "--warmup", "10", "--runs", "100"]
    subprocess.run(command, cwd=kit, check=True, timeout=1800)
    (path,) = (kit / "results").glob("*.json")
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["clip-fp32"]["check"]["relative_error"] < 1e-3
    assert rows["clip-int8"]["check"]["rms_error"] < 0.5
    assert all(row["timings"][0]["gpu"]["p50_ms"] > 0 for row in rows.values())


def test_the_report_shows_a_kits_results_and_otherwise_not_run(kit: Path, tmp_path: Path) -> None:
    manifest = {"model": "train/b0/seed=0", "precision": "fp32", "source_sha256": "ab"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    inputs = ReportInputs(dataset="birds", exports=(tmp_path / "manifest.json",))
    (said,) = [
        b.text for b in export_blocks(inputs, FileLedger()) if "TensorRT" in vars(b).get("text", "")
    ]
    assert "not run" in said
    result = {
        "format": "hgnetv2_pipeline.tensorrt/1", "model": "train/b0/seed=0", "source_sha256": "cd",
        "device": "Some GPU (sm_90)", "versions": {"tensorrt": "11.4"}, "date": "2026-11-26",
        "rows": [
            {"name": "clip-fp16", "check": {"top1_count": 5, "n": 6},
             "timings": [{"batch_size": 1, "gpu": {"p50_ms": 0.25, "mean_ms": 0.26}}]},
            {"name": "clip-int8", "failed": "could not build"},
        ],
    }  # fmt: skip
    table = speed.tensorrt_table([result])
    first = {row["graph"]: row for row in table.records()}["clip-fp16"]
    assert (first["GPU"], first["library"], first["version"], first["date"]) == (
        "Some GPU (sm_90)", "tensorrt", "11.4", "2026-11-26",
    )  # fmt: skip
    rtx = {**result, "engine": "tensorrt-rtx", "versions": {"tensorrt-rtx": "1.7"}}
    assert {(row["library"], row["version"]) for row in speed.tensorrt_table([rtx]).records()} == {
        ("tensorrt-rtx", "1.7")
    }
    assert (first["p50 ms"], first["top-1"]) == ("0.250", "5 of 6")
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    other = ReportInputs(dataset="b", exports=inputs.exports, tensorrt=(path,))
    blocks = export_blocks(other, FileLedger())
    assert any("other weights" in vars(block).get("text", "") for block in blocks)
    assert not any("not run" in vars(block).get("text", "") for block in blocks)


def test_networks_without_lab_have_one_form_and_bad_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"batch sizes \[8\] are outside the profile 1\.\.4"):
        KitPlan(("clip",), ("fp32",), BatchProfile(1, 1, 4), (1, 8), 1)
    with pytest.raises(ParameterError, match="unknown precision 'fp8'"):
        KitPlan(("clip",), ("fp8",), BatchProfile(), (1,), 1)
    source = validation(6)
    facts = write_kit(
        formula_model("hgnet_tiny"), tmp_path / "kit",
        KitPlan(("clip", "relu", "affine"), ("fp32",), BatchProfile(), (1,), 6),
        model_name="teacher", class_names=CLASSES, preprocess=PREPROCESS, validation=source,
        packed=source, calibration=Calibration(lambda: iter([]), "none"), metadata={},
    )  # fmt: skip
    assert [(graph["name"], graph["lab"]) for graph in facts["graphs"]] == [("clip-fp32", "none")]


def run_with(
    kit: Path, monkeypatch: pytest.MonkeyPatch, open_graph: object, *arguments: str,
    tensorrt_rtx_bindings: object = None,
) -> tuple[int, list[Path]]:  # fmt: skip
    """The kit's ``run.py`` in ``kit`` with graphs opened by ``open_graph`` in place of TensorRT."""
    device = SimpleNamespace(name="no GPU", versions={})
    monkeypatch.setattr(run, "__file__", str(kit / "run.py"))
    monkeypatch.setattr(run, "CudaDevice", lambda: device)
    monkeypatch.setattr(run, "tensorrt_opener", lambda *_, **__: open_graph)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", tensorrt_rtx_bindings)
    code = run.main(arguments)
    return code, list((kit / "results").glob("*.json"))


def test_batch_sizes_outside_the_profile_are_refused_before_anything_is_built(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kit = shutil.copytree(kit, tmp_path / "kit")

    def never(path: Path, precision: str) -> object:
        raise AssertionError(f"{path} was built")

    assert run_with(kit, monkeypatch, never, "--batch-sizes", "1", "8") == (2, [])
    assert "batch sizes [8] are outside the profile 1..4" in caplog.text


def test_a_graph_that_fails_in_any_way_costs_the_others_nothing(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = shutil.copytree(kit, tmp_path / "kit")

    def open_graph(path: Path, precision: str) -> run.Opened:
        if precision == "int8":
            raise ValueError("pybind11 is\ndispleased")
        return (
            load_engine(path, "ort").logits,
            lambda images: {"batch_size": len(images), "gpu": {"p50_ms": 1.0}},
        )

    code, (path,) = run_with(kit, monkeypatch, open_graph)
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert code == 1
    assert rows["clip-int8"]["failed"] == "ValueError: pybind11 is displeased"
    assert [len(row.get("timings", [])) for row in rows.values()] == [2, 2, 0] * 2


def test_each_library_that_is_installed_has_its_turn_and_its_file(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = shutil.copytree(kit, tmp_path / "kit")

    def open_graph(path: Path, precision: str) -> run.Opened:
        return load_engine(path, "ort").logits, lambda images: {
            "batch_size": 1,
            "gpu": {"p50_ms": 1},
        }

    both = {"tensorrt_rtx_bindings": SimpleNamespace(__version__="1.7")}
    code, files = run_with(kit, monkeypatch, open_graph, "--graphs", "clip-fp32", **both)
    found = {path.stem.partition("Z-")[2]: json.loads(path.read_text()) for path in files}
    assert code == 0
    assert {name: (each["engine"], each["versions"][name]) for name, each in found.items()} == {
        "tensorrt": ("tensorrt", "11.4"), "tensorrt-rtx": ("tensorrt-rtx", "1.7"),
    }  # fmt: skip
    assert run.installed(["tensorrt-rtx"]) == [LIBRARIES["tensorrt-rtx"]]


def test_top_1_and_the_set_of_top_5_are_judged_apart(kit: Path) -> None:
    facts = json.loads((kit / "kit.json").read_text())
    stored = np.load(kit / "validation.npz")["logits"]
    order = np.argsort(-stored, axis=1)
    swapped = stored.copy()
    np.put_along_axis(swapped, order[:, :2], np.take_along_axis(stored, order[:, 1::-1], 1), 1)
    found = run.check(lambda _: swapped, kit, facts)
    assert (found["same_top1"], found["same_top5_set"]) == (0, 6)
    assert found["stored_top1_count"] == (stored.argmax(1) == np.arange(6)).sum()
    found = run.check(lambda _: -stored, kit, facts)
    assert (found["same_top1"], found["same_top5_set"]) == (0, 0)


@pytest.mark.parametrize(
    "spoil", [lambda logits: np.clip(logits, -0.5, 0.5), lambda logits: logits * np.nan]
)
def test_a_graph_that_the_target_computes_wrongly_fails_and_is_not_timed(
    kit: Path, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    timed: list[str] = []

    def open_graph(path: Path, precision: str) -> run.Opened:
        logits = load_engine(path, "ort").logits

        def time_batch(images: np.ndarray) -> dict[str, object]:
            timed.append(precision)
            return {"batch_size": len(images), "gpu": {"p50_ms": 1.0}}

        spoilt = precision == "tf32"
        return (lambda images: spoil(logits(images))) if spoilt else logits, time_batch

    found = run.measure_kit(
        kit, open_graph, engine="tensorrt", device="A GPU", versions={}, batch_sizes=[1],
        only=["clip-fp32", "clip-tf32", "clip-int8"],
    )  # fmt: skip
    rows = {row["name"]: row for row in found["rows"]}
    assert "computed wrongly on A GPU: its logits are off by" in rows["clip-tf32"]["failed"]
    assert "check" in rows["clip-tf32"]
    assert not {"failed"} & (set(rows["clip-fp32"]) | set(rows["clip-int8"]))
    assert timed == ["fp32", "int8"]
