"""docs/parameters.md, from the models of the parameters and the values in conf/.

python tests/parameter_page.py      write it again
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hgnetv2_pipeline.commands.recipe import flow
from hgnetv2_pipeline.project.parameter_reference import Parameter, list_parameters, value_of
from hgnetv2_pipeline.project.params import RECIPES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parameters.md"
ENVIRONMENTS = ("imagenet", "sample", "own")
CHOSEN_BY_INIT = "chosen by init"

HEAD = """# Parameters

All parameters, as the option `--params` takes them and the files in `conf/` set them
([how they are laid over one another](../conf/README.md)): {count} of them. `hgnetv2 parameters TEXT
--env NAME` prints those with TEXT in their names with the values that a run would have.

*Value* is that of `conf/base`. Below it is what `conf/imagenet`, `conf/sample` and `conf/own` (your
own images; *init*: `hgnetv2 init` chooses it) set instead. In a list on the command line, `+`
joins: `redo=mining+ssld_stage1`.

This page is made from the models that check the parameters: `python tests/parameter_page.py`.
"""
RECIPES_HEAD = """## The recipes

Each training has all parameters of `training`, by its own name: `ssld_stage1.lr=0.1`. What
`conf/base` sets otherwise than `training` is this; `hgnetv2 recipe NAME --env NAME` prints all.

| parameter | training | {names} |
|---|---|{rules}|
"""


def _read(*folders: str) -> dict[str, Any]:
    """The values of environments, later ones over earlier, as they are written."""
    merged: dict[str, Any] = {}
    for folder in folders:
        # The names of a run are in globals.yml, and parameters refer to them.
        for pattern in ("parameters*.yml", "globals.yml"):
            for file in sorted((ROOT / "conf" / folder).glob(pattern)):
                text = re.sub("__[A-Z_]+__", CHOSEN_BY_INIT, file.read_text(encoding="utf-8"))
                _lay_over(merged, yaml.safe_load(text) or {})
    return merged


def _lay_over(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _lay_over(values[key], value)
        else:
            values[key] = value


_ABSENT = object()


def _value(values: Any, name: str) -> Any:
    try:
        return value_of(values, name)
    except (KeyError, TypeError):
        return _ABSENT


def _shown(value: Any) -> str:
    text = "-" if value is _ABSENT else re.sub(r"\$\{identity:(\w+)\}", r"<\1>", flow(value))
    if CHOSEN_BY_INIT in text:
        return "*init*"
    return "`" + text.replace("|", "\\|") + "`"


def _row(parameter: Parameter, base: Any, others: Mapping[str, Any]) -> str:
    name = parameter.name
    published = _value(base, name)
    values = [_shown(published)]
    for environment, each in others.items():
        # In the files of an environment, what holds for all trainings is said of each.
        value = _value(each, name)
        if value is not _ABSENT and value != published:
            values.append(f"{environment}: {_shown(value)}")
    cells = (f"`{name}`", "<br>".join(values), parameter.kind, parameter.meaning)
    return "| " + " | ".join([*cells[:2], *(_plain(cell) for cell in cells[2:])]) + " |"


def _plain(text: str) -> str:
    text = text.replace("<", "&lt;").replace(">", "&gt;").replace("``", "`")
    return re.sub(r"([|*_])", r"\\\1", text)


def _recipes(base: Any) -> str:
    names = [each.name for each in list_parameters() if each.name.startswith("training.")]
    rows = []
    for name in names:
        key = name.removeprefix("training.")
        own = [_value(base, f"{recipe}.{key}") for recipe in RECIPES]
        if any(value not in (_ABSENT, _value(base, name)) for value in own):
            cells = ["" if value is _ABSENT else _shown(value) for value in own]
            rows.append(f"| `{key}` | {_shown(_value(base, name))} | {' | '.join(cells)} |")
    head = RECIPES_HEAD.format(
        names=" | ".join(f"`{name}`" for name in RECIPES), rules="---|" * (len(RECIPES) - 1) + "---"
    )
    return head + "\n".join(rows) + "\n"


def page() -> str:
    """The page as it is now."""
    found = list_parameters()
    base = _read("base")
    others = {name: _read(name) for name in ENVIRONMENTS}
    parts = [HEAD.format(count=len(found))]
    block = None
    for each in sorted(found, key=lambda each: "." in each.name):
        first, _, rest = each.name.partition(".")
        title = f"`{first}`" if rest else "The run"
        if title != block:
            block = title
            parts.append(
                f"\n## {title}\n\n| name | value | may be | meaning |\n|---|---|---|---|\n"
            )
        parts.append(_row(each, base, others) + "\n")
    return "".join(parts) + "\n" + _recipes(base)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
