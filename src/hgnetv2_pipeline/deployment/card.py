"""What a model file says about itself: preprocessing, class names, variant, hashes, parity.

The same card travels in the ``metadata_props`` of ``model.onnx`` and, for formats that have no
room for text, in ``preprocess.json``, ``labels.txt`` and ``manifest.json`` beside the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.choices import PRECISIONS
from hgnetv2_pipeline.deployment.preprocess_file import told_values
from hgnetv2_pipeline.deployment.self_test import ALLOWED, SelfTest, self_test_images
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file, parse_json
from hgnetv2_pipeline.weights.metadata import (
    as_preprocess,
    classes_of,
    entry,
    preprocess_of,
    thresholds_of,
)
from hgnetv2_pipeline.weights.pickle_machine import brief_value

if TYPE_CHECKING:
    import numpy as np

FORMAT = "hgnetv2_pipeline.onnx/1"
TASK = ("task", "thresholds")
"""Entries of a model of several labels per image."""
LABELS, PREPROCESS, MANIFEST = "labels.txt", "preprocess.json", "manifest.json"
SCRIPT = "predict.py"


def precision_file(precision: str, ending: str = ".onnx") -> str:
    """Name of the file of one precision in an export folder.

    >>> precision_file("fp32"), precision_file("int8"), precision_file("int8", ".pte")
    ('model.onnx', 'model.int8.onnx', 'model.int8.pte')
    """
    return f"model{ending}" if precision == "fp32" else f"model.{precision}{ending}"


@dataclass(frozen=True)
class ModelCard:
    """The facts an engine needs beside the graph itself.

    ``macs`` counts the multiply-accumulates of convolutions and matrix products for one image,
    ``activations`` the values these read and write besides the ``params`` of the network;
    ``parity_error`` is the largest logit error against float64 PyTorch over the logits' standard
    deviation; ``self_test`` has the answers that an engine must give when it is loaded (None: the
    file carries none); ``more`` holds any further text entries (stage, git revision, ...).
    """

    preprocess: Preprocess
    classes: tuple[str, ...]
    variant: str = ""
    precision: str = "fp32"
    source_sha256: str = ""
    macs: int | None = None
    params: int | None = None
    activations: int | None = None
    parity_error: float | None = None
    self_test: SelfTest | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels: the entry ``task`` says ``multi_label``."""
        return self.more.get("task") == "multi_label"

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Probability from which on each of several labels is reported, by val; None: not said.

        Raises WeightsError for an entry ``thresholds`` that is no number from 0 to 1 a class.
        """
        return thresholds_of(self.more, "the model's card", len(self.classes))

    def wrong_answers(
        self, logits: Callable[[np.ndarray], np.ndarray], precision: str | None = None
    ) -> str | None:
        """What is wrong with an engine's ``logits`` by the self-test; None: nothing, or no test."""
        test = self.self_test
        if test is None:
            return None
        pixels = self_test_images(len(test.logits), self.preprocess.crop)
        off = test.distance(logits(self.preprocess.normalize(pixels)))
        allowed = max(test.allowed, ALLOWED[precision or self.precision])
        if off <= allowed:  # not so for NaN
            return None
        return (
            f"logits of the {len(pixels)} images that the file has answers for are off by "
            f"{off:.2g} of their standard deviation (allowed {allowed:.2g})"
        )

    def to_props(self) -> dict[str, str]:
        """As text entries for ``metadata_props``; ``from_props`` reads them back."""
        props = {
            **self.more,
            "format": FORMAT,
            "preprocess": json.dumps(self.preprocess.to_dict(), sort_keys=True),
            "classes": json.dumps(list(self.classes), ensure_ascii=False),
            "variant": self.variant,
            "precision": self.precision,
            "source_sha256": self.source_sha256,
        }
        for name in _COUNTS:
            count = getattr(self, name)
            if count is not None:
                props[name] = str(count)
        if self.parity_error is not None:
            props["parity_error"] = f"{self.parity_error:.2g}"
        if self.self_test is not None:
            props[_SELF_TEST] = self.self_test.to_text()
        return props

    @classmethod
    def from_props(cls, props: Mapping[str, str], where: Path) -> ModelCard:
        """Read the card of ``where`` from its text entries; WeightsError when they are not ours."""
        if props.get("format") != FORMAT:
            raise WeightsError(
                f"{where} carries no card of format {FORMAT} (found "
                f"{brief_value(props.get('format'))}): preprocessing and class names are "
                "unknown; export it with export_onnx, or give preprocess= and classes= to "
                "load_engine"
            )
        preprocess, classes = preprocess_of(props, where), classes_of(props, where)
        if preprocess is None or classes is None:
            missing = "preprocess" if preprocess is None else "classes"
            raise WeightsError(f"{where} has a damaged card: the entry {missing!r} is missing")
        numbers = {name: entry(props, name, where) for name in (*_COUNTS, _PARITY) if name in props}
        return cls(
            preprocess=preprocess,
            classes=tuple(classes),
            more={key: text for key, text in props.items() if key not in _OWN_KEYS},
            **_checked({**props, **numbers}, where, len(classes)),
        )

    @classmethod
    def from_folder(cls, folder: Path, note: str = MANIFEST) -> ModelCard:
        """Read the card from the text files of an export folder (``write_bundle`` makes them).

        ``note``: the file that says what a manifest says, of one model file alone.
        """
        missing = [name for name in (LABELS, PREPROCESS) if not (folder / name).is_file()]
        if missing:
            raise WeightsError(
                f"{folder} has no {' and no '.join(missing)}; export with write_bundle"
            )
        with foreign_file(folder, WeightsError, "has a damaged card"):
            said = parse_json((folder / PREPROCESS).read_text(encoding="utf-8"))
            labels = (folder / LABELS).read_text(encoding="utf-8").splitlines()
            manifest = {}
            if (folder / note).is_file():
                manifest = parse_json((folder / note).read_text(encoding="utf-8"))
            if isinstance(said, dict):
                said = told_values(said)
            if not isinstance(manifest, dict):
                raise ValueError(f"{note} is no object")
        return cls(
            preprocess=as_preprocess(said, folder),
            classes=tuple(labels),
            more={name: str(manifest[name]) for name in TASK if name in manifest},
            **_checked(manifest, folder, len(labels)),
        )


