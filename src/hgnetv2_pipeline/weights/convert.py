"""A weight file of others, converted: read, checked tensor by tensor, saved with what is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.weights import imagenet
from hgnetv2_pipeline.weights.build import chosen_padding
from hgnetv2_pipeline.weights.load import load_read, read_state, save_weights
from hgnetv2_pipeline.weights.metadata import classes_of, padding_entry, preprocess_of
from hgnetv2_pipeline.weights.places import Wanted
from hgnetv2_pipeline.weights.zoo import ZOO


def convert(
    source: Path,
    folder: Path,
    *,
    variant: str,
    name: str,
    wanted: Wanted | None = None,
    sha256: str | None = None,
    classes: list[str] | None = None,
) -> None:
    """Write ``student.safetensors`` and ``load_report.txt`` of the classifier in ``source``.

    Args:
        variant: the network that the file claims to be for.
        name: what the user called the weights: a stage of the published table, or the file.
        wanted: which network of the file, and how its stem pads.
        sha256: what the file must hash to; None: whatever it is.
        classes: their names in the order of the logits; None: what the file or the table says.

    Raises:
        WeightsError: the file is another one, holds no classifier, or does not fit the network.
    """
    wanted = wanted or Wanted()
    read = read_state(source, wanted)
    if sha256 not in (None, read.sha256):
        raise WeightsError(
            f"{source} has SHA-256 {read.sha256}, not {sha256} (import_weights.sha256)"
        )
    if "fc.weight" not in read.tensors:
        raise WeightsError(
            f"{source} has no fc.weight: it holds no classifier. As a start for training it can be "
            f"named itself: --params finetune.init={name}"
        )
    number = read.head_classes(source)
    padding = chosen_padding(read, wanted, source)
    model = create_model(variant, num_classes=number, pool_padding=padding)
    report = load_read(model, read, source)
    entry = ZOO.get(f"{variant}.{name}")
    preprocess = Preprocess(resize_short=entry.resize_short) if entry else None
    preprocess = preprocess or preprocess_of(read.metadata, source) or Preprocess()
    names = classes if classes is not None else classes_of(read.metadata, source)
    if names is None and entry is not None and number == imagenet.COUNT:
        names = imagenet.imagenet_classes()
    if names is None or len(names) != number:
        names = [str(label) for label in range(number)]
    save_weights(
        folder / "student.safetensors",
        model,
        {
            "format": "hgnetv2_pipeline/1",
            "variant": variant,
            "stage": entry.stage if entry else read.metadata.get("stage", "import_weights"),
            "classes": json.dumps(names, ensure_ascii=False),
            "num_classes": str(number),
            "preprocess": json.dumps(preprocess.to_dict()),
            "source": entry.url if entry else source.name,
            "inputs": json.dumps({source.name: report.sha256}),
            **padding_entry(model),
        },
    )
    # Without the place, which differs between machines: the result is the same everywhere.
    said = dataclasses.replace(report, path=Path(source.name))
    (folder / "load_report.txt").write_text(f"{said}\n", encoding="utf-8")
