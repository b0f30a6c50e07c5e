"""``--params`` as values: what is text stays the text that was typed.

Kedro reads every value as YAML, to which ``007`` is 7, ``1e5`` a float and ``off`` false. Which
parameter is text, ``RunParams`` knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.variants import variant_name

_OUTER_COMMA = re.compile(r",(?![^\[\]]*\])")
"""A comma that is not between the brackets of a list."""
_NULL = {"", "~", "null", "Null", "NULL"}


def read_params(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """``a=1,b.c=x`` as ``{"a": 1, "b": {"c": "x"}}``; a mapping (``--config``) as it is.

    A ``variant`` in timm's or PaddleClas's words becomes ours here, before it names any path.
    Raises ``ParameterError`` for an item without ``=`` or key, or whose value is no YAML.
    """
    if isinstance(given, Mapping):
        return with_our_variant(given)
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values = OmegaConf.create({})
    for item in filter(None, map(str.strip, _OUTER_COMMA.split(given))):
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ParameterError(f"--params {item}: write KEY=VALUE, and + between parts of a list")
        try:
            if takes_text(key.split("."), of_list=not text.startswith("[")):
                OmegaConf.update(values, key, None if text in _NULL else text)
            else:
                values.merge_with_dotlist([f"{key}={text}"])
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            said = " ".join(str(error).split())
            raise ParameterError(f"--params {key}={text}: no value of YAML ({said})") from error
    found = OmegaConf.to_container(values)
    assert isinstance(found, dict)
    return with_our_variant({str(key): value for key, value in found.items()})


def with_our_variant(params: Mapping[str, Any]) -> dict[str, Any]:
    """Runtime parameters, their ``variant`` by our name."""
    variant = params.get("variant")
    ours = {"variant": variant_name(variant)} if isinstance(variant, str) else {}
    return {**params, **ours}


def takes_text(path: list[str], *, of_list: bool = True) -> bool:
    """Whether the parameter at ``path`` is text, or (with ``of_list``) a list of texts."""
    from hgnetv2_pipeline.project.params import RunParams

    model: Any = RunParams
    for part in path[:-1]:
        field = model.model_fields.get(part)
        found = [c for c in (_kinds(field.annotation) if field else []) if _is_model(c)]
        if not found:
            return False
        model = found[0]
    field = model.model_fields.get(path[-1])
    return field is not None and _is_text(field.annotation, of_list=of_list)


def _kinds(annotation: Any) -> list[Any]:
    """The kinds of a union, or the one kind; without what Annotated adds."""
    origin = get_origin(annotation)
    if origin is None or origin is Literal or isinstance(origin, type) and origin in (list, dict):
        return [annotation]
    if hasattr(annotation, "__metadata__"):
        return _kinds(get_args(annotation)[0])
    return [kind for part in get_args(annotation) for kind in _kinds(part)]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_text(annotation: Any, *, of_list: bool) -> bool:
    kinds = [kind for kind in _kinds(annotation) if kind is not NoneType]
    for kind in kinds:
        if get_origin(kind) is Literal:
            if not all(isinstance(value, str) for value in get_args(kind)):
                return False
        elif get_origin(kind) is list and of_list:
            if not _is_text(get_args(kind)[0], of_list=False):
                return False
        elif kind is not str:
            return False
    return bool(kinds)
