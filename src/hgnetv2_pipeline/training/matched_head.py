"""The rows of a classifier whose classes are still there, under whatever number, kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.models.hgnetv2 import Backbone
from hgnetv2_pipeline.weights.build import build_from

_SHOWN = 5


@dataclass(frozen=True)
class MatchedHead:
    """Names of the classes whose rows were kept, that start afresh, and whose rows were dropped."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def summary(self) -> dict[str, list[str]]:
        """As result.json has it."""
        return {name: list(names) for name, names in vars(self).items()}

    def __str__(self) -> str:
        return (
            f"head: match keeps the rows of {_counted(self.kept)}, starts {_counted(self.new)} "
            f"afresh and drops {_counted(self.dropped)}"
        )


def build_matched(
    spec: str, *, classes: Sequence[str], root: Path
) -> tuple[Backbone, dict[str, Any], MatchedHead]:
    """The network of ``spec``, one of ours, for ``classes``, and what ``build_from`` knows of it.

    ``fc`` has the file's row for every class whose name the file knows, and fresh ones for others.

    Raises:
        WeightsError: the weights do not say of which classes they are, or of none of these.
    """
    model, info = build_from(spec, num_classes=None, root=root)
    names = info["classes"]
    if names is None or not isinstance(model, Backbone):
        raise WeightsError(
            f"{spec} does not say which classes its rows are of, so head: match has nothing to "
            "match by; say head: reinit"
        )
    place = {name: row for row, name in enumerate(names)}
    kept = tuple(name for name in classes if name in place)
    if not kept:
        raise WeightsError(
            f"{spec} knows {_counted(names)}, none of them among {_counted(classes)}: head: match "
            "would keep nothing; say head: reinit"
        )
    learnt = model.fc
    model.fc, model.num_classes = nn.Linear(learnt.in_features, len(classes)), len(classes)
    model.reset_head()
    rows = [row for row, name in enumerate(classes) if name in place]
    with torch.no_grad():
        model.fc.weight[rows] = learnt.weight[[place[name] for name in kept]]
        model.fc.bias[rows] = learnt.bias[[place[name] for name in kept]]
    there = set(classes)
    match = MatchedHead(
        kept=kept,
        new=tuple(name for name in classes if name not in place),
        dropped=tuple(name for name in names if name not in there),
    )
    return model, info | {"num_classes": len(classes), "classes": list(classes)}, match


def _counted(names: Sequence[str]) -> str:
    if not names:
        return "no class"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({shown})"
