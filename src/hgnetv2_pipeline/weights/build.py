"""A network with the weights that a name, a file, a run or timm gives."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.hgnetv2 import Backbone
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS, PoolPadding
from hgnetv2_pipeline.weights import imagenet
from hgnetv2_pipeline.weights.foreign_network import load_timm
from hgnetv2_pipeline.weights.load import (
    ReadState,
    file_sha256,
    load_read,
    read_metadata,
    read_state,
)
from hgnetv2_pipeline.weights.metadata import (
    classes_of,
    said_preprocess,
    thresholds_of,
)
from hgnetv2_pipeline.weights.pickle_machine import brief_value
from hgnetv2_pipeline.weights.places import Wanted, split_spec
from hgnetv2_pipeline.weights.probes import fresh_probe, is_probe, load_probe
from hgnetv2_pipeline.weights.source_names import PREFIX, check_name, parse_timm, weights_at
from hgnetv2_pipeline.weights.styles import CLASSIFIER, Head
from hgnetv2_pipeline.weights.zoo import ZOO, provide


@functools.cache
def _shapes(variant: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = create_model(variant, 1).state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.startswith("fc.")}


def identify(state: Mapping[str, torch.Tensor]) -> str | None:
    """The variant whose tensors have our names and shapes as in ``state``.

    ``fc`` does not count, nor does the whole classifier where ``state`` is a backbone alone.
    """
    given = {k: tuple(v.shape) for k, v in state.items() if not k.startswith("fc.")}
    whole = any(key.partition(".")[0] in CLASSIFIER for key in state)
    for variant in [*VARIANTS, *HGNET_SIZES]:
        known = {
            k: v
            for k, v in _shapes(variant).items()
            if "num_batches" not in k and (whole or k.partition(".")[0] not in CLASSIFIER)
        }
        if known == given:
            return variant
    return None


def build_from(
    spec: str,
    *,
    num_classes: int | None,
    root: Path,
    head: Head = "strict",
    download: bool = False,
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A network with weights, and what is known of them.

    ``spec`` is one of
    - a zoo name, ``b4.ssld_stage1``: the file is looked for in ``root/weights`` and fetched only
      with ``download=True``;
    - a weight file, an inference model of Paddle's (a .tar, or a folder with its files), or a
      run's folder that holds ``student.safetensors``, relative to ``root``; behind it may be said
      which network of it is wanted, ``best.ckpt@key=ema@prefix=model.@part=teacher``, and how its
      stem pads, ``@pool_padding=zero`` (``places.Wanted``);
    - ``timm:NAME``: any model of timm, random weights; ``timm:NAME@FILE`` with those of a file
      below ``root``, ``timm:NAME:packaged`` with those of an installed package
      (``foreign_network.PACKAGES``), ``timm:NAME:pretrained`` with timm's published ones, from its
      cache or downloaded: writing it is the request to do so;
    - a probe's folder or file: a frozen network with the classifier that was fitted on its
      features;
    - ``scratch:VARIANT`` ours with fresh weights; ``scratch:probe:timm:NAME:128`` a probe of 128
      pixels with fresh ones, to see how fast it is.

    ``num_classes`` None takes the file's own count (1000 for timm and scratch). ``head='reinit'``
    starts ``fc`` afresh, and of a file that is a backbone alone the whole classifier. The
    information: ``variant``, ``stage``, ``classes`` (names or None), ``num_classes``,
    ``preprocess`` (fields of ``data.Preprocess`` or None), ``source``, ``sha256`` (None without a
    file), ``head`` ('loaded' or 'reinitialised'), ``task`` (of a head trained here: 'single_label'
    or 'multi_label') and the ``thresholds`` of several labels. Raises ``ParameterError`` or
    ``WeightsError``.
    """
    check_name(spec, root)
    kind, _, name = spec.partition(":")
    if name.startswith(PREFIX) and kind == "scratch":
        probe, how = fresh_probe(name.removeprefix(PREFIX), num_classes or 1000)
        return probe, _info(
            spec, variant=name, num_classes=probe.num_classes, preprocess=how.to_dict()
        )
    if kind == "scratch":
        model = create_model(name, num_classes or 1000)
        return model, _info(spec, variant=model.variant, num_classes=model.num_classes)
    if kind == "timm":
        return _from_timm(name, root, num_classes=num_classes, head=head)
    if spec in ZOO:
        entry = ZOO[spec]
        path = provide(entry, root, download=download)
        known = {
            "variant": entry.variant,
            "stage": entry.stage,
            "preprocess": entry.preprocess,
            "published": True,
        }
        return _from_file(path, spec, known, Wanted(), num_classes=num_classes, head=head)
    spec, wanted = split_spec(spec)
    path = weights_at(spec, root)
    if is_probe(path):
        return _from_probe(path, spec, num_classes=num_classes, head=head)
    return _from_file(path, spec, {}, wanted, num_classes=num_classes, head=head)