_COUNTS, _PARITY, _SELF_TEST = ("macs", "params", "activations"), "parity_error", "probes"
_OWN_KEYS = frozenset(
    ("format", "preprocess", "classes", "variant", "precision", "source_sha256")
    + (*_COUNTS, _PARITY, _SELF_TEST)
)


def precision_of(said: Mapping[str, Any], where: object) -> str:
    """The precision that a card's entries name, fp32 where they name none; WeightsError else."""
    precision = said.get("precision", "fp32")
    if precision not in PRECISIONS:
        raise WeightsError(
            f"{where} has a damaged card: precision {brief_value(precision)}; known are "
            f"{', '.join(PRECISIONS)}"
        )
    return str(precision)


def _checked(said: Mapping[str, Any], where: object, classes: int) -> dict[str, Any]:
    """Variant, precision, hash, numbers, self-test of a card, each in its range or WeightsError."""
    with foreign_file(where, WeightsError, "has a damaged card"):
        found: dict[str, Any] = {"precision": precision_of(said, where)}
        for name in ("variant", "source_sha256"):
            found[name] = said.get(name, "")
            if not isinstance(found[name], str):
                raise ValueError(f"{name} is no text")
        for name in _COUNTS:
            found[name] = count = said.get(name)
            if count is not None and not (type(count) is int and 0 <= count < 1 << 63):
                raise ValueError(f"{name} is no count")
        found[_PARITY] = error = said.get(_PARITY)
        if error is not None and not (type(error) in (int, float) and 0 <= error < math.inf):
            raise ValueError(f"{_PARITY} is no number from 0 on")
        if _SELF_TEST in said:
            found["self_test"] = test = SelfTest.from_text(said[_SELF_TEST])
            if len(test.logits[0]) != classes:
                raise ValueError(
                    f"{_SELF_TEST} has {len(test.logits[0])} logits per image for {classes} classes"
                )
        return found


def task_entries(info: Mapping[str, Any]) -> dict[str, str]:
    """The card's entries ``task`` and ``thresholds`` from what ``models.build_from`` knows."""
    if info.get("task") != "multi_label":
        return {}
    found = {"task": "multi_label"}
    if info.get("thresholds"):
        found["thresholds"] = json.dumps(info["thresholds"])
    return found
