"""Official weights, or a file of one's own, as safetensors with everything known of them."""

from __future__ import annotations

import logging
from pathlib import Path

from hgnetv2_pipeline.project.imported_weights import (
    find_weights,
    import_result,
    sample_file,
    write_formula_weights,
)
from hgnetv2_pipeline.project.params import DataParams, ImportParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run

_log = logging.getLogger(__name__)


def provide_weights(run: Run, data: DataParams) -> Path:
    """For the sample alone: a ``.pdparams`` filled by formula, so that import_weights has a file.

    Its values mean nothing; its format is that of PaddleClas, with the sample's ten classes.
    """
    from hgnetv2_pipeline.data.sample import CLASSES

    folder, variant = run.folder("raw_weights"), run.identity.variant
    if data.layout != "sample":
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    made = run.produce(
        ResultSpec(
            folder=folder,
            name=variant,
            pipeline="import_weights",
            params={"variant": variant, "num_classes": len(CLASSES)},
            outputs=[sample_file(variant)],
        ),
        lambda aside: write_formula_weights(aside / sample_file(variant), variant, len(CLASSES)),
    )
    return made.folder


def import_weights(run: Run, params: ImportParams, weights: str, sample_weights: Path) -> Path:
    """Read the weights safely, check every tensor, and write ``student.safetensors``."""
    from hgnetv2_pipeline.data.sample import CLASSES
    from hgnetv2_pipeline.weights.convert import convert

    source = find_weights(run.identity, weights, sample_weights)
    # The sample's file has the sample's classes; official files have ImageNet's.
    classes = list(CLASSES) if source.parent == sample_weights else None
    made = run.produce(
        import_result(run, params, weights, source, classes),
        lambda aside: convert(
            source,
            aside,
            variant=run.identity.variant,
            name=weights,
            wanted=params.wanted,
            sha256=params.sha256,
            classes=classes,
        ),
    )
    said = (made.folder / "load_report.txt").read_text(encoding="utf-8").strip()
    _log.info("%s%s", "as imported before: " if made.reused else "imported ", said)
    return run.folder("import_weights")
