"""Probes as weight files: trunk and classifier together, so that nothing else is needed later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models.probe import Probe
from hgnetv2_pipeline.models.simple_features import SIDE, SimpleFeatures
from hgnetv2_pipeline.weights import metadata, styles
from hgnetv2_pipeline.weights.foreign_network import feature_count, input_of, load_timm
from hgnetv2_pipeline.weights.load import as_float32, read_file, read_metadata
from hgnetv2_pipeline.weights.source_names import PREFIX, SIMPLE, check_trunk, parse_timm
from hgnetv2_pipeline.weights.tensor_file import kind_of
from hgnetv2_pipeline.weights.writing import save_weights

FORMAT = "hgnetv2_pipeline/probe/1"
MOST_PIXELS = 4096


def build_trunk(spec: str, root: Path) -> tuple[nn.Module, int, dict[str, Any]]:
    """The network whose features are probed, their number, and ``preprocess`` and ``sha256``.

    ``spec`` is ``simple`` or ``timm:NAME`` with one of the endings that bring weights. Raises
    ``ParameterError``, also for a network without weights: its features would be noise.
    """
    if spec == SIMPLE:
        plain = Preprocess(
            resize_short=SIDE, crop=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
            interpolation="bilinear",
        )  # fmt: skip
        trunk: nn.Module = SimpleFeatures()
        known = {"preprocess": plain.to_dict(), "sha256": None, "fixed": True}
        return trunk, SimpleFeatures.num_features, known
    check_trunk(spec, root)
    name = spec.partition(":")[2]
    model, known = load_timm(name, root, num_classes=0, strict=False)
    return model, feature_count(model), known | {"fixed": input_of(parse_timm(name).name).fixed}


def save_probe(
    path: Path, probe: Probe, *, trunk: str, preprocess: Preprocess, classes: Sequence[str]
) -> None:
    """Write trunk and classifier; ``trunk`` as ``trunk_name`` gives it."""
    save_weights(
        path,
        probe,
        {
            "format": FORMAT,
            "variant": PREFIX + trunk,
            "stage": "probe",
            "size": json.dumps(probe.size),
            "classes": json.dumps(list(classes)),
            "preprocess": json.dumps(preprocess.to_dict()),
            "task": "single_label",
        },
    )


def fresh_probe(name: str, num_classes: int) -> tuple[Probe, Preprocess]:
    """A probe without weights, as fast as the one it represents: ``timm:NAME:128`` or ``simple``.

    Raises ``ParameterError``.
    """
    trunk, _, side = name.rpartition(":") if name != SIMPLE else (SIMPLE, "", str(SIDE))
    if not side.isdecimal() or not 1 <= int(side) <= MOST_PIXELS:
        raise ParameterError(f"scratch:{PREFIX}{name}: a size in pixels is needed at the end")
    size = int(side)
    if trunk == SIMPLE:
        network: nn.Module = SimpleFeatures()
        number = SimpleFeatures.num_features
    else:
        network, _ = load_timm(trunk.removeprefix("timm:"), Path(), num_classes=0, strict=False)
        number = feature_count(network)
    return Probe(network, number, num_classes, size=size), Preprocess(resize_short=size, crop=size)


def is_probe(path: Path) -> bool:
    """Whether a file says that it is a probe's; reads its header alone."""
    if not path.is_file() or kind_of(path) != "safetensors":
        return False
    return read_metadata(path).get("variant", "").startswith(PREFIX)


def load_probe(path: Path) -> Probe:
    """The probe of a file that ``save_probe`` wrote; ``WeightsError`` for any other."""
    file = read_file(path)
    name = file.metadata.get("variant", "")
    size = metadata.entry(file.metadata, "size", path)
    if not name.startswith(PREFIX) or type(size) is not int or not 1 <= size <= MOST_PIXELS:
        raise WeightsError(f"{path} is no probe: variant {name[:60]!r}, size {size!r:.20}")
    trunk = _empty_trunk(name.removeprefix(PREFIX), path)
    weight = file.tensors.get("fc.weight")
    if weight is None or weight.ndim != 2:
        raise WeightsError(f"{path} has no classifier (fc.weight)")
    probe = Probe(trunk, int(weight.shape[1]), int(weight.shape[0]), size=size)
    ours = styles.drop_counters(probe.state_dict())
    shapes = {key: tuple(value.shape) for key, value in file.tensors.items()}
    if shapes != {key: tuple(value.shape) for key, value in ours.items()}:
        raise WeightsError(f"{path}: its tensors are not those of {name}")
    state = {key: as_float32(key, value, path) for key, value in file.tensors.items()}
    probe.load_state_dict(state, strict=False)
    return probe


def _empty_trunk(name: str, path: Path) -> nn.Module:
    if name == SIMPLE:
        return SimpleFeatures()
    import timm

    kind, _, network = name.partition(":")
    if kind != "timm" or not timm.is_model(network.partition(".")[0]):
        raise WeightsError(f"{path}: this version of timm has no {name[:60]!r}")
    trunk: nn.Module = timm.create_model(network, num_classes=0)
    return trunk
