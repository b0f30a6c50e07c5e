"""timm's networks with weights of a local file, of an installed package, or of timm itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights import packages, styles
from hgnetv2_pipeline.weights.load import as_float32, file_sha256, read_file
from hgnetv2_pipeline.weights.source_names import TimmName, check_timm, parse_timm, timm_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputSize:
    """Pixels a side that a network was made for, and whether it takes no others."""

    side: int
    fixed: bool


def input_of(name: str) -> InputSize:
    """What timm's network ``name`` looks at."""
    import timm

    published = timm.models.get_pretrained_cfg(name)
    if not published or not published.input_size:
        return InputSize(224, fixed=False)
    return InputSize(int(published.input_size[-1]), fixed=bool(published.fixed_input_size))


def feature_count(model: nn.Module) -> int:
    """Columns of what a network of timm's without classifier gives; some have a layer before it."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def load_timm(
    text: str, root: Path, *, num_classes: int | None, strict: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and ``sha256``, ``preprocess`` and ``loaded`` (whether its head is theirs).

    ``num_classes`` None: as published, 1000 without weights; 0: no classifier, features come out.
    ``strict``: the published head must fit ``num_classes``; else it starts afresh. Of timm's own
    names ``:pretrained`` takes weights from timm's cache or downloads them: to write it is to ask.
    """
    found = parse_timm(text)
    check_timm(text, root)
    path = timm_file(text, root)
    try:
        if path is None:
            model = _from_timm(found, num_classes, strict=strict)
        else:
            model = _from_file(found.name, path, known=found.source == "packaged")
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"timm cannot give weights of {found.name}: {reason}") from error
    wanted = model.num_classes if num_classes is None else num_classes
    if found.source and strict and wanted not in (0, model.num_classes):
        raise WeightsError(
            f"{path} has {model.num_classes} classes, not {wanted}; say head: reinit"
        )
    loaded = bool(found.source) and strict and wanted == model.num_classes
    if wanted != model.num_classes or (found.source and not loaded):
        model.reset_classifier(wanted)
    digest = None if path is None else file_sha256(path)
    return model, {"sha256": digest, "preprocess": _preprocess(model), "loaded": loaded}


def _from_timm(found: TimmName, num_classes: int | None, *, strict: bool) -> nn.Module:
    """The network with timm's own weights, or without any; refused before a needless download."""
    import timm

    if found.source != "pretrained":
        fresh: nn.Module = timm.create_model(found.name, num_classes=num_classes or 1000)
        return fresh
    published = timm.models.get_pretrained_cfg(found.name)
    theirs = published.num_classes if published else 1000
    if strict and num_classes not in (None, 0, theirs):
        raise WeightsError(
            f"timm's {found.name} has {theirs} classes, not {num_classes}; say head: reinit"
        )
    head = {} if strict or num_classes is None else {"num_classes": num_classes}
    model: nn.Module = timm.create_model(found.name, pretrained=True, **head)
    return model


def _preprocess(model: nn.Module) -> dict[str, Any]:
    import timm

    data = timm.data.resolve_data_config({}, model=model)
    height, width = data["input_size"][1:]
    return {
        "resize_short": int(min(height, width) / data["crop_pct"]),
        "crop": width if height == width else [height, width],
        "mean": list(data["mean"]),
        "std": list(data["std"]),
        "interpolation": data["interpolation"],
    }


def _from_file(name: str, path: Path, *, known: bool) -> nn.Module:
    """timm's network ``name`` with the tensors of ``path``, under timm's names or in its order.

    ``known``: it is a published file of that very network, so that the order needs no warning.
    """
    import timm

    if known and file_sha256(path) != packages.PACKAGES[name].sha256:
        raise WeightsError(f"{path} is not the file that was published (another SHA-256)")
    theirs = {
        key.removeprefix("module."): value
        for key, value in styles.drop_counters(read_file(path).tensors).items()
    }
    published = timm.models.get_pretrained_cfg(name)
    model = timm.create_model(name, num_classes=0)
    if theirs.keys() == styles.drop_counters(model.state_dict()).keys():  # features alone
        return _filled(model, theirs, name, path)
    head = theirs.get(f"{published.classifier if published else 'fc'}.bias")
    if head is None:  # other names: in timm's order the classifier is last
        head = next((value for value in reversed(theirs.values()) if value.ndim == 1), None)
    classes = 0 if head is None else len(head)
    model = timm.create_model(name, num_classes=classes or 1000)
    ours = styles.drop_counters(model.state_dict())
    if theirs.keys() != ours.keys():
        theirs = _in_order(theirs, ours, name, path, known=known)
    return _filled(model, theirs, name, path)


def _in_order(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], name: str, path: Path, *, known: bool
) -> dict[str, Tensor]:
    """``theirs`` under the names of ``ours``, one by one.

    Shapes alone would not do: in alphabetical order, as safetensors has it, weight and bias of a
    batch norm change places. So what comes last in each name has to agree too.
    """
    kinds = [
        [(key.rpartition(".")[2], value.shape) for key, value in state.items()]
        for state in (theirs, ours)
    ]
    if kinds[0] != kinds[1]:
        raise WeightsError(f"{path} is no {name}: {_first_difference(theirs, ours)}")
    _log.log(
        logging.DEBUG if known else logging.WARNING,
        "%s: %d tensors taken in their order for %s, whose names differ (%s for %s)",
        path.name, len(ours), name, next(iter(theirs)), next(iter(ours)),
    )  # fmt: skip
    return dict(zip(ours, theirs.values(), strict=True))


def _filled(model: nn.Module, theirs: Mapping[str, Tensor], name: str, path: Path) -> nn.Module:
    state = {key: as_float32(key, value, path) for key, value in theirs.items()}
    for key, value in styles.drop_counters(model.state_dict()).items():
        if state[key].shape != value.shape:
            raise WeightsError(
                f"{path}: {key} is {list(state[key].shape)}, {name} needs {list(value.shape)}"
            )
    model.load_state_dict(state, strict=False)
    return model


def _first_difference(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    missing = [key for key in ours if key not in theirs]
    more = [key for key in theirs if key not in ours]
    return (
        f"{len(theirs)} tensors where it has {len(ours)}"
        f"{f'; without {missing[0]}' if missing else ''}{f'; with {more[0]}' if more else ''}"
    )
