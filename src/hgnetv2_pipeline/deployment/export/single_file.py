"""One Python file from parts of this package, for machines that have nothing of ours.

The module of a script is followed through its imports. Every function, class and constant of this
package that it uses comes along as it is written, nothing else does, so that there is one
preprocessing and not a copy that drifts.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

PACKAGE = "hgnetv2_pipeline"


@dataclass
class _Module:
    """A module's statements as text, by place; what each defines and uses; where names are from."""

    name: str
    docstring: str
    texts: dict[int, str] = field(default_factory=dict)
    uses: dict[int, set[str]] = field(default_factory=dict)
    defined: dict[str, int] = field(default_factory=dict)
    always: list[int] = field(default_factory=list)  # calls, such as a filter of warnings
    ours: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)

    def note_import(self, node: ast.Import | ast.ImportFrom, *, inside: bool) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            suffix = f" as {alias.asname}" if alias.asname else ""
            if isinstance(node, ast.Import):
                line = f"import {alias.name}{suffix}"
            else:
                line = f"from {node.module} import {alias.name}{suffix}"
            if _is_ours(node):
                assert not suffix, f"{self.name}: {line}"
                assert isinstance(node, ast.ImportFrom)
                self.ours[bound] = str(node.module)
            elif not inside:
                self.others[bound] = line


def _is_ours(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE)


def _read(name: str) -> _Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    source = Path(spec.origin).read_text(encoding="utf-8")
    lines, tree = source.splitlines(), ast.parse(source)
    module = _Module(name, ast.get_docstring(tree, clean=False) or "")
    end = 0
    for place, node in enumerate(tree.body):
        first, end = end, node.end_lineno or 0
        if isinstance(node, ast.Import | ast.ImportFrom):
            if node.module != "__future__" if isinstance(node, ast.ImportFrom) else True:
                module.note_import(node, inside=False)
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if place - 1 in module.texts:  # what a constant means, below it
                module.texts[place - 1] += "\n" + "\n".join(lines[first:end])
            continue
        dropped = set[int]()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                module.note_import(inner, inside=True)
                if _is_ours(inner):
                    dropped |= {*range(inner.lineno, (inner.end_lineno or 0) + 1)}
        kept = (lines[at] for at in range(first, end) if at + 1 not in dropped)
        module.texts[place] = "\n".join(kept).strip("\n")
        module.uses[place] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        names = _defined_by(node)
        module.defined |= dict.fromkeys(names, place)
        if not names:
            module.always.append(place)
    return module


def _defined_by(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {
        n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)
    }


@lru_cache
def single_file(script: str) -> str:
    """The text of one file that is the module ``script`` with all that it uses of this package.

    A name that several of the modules define gets the name of its module as an ending.
    """
    modules: dict[str, _Module] = {}
    order: list[_Module] = []

    def module_of(name: str) -> _Module:
        if name not in modules:
            modules[name] = found = _read(name)
            for needed in dict.fromkeys(found.ours.values()):
                module_of(needed)
            order.append(found)  # after what it imports
        return modules[name]

    root = module_of(script)
    todo = [(root, place) for place in root.texts]
    while todo:
        module, place = todo.pop()
        if place in module.wanted:
            continue
        module.wanted.add(place)
        todo += [(module, each) for each in module.always]
        for name in module.uses[place]:
            if name in module.defined:
                todo.append((module, module.defined[name]))
            elif name in module.ours:
                home = modules[module.ours[name]]
                todo.append((home, home.defined[name]))
    return _written(root, [module for module in order if module.wanted])


def _written(root: _Module, order: list[_Module]) -> str:
    names = {
        module.name: {name for name, place in module.defined.items() if place in module.wanted}
        for module in order
    }
    several = {
        name for name, n in Counter(name for own in names.values() for name in own).items() if n > 1
    }
    imports, parts = dict[str, str](), list[str]()
    for module in order:
        text = "\n\n\n".join(module.texts[place] for place in sorted(module.wanted))
        for name in several & (names[module.name] | module.ours.keys()):
            home = module.ours.get(name, module.name).rpartition(".")[2]
            text = re.sub(rf"\b{name}\b", f"{name}_of_{home}", text)
        used = {name for place in module.wanted for name in module.uses[place]}
        for name in used & module.others.keys():
            line = imports.setdefault(name, module.others[name])
            assert line == module.others[name], f"{name} is two things: {line}, in {module.name}"
        where = module.name.removeprefix(f"{PACKAGE}.").replace(".", "/")
        parts.append(f"# --- {where}.py\n\n{text}")
    both = imports.keys() & set[str]().union(*names.values())
    assert not both, f"{both} are imported by one module and defined in another"
    head = f'"""{root.docstring}"""\n\nfrom __future__ import annotations\n\n'
    # As ruff sorts them: import before from.
    listed = sorted(imports.values(), key=lambda line: (line.startswith("from"), line))
    return "\n\n".join([head + "\n".join(listed), *parts]) + "\n"
