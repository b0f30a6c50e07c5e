"""Every parameter with its kind, limits and meaning, read from the models that check them."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from hgnetv2_pipeline.project.params import RECIPES, RunParams

Json = Mapping[str, Any]
_KINDS = {
    "boolean": "true or false",
    "string": "text",
    "object": "settings by name",
    "null": "null",
}
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Parameter:
    """A parameter as it is typed: its dotted name, what it may be, and what it means."""

    name: str
    kind: str
    meaning: str


def list_parameters() -> list[Parameter]:
    """All parameters in the order of the models.

    A recipe has those of ``training``, which are listed once, there.
    """
    schema = RunParams.model_json_schema()
    return [
        found
        for name in schema["properties"]
        if name not in RECIPES
        for found in _leaves(name, schema["properties"][name], RunParams, schema["$defs"])
    ]


def value_of(values: Any, name: str) -> Any:
    """The value of the dotted ``name`` in nested ``values``; None within a block that is null."""
    for part in name.split("."):
        if values is None:
            return None
        values = values[part]
    return values


def recipe_names(name: str) -> list[str]:
    """What ``name``, one of ``training``, is called in each recipe; none of any other parameter."""
    block, _, leaf = name.partition(".")
    return [f"{recipe}.{leaf}" for recipe in RECIPES] if block == "training" and leaf else []


def own_recipe_values(values: Any, name: str) -> dict[str, Any]:
    """The values that recipes have in place of that of ``name``, one of ``training``."""
    common = value_of(values, name)
    own = {each: value_of(values, each) for each in recipe_names(name)}
    return {each: value for each, value in own.items() if value != common}


def _leaves(name: str, node: Json, owner: type[BaseModel], defs: Json) -> Iterator[Parameter]:
    """The parameter ``name``, a field of ``owner``, or those of the block that it is."""
    inner = _block(node, defs)
    if inner is None or node.get("anyOf"):
        meaning = node.get("description") or _attribute_docstrings(owner).get(
            name.rpartition(".")[2], ""
        )
        kind = _kind(node, defs)
        yield Parameter(name, kind, " ".join(meaning.split()))
    if inner is None:
        return
    model = _model(inner)
    for key, below in defs[inner]["properties"].items():
        if f"{name}.{key}" not in RECIPES:
            yield from _leaves(f"{name}.{key}", below, model, defs)


def _block(node: Json, defs: Json) -> str | None:
    """The name of the block of parameters that a node refers to, if it does."""
    for place in (node, *node.get("anyOf", ())):
        title = str(place.get("$ref", "")).rpartition("/")[2]
        if title and "properties" in defs[title]:
            return title
    return None


def _kind(node: Json, defs: Json) -> str:
    """What a value may be, in words: ``whole number > 0, or null``."""
    if "anyOf" in node:
        return ", or ".join(dict.fromkeys(_kind(part, defs) for part in node["anyOf"]))
    if "$ref" in node:
        title = node["$ref"].rpartition("/")[2]
        return "a block" if "properties" in defs[title] else _kind(defs[title], defs)
    if "enum" in node or "const" in node:
        return ", ".join(map(str, node.get("enum", [node.get("const")])))
    kind = node.get("type")
    if kind in ("integer", "number"):
        limits = " and ".join(
            f"{sign} {node[limit]:,}" for limit, sign in _LIMITS.items() if limit in node
        )
        return f"{'whole number' if kind == 'integer' else 'number'} {limits}".rstrip()
    if kind == "array":
        if "prefixItems" in node:
            return f"[{', '.join(_kind(part, defs) for part in node['prefixItems'])}]"
        return f"list of: {_kind(node.get('items', {}), defs)}"
    if kind == "string" and "pattern" in node:
        return f"text like {node['pattern']}"
    if kind == "object" and isinstance(node.get("additionalProperties"), Mapping):
        return f"name: {_kind(node['additionalProperties'], defs)}"
    return _KINDS.get(str(kind), "as described")


@cache
def _models() -> dict[str, type[BaseModel]]:
    """The blocks of parameters by the names of their classes."""
    found: dict[str, type[BaseModel]] = {}
    waiting: list[Any] = [RunParams]
    while waiting:
        each = waiting.pop()
        if isinstance(each, type) and issubclass(each, BaseModel):
            found[each.__name__] = each
            waiting += [field.annotation for field in each.model_fields.values()]
        else:
            waiting += getattr(each, "__args__", ())
    return found


def _model(title: str) -> type[BaseModel]:
    return _models()[title]


@cache
def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The strings below the fields of a class; pydantic would read them at every import."""
    source = textwrap.dedent(inspect.getsource(sys.modules[model.__module__]))
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == model.__name__
    )
    return {
        field.target.id: below.value.value
        for field, below in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