def _info(source: str, **known: Any) -> dict[str, Any]:
    keys = ("variant", "stage", "classes", "num_classes", "preprocess", "sha256", "task",
            "thresholds")  # fmt: skip
    return dict.fromkeys(keys) | {"source": source, "head": "reinitialised"} | known


def chosen_padding(read: ReadState, wanted: Wanted, path: Path) -> PoolPadding:
    """How the stem of a file's network is to pad; WeightsError where neither file nor user say."""
    found = read.pool_padding
    said = wanted.pool_padding or found
    if said is None:
        raise WeightsError(
            f"{path} has {read.style}'s names, and a learnable affine before a max-pool whose "
            "border is zero there and left out by Paddle: say @pool_padding=zero behind the file's "
            "name for weights trained there, @pool_padding=exclude for PaddleClas's in other names "
            "(import_weights.pool_padding; docs/weights.md)"
        )
    if found is not None and said != found and read.metadata:
        raise WeightsError(
            f"{path} was trained with pool_padding={found}, as its metadata say, not {said}"
        )
    return said


def _variant_of(read: ReadState, path: Path, known: str | None = None) -> str:
    """The variant of a file's network: ``known``, what its metadata say, or by its tensors."""
    variant = known or read.metadata.get("variant") or identify(read.tensors)
    if variant is None or variant not in (*VARIANTS, *HGNET_SIZES):
        named = "" if variant is None else f" (its metadata say variant {brief_value(variant)})"
        raise WeightsError(f"{path} fits none of {', '.join([*VARIANTS, *HGNET_SIZES])}{named}")
    return variant


def _from_file(
    path: Path,
    source: str,
    known: dict[str, Any],
    wanted: Wanted,
    *,
    num_classes: int | None,
    head: Head,
) -> tuple[Backbone, dict[str, Any]]:
    read = read_state(path, wanted)
    meta = read.metadata
    variant = _variant_of(read, path, known.get("variant"))
    if num_classes is None:
        if "fc.bias" not in read.tensors:
            raise ParameterError(f"{path} has no fc; say how many classes it is for")
        num_classes = read.head_classes(path)
    model = create_model(variant, num_classes, pool_padding=chosen_padding(read, wanted, path))
    report = load_read(model, read, path, head)
    info = _info(
        source,
        variant=variant,
        stage=known.get("stage") or meta.get("stage"),
        num_classes=num_classes,
        preprocess=said_preprocess(meta, path) or known.get("preprocess"),
        sha256=read.sha256,
        head=report.head,
    )
    if head == "strict":  # names of classes belong to the head that was loaded
        info["classes"] = classes_of(meta, path)
        info["task"] = meta.get("task", "single_label" if "format" in meta else None)
        thresholds = thresholds_of(meta, path, num_classes)
        info["thresholds"] = None if thresholds is None else list(thresholds)
        if known.get("published") and num_classes == imagenet.COUNT:
            info["classes"] = imagenet.imagenet_classes()
    return model, info


def _from_timm(
    text: str, root: Path, *, num_classes: int | None, head: Head
) -> tuple[torch.nn.Module, dict[str, Any]]:
    model, known = load_timm(text, root, num_classes=num_classes, strict=head == "strict")
    return model, _info(
        f"timm:{text}",
        variant=f"timm:{parse_timm(text).name}",
        num_classes=model.num_classes,
        preprocess=known["preprocess"],
        sha256=known["sha256"],
        head="loaded" if known["loaded"] else "reinitialised",
    )


def _from_probe(
    path: Path, source: str, *, num_classes: int | None, head: Head
) -> tuple[torch.nn.Module, dict[str, Any]]:
    model, meta = load_probe(path), read_metadata(path)
    if head == "reinit" or num_classes not in (None, model.num_classes):
        raise WeightsError(
            f"{path} is a probe for {model.num_classes} classes: it teaches those it was fitted on"
        )
    return model, _info(
        source,
        variant=meta["variant"],
        stage=meta.get("stage"),
        num_classes=model.num_classes,
        preprocess=said_preprocess(meta, path),
        sha256=file_sha256(path),
        head="loaded",
        classes=classes_of(meta, path),
        task=meta.get("task"),
    )


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of a model's tensors by name, for networks that do not come from a file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
