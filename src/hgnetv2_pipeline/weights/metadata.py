"""What a weight file or an exported model says of itself in text entries, each value checked.

The entries are JSON that came with a file, so they are read within limits and compared with what
they may be: a value that is not plainly in its range is a ``WeightsError`` that names the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.foreign import foreign_file, parse_json
from hgnetv2_pipeline.variants import PoolPadding

if TYPE_CHECKING:
    from torch import nn

PREPROCESS, CLASSES, THRESHOLDS = "preprocess", "classes", "thresholds"
POOL_PADDING = "pool_padding"  # a word, not JSON; where it is absent the border is left out


def entry(metadata: Mapping[str, str], key: str, where: object) -> Any:
    """The JSON value of one entry; None where it is not there."""
    if key not in metadata:
        return None
    with foreign_file(where, WeightsError, f"has a damaged entry {key!r}"):
        return parse_json(metadata[key])


def preprocess_of(metadata: Mapping[str, str], where: object) -> Preprocess | None:
    """The entry ``preprocess``, if there is one."""
    said = entry(metadata, PREPROCESS, where)
    return None if said is None else as_preprocess(said, where)


def said_preprocess(metadata: Mapping[str, str], where: object) -> dict[str, Any] | None:
    """The names and values of the entry ``preprocess``, checked; what it leaves out stays out."""
    said = entry(metadata, PREPROCESS, where)
    if said is None:
        return None
    whole = as_preprocess(said, where).to_dict()
    return {name: whole[name] for name in said if name in whole}


def as_preprocess(values: Any, where: object) -> Preprocess:
    """A JSON value as preprocessing. A file may lower the cap on pixels, and never raises it."""
    with foreign_file(where, WeightsError, "has damaged preprocessing"):
        try:
            return Preprocess.from_dict(values).capped()
        except ParameterError as error:  # not the caller's parameter: the file's
            raise ValueError(str(error)) from error


def classes_of(metadata: Mapping[str, str], where: object) -> list[str] | None:
    """The entry ``classes``, names in the order of the logits, if there is one."""
    said = entry(metadata, CLASSES, where)
    if said is None:
        return None
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise WeightsError(f"{where} has a damaged entry 'classes': a list of names is needed")
    return said


def thresholds_of(
    metadata: Mapping[str, str], where: object, classes: int
) -> tuple[float, ...] | None:
    """The entry ``thresholds``, a probability for each of ``classes``, if there is one."""
    said = entry(metadata, THRESHOLDS, where)
    if said is None:
        return None
    if not isinstance(said, list) or not all(
        type(value) in (int, float) and 0 <= value <= 1 for value in said
    ):
        raise WeightsError(f"{where} has a damaged entry 'thresholds': numbers from 0 to 1 needed")
    if len(said) != classes:
        raise WeightsError(
            f"{where} has a damaged entry 'thresholds': {len(said)} for {classes} classes"
        )
    return tuple(map(float, said))


def padding_said(metadata: Mapping[str, str], where: object) -> PoolPadding | None:
    """The entry ``pool_padding``, if there is one; a file of ours without it means 'exclude'."""
    said = metadata.get(POOL_PADDING, "exclude" if "format" in metadata else None)
    if said not in (None, *get_args(PoolPadding)):
        raise WeightsError(
            f"{where} has a damaged entry 'pool_padding': {' or '.join(get_args(PoolPadding))}"
        )
    return said  # type: ignore[return-value]


def padding_of(model: nn.Module) -> PoolPadding:
    """How the stem of a network pads its max-pool; 'exclude' where it has none to pad."""
    pool = getattr(getattr(model, "stem", None), "pool", None)
    return "zero" if getattr(pool, "pad_value", None) == 0 else "exclude"


def padding_entry(model: nn.Module) -> dict[str, str]:
    """The entry ``pool_padding`` for the weights of ``model``: nothing where it is as published."""
    return {} if padding_of(model) == "exclude" else {POOL_PADDING: "zero"}
