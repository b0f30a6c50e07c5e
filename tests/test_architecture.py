"""The import rules of the house: rooms know what their row says, and none knows Kedro."""

from __future__ import annotations

import ast
import inspect
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import file_map

PACKAGE = Path(__file__).parents[1] / "src" / "hgnetv2_pipeline"
GROUND = {
    "devices",
    "differences",
    "durable",
    "errors",
    "exits",
    "foreign",
    "intervals",
    "ownership",
    "printable",
    "processor",
    "progress",
    "shards",
    "stopping",
    "tar_members",
    "variants",
}
# From the lowest floor to the highest: a room imports only rooms of its row, all of them below.
ROOMS: dict[str, set[str]] = {
    "processes": set(),
    "data": set(),
    "input": {"data"},
    "models": set(),
    "weights": {"data", "models"},
    "evaluation": {"data", "input"},
    "teacher": {"data", "input", "models", "weights"},
    "training": {"data", "input", "models", "weights", "evaluation", "teacher", "processes"},
    "mining": {"data", "input", "teacher", "processes"},
    "deployment": {"data", "models", "weights", "evaluation"},
    "serving": {"data", "deployment"},
    "reporting": {"weights"},
}
# These know Kedro, and every room.
PROJECT = ("project", "pipelines", "datasets", "commands")
MOST_FILES = 20
MOST_NODE_LINES, MEDIAN_NODE_LINES = 25, 20
MOST_PARAMETERS = 8
# Doors: functions that are called from outside with whatever a user may wish, by name. Click's
# commands are doors too.
DOORS = {
    "scan_list": "every way to read a list of images",
    "scan_imagenet": "the same of ImageNet's own layout",
    "read_list": "every way to read a list without opening its images",
    "split_samples": "every rule by which samples are split",
    "train_batches": "the loader of a training, for users of the input room",
    "evaluate_samples": "any model on any samples",
    "load_engine": "any model on any engine",
    "export_onnx": "the export of a network alone",
    "write_bundle": "the export with all that belongs to it",
    "write_kit": "the export for a machine without PyTorch",
    "run_benchmark": "hgnetv2 benchmark from Python",
    "iter_predictions": "answers one by one",
    "predict_paths": "answers in a table",
    "train_arms": "a node: every recipe of the chain and what was made by it",
    "Step.__init__": "all that a step is made of, put together by make_step",
}
# Public names that several files may define, with the one meaning that they all have. A node is the
# work of a room as a result, and a command is that work as a word of the shell.
SHARED_NAMES = {
    "main": "the entry of a command or of a process",
    "create_pipeline": "Kedro's name for what a pipeline is made by",
    "open_engine": "what the ladder asks of the module of every engine",
    "find_engine": "what the list of engines asks of the module of each",
    "audit": "a node and its work",
    "deduplicate": "a node and its work",
    "evaluate": "a node and its work",
    "score_pool": "a node and its work",
    "select": "a node and its work",
    "store_teacher_logits": "a node and its work",
    "self_train": "the work, and the same with its result kept",
    "predict": "a command and a node",
    "export_weights": "a command and its work",
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


def test_every_room_is_below_those_that_import_it() -> None:
    floors = list(ROOMS)
    for room, allowed in ROOMS.items():
        assert all(floors.index(other) < floors.index(room) for other in allowed), room


def test_contributing_shows_every_room_with_what_it_may_import() -> None:
    page = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(?:src/hgnetv2_pipeline|\.\.\.)/(\w+)` \|.*\| (.+) \|$", page, re.M)
    floors = list(ROOMS)
    for number, (room, may) in enumerate(rows[: len(floors)]):
        assert room == floors[number]
        shown = {"-": set(), "all above": {*floors[:number]}, "weights.zoo": {"weights"}}.get(
            may, {*may.split(", ")}
        )
        assert ROOMS[room] <= shown if may == "all above" else ROOMS[room] == shown, room
    assert len(rows) > len(floors)


def test_every_permission_is_used() -> None:
    for room, allowed in ROOMS.items():
        used = {
            name.split(".")[1]
            for path in files(room)
            for name in imports(path)
            if name.startswith("hgnetv2_pipeline.")
        }
        assert allowed <= used, f"{room} may import {allowed - used} and does not"


def test_nothing_that_a_pipeline_is_made_of_knows_a_pipeline() -> None:
    for room in ("project", "datasets"):
        for path in files(room):
            for name in imports(path):
                assert not name.startswith("hgnetv2_pipeline.pipelines"), f"{path} imports {name}"
                assert not name.startswith("hgnetv2_pipeline.commands"), f"{path} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in PACKAGE.rglob("*.py")
    }
    known: dict[str, set[str]] = {}
    for module, path in modules.items():
        known[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    known[module].add(name if name in modules else str(node.module))
        known[module] &= modules.keys() - {module}
    while leaves := {module for module, needs in known.items() if not needs & known.keys()}:
        for module in leaves:
            del known[module]
    assert not known, f"in a circle, or above one: {sorted(known)}"


def test_no_room_is_a_flat_hall() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_FILES, f"{folder.name} has {len(modules)} files"


def node_functions() -> dict[str, int]:
    """The functions of all nodes by where they are defined, with their lines."""
    from hgnetv2_pipeline.pipeline_registry import register_pipelines

    functions = {node.func for node in register_pipelines()["__default__"].nodes}
    for name in ("finetune", "label_errors", "label_next", "sweep"):
        functions |= {node.func for node in register_pipelines()[name].nodes}
    return {
        f"{function.__module__}.{function.__qualname__}": len(inspect.getsourcelines(function)[0])
        for function in functions
    }


def test_a_node_is_a_few_lines() -> None:
    lines = node_functions()
    assert len(lines) > 20
    assert {name: n for name, n in lines.items() if n > MOST_NODE_LINES} == {}
    assert statistics.median(lines.values()) <= MEDIAN_NODE_LINES


def test_pipelines_hold_nodes_and_nothing_else() -> None:
    nodes = {name.split(".<locals>")[0] for name in node_functions()}
    for path in files("pipelines"):
        assert path.name in ("__init__.py", "nodes.py", "pipeline.py"), path
        if path.name == "nodes.py":
            for part in ast.parse(path.read_text(encoding="utf-8")).body:
                assert not isinstance(part, ast.ClassDef), f"{path}: {part.name}"
                if isinstance(part, ast.FunctionDef):
                    where = f"hgnetv2_pipeline.pipelines.{path.parent.name}.nodes"
                    assert f"{where}.{part.name}" in nodes, f"{path}: {part.name} is no node"


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions of a file by name; ``Class.method`` are those of classes."""
    for place in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        before = f"{place.name}." if isinstance(place, ast.ClassDef) else ""
        for node in ast.iter_child_nodes(place):
            if isinstance(node, ast.FunctionDef):
                yield before + node.name, node


def test_no_function_but_a_door_takes_many_parameters() -> None:
    doors = set()
    for path in PACKAGE.rglob("*.py"):
        for name, node in functions(path):
            given = node.args
            names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            count = len(set(names) - {"self", "cls"})
            if count <= MOST_PARAMETERS or _is_command(node):
                continue
            assert name in DOORS, f"{path}: {name} takes {count} parameters"
            doors.add(name)
    assert doors == DOORS.keys(), "the others need not be named"


def public_names(path: Path) -> set[str]:
    """The classes and functions of a file that others may use."""
    parts = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {part.name for part in parts if isinstance(part, kinds) and part.name[0] != "_"}


def test_no_public_name_has_two_meanings() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in public_names(path):
            places.setdefault(name, []).append(path.relative_to(PACKAGE).as_posix())
    several = {name: where for name, where in places.items() if len(where) > 1}
    unknown = {name: where for name, where in several.items() if name not in SHARED_NAMES}
    assert not unknown, f"rename the lesser one: {unknown}"
    assert several.keys() == SHARED_NAMES.keys(), "the others need not be named"


def _is_command(function: ast.FunctionDef) -> bool:
    return any("command(" in ast.unparse(each) for each in function.decorator_list)


def test_reporting_uses_of_weights_only_the_published_table() -> None:
    for path in files("reporting"):
        for name in imports(path):
            if name.startswith("hgnetv2_pipeline.weights"):
                assert name.startswith("hgnetv2_pipeline.weights.zoo"), f"{path} imports {name}"


def test_the_file_map_is_that_of_the_files() -> None:
    assert file_map.page() == file_map.PAGE.read_text(encoding="utf-8"), "tests/file_map.py"


def test_every_module_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name == "__init__.py" and path.parent.parent.name == "pipelines":
            continue
        words = file_map.first_words(path)
        assert len(words) > 20, f"{path}: {words!r}"


def test_no_module_is_a_drawer_for_everything() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "misc"}
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in banned, path


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("hgnetv2_pipeline.pipeline_registry", {"torch", "mlflow", "timm", "onnxruntime"}),
        ("hgnetv2_pipeline.settings", {"torch", "mlflow", "timm", "onnxruntime"}),
        ("hgnetv2_pipeline.cli", {"torch", "mlflow", "timm", "pandas"}),
        ("hgnetv2_pipeline.commands.main", {"torch", "mlflow", "timm", "pandas", "kedro"}),
        ("hgnetv2_pipeline.deployment.predict", {"torch", "kedro", "mlflow", "pandas"}),
        ("hgnetv2_pipeline.training.config", {"torch", "pandas"}),
        ("hgnetv2_pipeline.weights.zoo", {"torch", "numpy"}),
    ],
)
def test_heavy_libraries_load_only_where_they_are_used(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*(m for m in {sorted(heavy)!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], f"{module} loads {done.stdout}"
