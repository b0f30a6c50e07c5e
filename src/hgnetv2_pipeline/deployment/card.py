"""What a model file says about itself: preprocessing, class names, variant, hashes, parity.

The same card travels in the ``metadata_props`` of ``model.onnx`` and, for formats that have no
room for text, in ``preprocess.json``, ``labels.txt`` and ``manifest.json`` beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.data import Preprocess
from hgnetv2_pipeline.deployment.probes import Probes
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import WeightsError

FORMAT = "hgnetv2_pipeline.onnx/1"
TASK = ("task", "thresholds")
"""Entries of a model of several labels an image."""
LABELS, PREPROCESS, MANIFEST = "labels.txt", "preprocess.json", "manifest.json"


def precision_file(precision: str) -> str:
    """Name of the file of one precision in an export folder.

    >>> precision_file("fp32"), precision_file("int8")
    ('model.onnx', 'model.int8.onnx')
    """
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


@dataclass(frozen=True)
class ModelCard:
    """The facts an engine needs beside the graph itself.

    ``macs`` counts the multiply-accumulates of convolutions and matrix products for one image,
    ``activations`` the values these read and write besides the ``params`` of the network;
    ``parity_error`` is the largest logit error against float64 PyTorch over the logits' standard
    deviation; ``probes`` are answers that an engine must give when it is loaded (None: the file
    carries none); ``more`` holds any further text entries (stage, git revision, ...).
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
    probes: Probes | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels: the entry ``task`` says ``multi_label``."""
        return self.more.get("task") == "multi_label"

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Probability from which on each of several labels is told, chosen on val; None: not said.

        Raises WeightsError for an entry ``thresholds`` that is no number from 0 to 1 a class.
        """
        if "thresholds" not in self.more:
            return None
        try:
            found = tuple(float(value) for value in json.loads(self.more["thresholds"]))
        except (TypeError, ValueError) as error:
            raise WeightsError(f"a damaged card: thresholds are no numbers ({error})") from error
        if len(found) != len(self.classes) or not all(0 <= value <= 1 for value in found):
            raise WeightsError(
                f"a damaged card: {len(found)} thresholds for {len(self.classes)} classes; one "
                "from 0 to 1 for each is needed"
            )
        return found

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
        if self.probes is not None:
            props["probes"] = self.probes.to_text()
        return props

    @classmethod
    def from_props(cls, props: Mapping[str, str], where: Path) -> ModelCard:
        """Read the card of ``where`` from its text entries; WeightsError when they are not ours."""
        if props.get("format") != FORMAT:
            raise WeightsError(
                f"{where} carries no card of format {FORMAT} (found {props.get('format')!r}): "
                "preprocessing and class names are unknown; export it with export_onnx, or give "
                "preprocess= and classes= to load_engine"
            )
        try:
            return cls(
                preprocess=Preprocess.from_dict(json.loads(props["preprocess"])),
                classes=tuple(str(name) for name in json.loads(props["classes"])),
                variant=props.get("variant", ""),
                precision=props.get("precision", "fp32"),
                source_sha256=props.get("source_sha256", ""),
                macs=_count(props, "macs"),
                params=_count(props, "params"),
                activations=_count(props, "activations"),
                parity_error=float(props["parity_error"]) if "parity_error" in props else None,
                probes=Probes.from_text(props["probes"]) if "probes" in props else None,
                more={key: text for key, text in props.items() if key not in _OWN_KEYS},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{where} has a damaged card: {error!r}") from error

    @classmethod
    def from_folder(cls, folder: Path) -> ModelCard:
        """Read the card from the text files of an export folder (``write_bundle`` makes them)."""
        missing = [name for name in (LABELS, PREPROCESS) if not (folder / name).is_file()]
        if missing:
            raise WeightsError(
                f"{folder} has no {' and no '.join(missing)}; export with write_bundle"
            )
        try:
            preprocess = Preprocess.from_dict(read_json(folder / PREPROCESS))
            manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
            return cls(
                preprocess=preprocess,
                classes=tuple((folder / LABELS).read_text(encoding="utf-8").splitlines()),
                variant=manifest.get("variant", ""),
                precision=manifest.get("precision", "fp32"),
                source_sha256=manifest.get("source_sha256", ""),
                macs=manifest.get("macs"),
                params=manifest.get("params"),
                activations=manifest.get("activations"),
                parity_error=manifest.get("parity_error"),
                probes=Probes.from_text(manifest["probes"]) if "probes" in manifest else None,
                more={name: str(manifest[name]) for name in TASK if name in manifest},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{folder} has a damaged card: {error!r}") from error


_COUNTS = ("macs", "params", "activations")
_OWN_KEYS = frozenset(
    ("format", "preprocess", "classes", "variant", "precision", "source_sha256")
    + (*_COUNTS, "parity_error", "probes")
)


def _count(props: Mapping[str, str], name: str) -> int | None:
    return int(props[name]) if name in props else None


def task_entries(info: Mapping[str, Any]) -> dict[str, str]:
    """The card's entries ``task`` and ``thresholds`` from what ``models.build_from`` knows."""
    if info.get("task") != "multi_label":
        return {}
    found = {"task": "multi_label"}
    if info.get("thresholds"):
        found["thresholds"] = json.dumps(info["thresholds"])
    return found
