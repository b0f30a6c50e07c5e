"""From framework names (``conv2d_12.w_0``) to structured ones (``stem.stem1.conv.weight``).

The counters in framework names depend on what was built before in the same process, so they say
nothing. What is reliable is the way of the data: in all our networks every operation that has
parameters needs the result of the one before, from the first convolution to the classifier, so
their order is one and the same whoever wrote the program down. That order, with the role and the
shape of every parameter, is compared with each network that is known; a program in which two such
operations do not depend on one another is refused as ambiguous.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from hgnetv2_pipeline.weights.paddle.program import Op, Program, Value, brief_name

Shape = tuple[int, ...]  # -1 stands for any size
Layouts = Mapping[str, Mapping[str, Shape]]  # network -> structured name -> shape, in order

_BASE = "base_model."  # PaddleClas's export wraps the network in a layer of that name
_ROLES = {
    "conv": ("weight of a convolution",),
    "linear": ("weight of a linear layer",),
    "batch_norm": ("BN weight", "BN bias", "BN mean", "BN variance"),
    "add": ("bias",),
    "multiply": ("scale",),
}


def names_from_info(info: Any, program: Program) -> dict[str, str]:
    """Framework -> structured name of every parameter, as ``inference.pdiparams.info`` has it.

    PaddleClas's ``base_model.`` in front is taken off; ``Student.`` and ``Teacher.`` stay. What
    the program does not have (the teacher, as a rule) does not count. Raises ``ValueError``.
    """
    if not isinstance(info, dict):
        raise ValueError(f"it holds a {type(info).__name__}, not a table of variables")
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for variable in program.parameters:
        entry = info.get(variable)
        name = entry.get("structured_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError(f"it has no structured name for {brief_name(variable)}")
        name = name.removeprefix(_BASE)
        if name in taken:
            raise ValueError(
                f"{brief_name(taken[name])} and {brief_name(variable)} are both {brief_name(name)}"
            )
        taken[name] = variable
        names[variable] = name
    return names


def names_from_program(program: Program, layouts: Layouts | None = None) -> dict[str, str]:
    """Framework -> structured name, by the order in which the program uses its parameters.

    ``layouts`` are the networks it may be; None for the ten of this package. Raises ``ValueError``.
    """
    used = _in_order_of_use(program)
    best, agreed = "", -1
    for network, layout in (_own_layouts() if layouts is None else layouts).items():
        expected = _expected(layout)
        same = 0
        for (role, variable), (wanted_role, _, shape) in zip(used, expected, strict=False):
            if role != wanted_role or not _fits(program.parameters[variable].shape, shape):
                break
            same += 1
        if same == len(used) == len(expected):
            return {
                variable: name for (_, variable), (_, name, _) in zip(used, expected, strict=True)
            }
        if same > agreed:
            best, agreed = network, same
            here = _says(program, used[same] if same < len(used) else None)
            there = "nothing more"
            if same < len(expected):
                role, name, shape = expected[same]
                there = f"{name} ({role}, {list(shape)})"
    raise ValueError(
        f"its program fits no known network and there is no inference.pdiparams.info; nearest is "
        f"{best}: after {agreed} of {len(used)} parameters the program has {here}, {best} {there}"
    )


def _says(program: Program, use: tuple[str, str] | None) -> str:
    if use is None:
        return "nothing more"
    role, variable = use
    return f"{brief_name(variable)} ({role}, {list(program.parameters[variable].shape)})"


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        n in (size, -1) for size, n in zip(shape, wanted, strict=True)
    )


def _in_order_of_use(program: Program) -> list[tuple[str, str]]:
    """(role, framework name) of every parameter, in the one order that the data allow."""
    used: list[tuple[str, str]] = []
    seen: set[str] = set()
    steps = 0  # operations with parameters so far
    needs: dict[Value, int] = {}  # how many of them a value has behind it, one after another
    parameter: dict[Value, str] = {name: name for name in program.parameters}
    for op in program.ops:
        given = [parameter[value] for value in op.inputs if value in parameter]
        behind = max((needs.get(v, 0) for v in op.inputs if v not in parameter), default=0)
        if given and op.kind == "view" and op.inputs[0] in parameter:
            for output in op.outputs:
                parameter.setdefault(output, given[0])
            continue
        if given:
            uses = _uses(op, parameter)
            if behind != steps:
                raise ValueError(
                    f"it is ambiguous which comes first, {brief_name(used[-1][1])} or "
                    f"{brief_name(given[0])}: neither needs the other"
                )
            for _, name in uses:
                if name in seen:
                    raise ValueError(f"the parameter {brief_name(name)} is used twice")
                seen.add(name)
            used += uses
            steps += 1
            behind = steps
        for output in op.outputs:
            if output not in parameter:  # BN writes its statistics back to themselves
                needs[output] = behind
    unused = sorted(program.parameters.keys() - seen)
    if unused:
        raise ValueError(f"the program never uses its parameter {brief_name(unused[0])}")
    return used


def _uses(op: Op, parameter: Mapping[Value, str]) -> list[tuple[str, str]]:
    roles = _ROLES.get(op.kind, ())
    values = [value for value in op.inputs if value in parameter]
    # The data come first and the parameters after; sum and product may have them either way.
    in_place = op.kind in ("add", "multiply") or values == list(op.inputs[1 : 1 + len(roles)])
    if len(values) != len(roles) or not in_place:
        name = brief_name(parameter[values[0]])
        raise ValueError(f"an operation {brief_name(op.kind)} uses {name} in an unknown way")
    return [(role, parameter[value]) for role, value in zip(roles, values, strict=True)]


def _expected(layout: Mapping[str, Shape]) -> list[tuple[str, str, Shape]]:
    """(role, name, shape) of a network's tensors, which come in the order they are used."""
    found = []
    for name, shape in layout.items():
        layer, _, last = name.rpartition(".")
        if f"{layer}._mean" in layout:
            role = f"BN {last.removeprefix('_')}"
        elif last == "weight":
            role = _ROLES["conv" if len(shape) == 4 else "linear"][0]
        else:
            role = last
        found.append((role, name, shape))
    return found


@functools.cache
def _own_layouts() -> dict[str, dict[str, Shape]]:
    """The ten networks; any number of classes."""
    import torch

    from hgnetv2_pipeline.models.create import create_model
    from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS
    from hgnetv2_pipeline.weights.writing import paddle_shapes

    layouts = {}
    for variant in [*VARIANTS, *HGNET_SIZES]:
        with torch.device("meta"):
            shapes = paddle_shapes(create_model(variant, 1))
        layouts[variant] = shapes | {"fc.weight": (shapes["fc.weight"][0], -1), "fc.bias": (-1,)}
    return layouts
