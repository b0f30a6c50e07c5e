"""The import rules of the house: rooms know what their row says, and none knows Kedro."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "hgnetv2_pipeline"
GROUND = {
    "cpus",
    "durable",
    "errors",
    "exits",
    "foreign",
    "ownership",
    "printable",
    "processor",
    "progress",
    "stopping",
    "tar_members",
}
ROOMS: dict[str, set[str]] = {
    "data": set(),
    "models": {"data"},  # the weights' metadata names a Preprocess; build.py alone
    "launch": set(),
    "mining": {"data", "models", "launch"},
    "training": {"data", "models", "evaluation", "launch"},
    "evaluation": {"data", "launch"},
    "deployment": {"data", "models", "evaluation"},
    "reporting": {"models"},
}
FORBIDDEN = {"kedro", "kedro_datasets", "kedro_viz", "mlflow", "dvc"}


def files(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "hgnetv2_pipeline":
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_row_says(room: str) -> None:
    found = files(room)
    assert found
    for path in found:
        for name in imports(path):
            top, _, rest = name.partition(".")
            assert top not in FORBIDDEN, f"{path} imports {name}"
            if top == "hgnetv2_pipeline" and rest:
                target = rest.split(".")[0]
                allowed = {room} | ROOMS[room] | GROUND
                assert target in allowed, f"{path} imports {name}; allowed: {sorted(allowed)}"


def test_the_ground_floor_imports_no_room() -> None:
    for name in GROUND:
        for imported in imports(PACKAGE / f"{name}.py"):
            if imported.startswith("hgnetv2_pipeline."):
                assert imported.split(".")[1] in GROUND


def test_reporting_uses_of_models_only_the_published_table() -> None:
    for path in files("reporting"):
        for name in imports(path):
            if name.startswith("hgnetv2_pipeline.models"):
                assert name.startswith("hgnetv2_pipeline.models.zoo"), f"{path} imports {name}"


def test_no_module_is_a_drawer_for_everything() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "misc"}
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in banned, path


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_no_submodule_bears_the_name_of_an_exported_function(room: str) -> None:
    code = (
        f"import hgnetv2_pipeline.{room} as r, types, json\n"
        "print(json.dumps([n for n in dir(r) if not n.startswith('_')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exported = set(__import__("json").loads(done.stdout))
    submodules = {path.stem for path in (PACKAGE / room).glob("*.py")}
    # Modules that are exported as modules are no clash: data.loader, training.losses.
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    functions = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != f"hgnetv2_pipeline.{room}"
        for alias in node.names
    }
    assert not exported & submodules & functions


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("hgnetv2_pipeline.pipeline_registry", {"torch", "mlflow", "timm", "onnxruntime"}),
        ("hgnetv2_pipeline.settings", {"torch", "mlflow", "timm", "onnxruntime"}),
        ("hgnetv2_pipeline.cli", {"torch", "mlflow", "timm", "pandas"}),
        ("hgnetv2_pipeline.commands", {"torch", "mlflow", "timm", "pandas", "kedro"}),
        ("hgnetv2_pipeline.deployment.predict", {"torch", "kedro", "mlflow", "pandas"}),
        ("hgnetv2_pipeline.training.config", {"torch", "pandas"}),
        ("hgnetv2_pipeline.models.zoo", {"torch", "numpy"}),
    ],
)
def test_heavy_libraries_load_only_where_they_are_used(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*(m for m in {sorted(heavy)!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], f"{module} loads {done.stdout}"
