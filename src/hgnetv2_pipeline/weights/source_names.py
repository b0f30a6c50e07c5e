"""What names of weights mean, and whether what they name is there, without reading weights.

Free of torch and of timm where it can be, so that a run which trains nothing starts quickly.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.errors import ParameterError, WeightsError, similar, unknown_name
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS, meant_variant, variant_name
from hgnetv2_pipeline.weights import packages
from hgnetv2_pipeline.weights.paddle.inference import is_archive
from hgnetv2_pipeline.weights.places import split_spec
from hgnetv2_pipeline.weights.tensor_file import SUFFIXES
from hgnetv2_pipeline.weights.zoo import ZOO

PREFIX = "probe:"
"""Of the variant in a probe's file, before the name of its trunk."""
SIMPLE = "simple"
"""The trunk without weights, ``models.simple_features``."""


def check_name(spec: str, root: Path) -> None:
    """Refuse a ``spec`` under which ``build_from`` would find nothing, without reading weights.

    Whether published weights are here or can be fetched is not asked. Raises ``ParameterError`` or
    ``WeightsError``, with the nearest name.
    """
    kind, _, name = spec.partition(":")
    if kind == "scratch":
        known = variant_name(name) in (*VARIANTS, *HGNET_SIZES)
        if not known and not name.startswith(PREFIX):
            raise unknown_name(
                "variant", name, [*VARIANTS, *HGNET_SIZES], "scratch:VARIANT",
                meant=meant_variant(name),
            )  # fmt: skip
    elif kind == "timm":
        check_timm(name, root)
    elif spec not in ZOO:
        weights_at(split_spec(spec)[0], root)


def weights_at(spec: str, root: Path) -> Path:
    """The file or inference folder that ``spec``, a path relative to ``root``, names."""
    path = Path(root) / spec
    if path.is_dir() and not is_archive(path):
        path = path / "student.safetensors"
        if not path.is_file():
            raise WeightsError(f"{path.parent} is no finished run: it has no student.safetensors")
    if not path.exists():
        if "/" in spec or path.suffix in SUFFIXES:
            raise WeightsError(f"there is no weight file or run at {path}")
        known = [f"scratch:{variant}" for variant in VARIANTS]
        known += [name for name in ZOO if not name.endswith("_inference")][::-1]
        near = similar(spec, known, most=3)
        words = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise ParameterError(
            f"unknown model {spec!r}{words}; a model is a file, a run's folder, an exported "
            "folder, a published name (hgnetv2 models lists them), timm:NAME or scratch:VARIANT"
        )
    return path


@dataclass(frozen=True)
class TimmName:
    """``NAME``, ``NAME:pretrained``, ``NAME:packaged`` or ``NAME@FILE``, taken apart."""

    name: str
    source: str
    """'', 'pretrained', 'packaged' or 'file'."""
    file: str = ""


def parse_timm(text: str) -> TimmName:
    """What follows ``timm:``; ``ParameterError`` for another ending."""
    name, at, file = text.partition("@")
    if at:
        if not file:
            raise ParameterError(f"timm:{text}: a weight file is needed behind the @")
        return TimmName(name, "file", file)
    name, _, ending = text.partition(":")
    if ending not in ("", "pretrained", "packaged"):
        raise ParameterError(
            f"timm:{text}: the endings are ':pretrained' (timm's cache or download), ':packaged' "
            "(an installed package) and '@FILE' (a weight file)"
        )
    return TimmName(name, ending)


def check_timm(text: str, root: Path) -> None:
    """Refuse a name of timm's that cannot be built, without reading weights."""
    found = parse_timm(text)
    architecture, _, tag = found.name.partition(".")
    if tag or not _defined_by_timm(architecture):
        import timm

        if not timm.is_model(architecture):
            raise unknown_name(
                "timm model", found.name, timm.list_models(),
                "timm:NAME; timm.list_models() lists them",
            )  # fmt: skip
        known = timm.models.get_arch_pretrained_cfgs(architecture) if tag else {}
        if tag and found.name not in known:
            raise unknown_name("timm weights", found.name, known, "timm:NAME")
    path = timm_file(text, root)
    if path is not None and not path.is_file():
        raise WeightsError(f"timm:{text}: there is no weight file at {path}")


def _defined_by_timm(architecture: str) -> bool:
    """Whether timm's files define a model of this name: importing timm takes two seconds.

    False where they do not show it, and timm is to be asked.
    """
    package = importlib.util.find_spec("timm")
    if package is None or package.origin is None or not architecture.isidentifier():
        return False
    definition = re.compile(rf"@register_model\s+def {architecture}\(")
    files = (Path(package.origin).parent / "models").glob("*.py")
    return any(definition.search(file.read_text(encoding="utf-8")) for file in files)


def timm_file(text: str, root: Path) -> Path | None:
    """The weight file of a name of timm's; None where timm itself keeps it, or there is none."""
    found = parse_timm(text)
    if found.source == "packaged":
        return packages.packaged_file(found.name)
    return root / Path(found.file).expanduser() if found.source == "file" else None


def check_trunk(spec: str, root: Path) -> None:
    """Refuse what ``build_trunk`` would refuse, as far as that shows without reading weights."""
    if spec == SIMPLE:
        return
    kind, _, name = spec.partition(":")
    if kind != "timm":
        raise unknown_name(
            "network to probe", spec,
            [SIMPLE, "timm:NAME@FILE", "timm:NAME:packaged", "timm:NAME:pretrained"],
            "train_teacher.probes",
        )  # fmt: skip
    if not parse_timm(name).source:
        raise ParameterError(
            f"train_teacher.probes: {spec} has no weights, and features of random weights teach "
            f"nothing; write {spec}@FILE, {spec}:packaged or {spec}:pretrained"
        )
    check_timm(name, root)


def trunk_name(spec: str) -> str:
    """The trunk of a spec without where its weights came from: ``simple`` or ``timm:NAME``."""
    return spec if spec == SIMPLE else f"timm:{parse_timm(spec.partition(':')[2]).name}"
