"""Official weights, or a file of one's own, as safetensors with everything known of them."""

from __future__ import annotations

import logging
from pathlib import Path

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import DataParams, ImportParams
from hgnetv2_pipeline.project.results import Reuse

_log = logging.getLogger(__name__)


def provide_weights(identity: Identity, data: DataParams, redo: list[str]) -> Path:
    """For the sample alone: a ``.pdparams`` filled by formula, so that import_weights has a file.

    Its values mean nothing; its format is that of PaddleClas, with the sample's ten classes.
    """
    from hgnetv2_pipeline.data.sample import CLASSES

    folder = identity.folder("raw_weights")
    name = f"PPHGNetV2_{identity.variant.upper()}_ssld_stage1_pretrained.pdparams"
    if data.layout != "sample":
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.models.create import create_model
        from hgnetv2_pipeline.weights.formula import formula_state
        from hgnetv2_pipeline.weights.paddle.writer import write_pdparams

        model = create_model(identity.variant, num_classes=len(CLASSES))
        write_pdparams(aside / name, formula_state(model))

    Reuse(identity.project, redo).produce(
        folder,
        name=identity.variant,
        pipeline="import_weights",
        inputs={},
        params={"variant": identity.variant, "num_classes": len(CLASSES)},
        outputs=[name],
        make=make,
    )
    return folder


def import_weights(
    identity: Identity,
    params: ImportParams,
    weights: str,
    redo: list[str],
    sample_weights: Path,
) -> Path:
    """Read the weights safely, check every tensor, and write ``student.safetensors``."""
    from hgnetv2_pipeline.data.sample import CLASSES

    source = _find(identity, weights, sample_weights)
    name = weights if "/" not in weights and not Path(weights).suffix else Path(weights).stem
    folder = identity.folder("import_weights") / name
    # The sample's file has the sample's classes; official files have ImageNet's.
    classes = list(CLASSES) if source.parent == sample_weights else None

    def make(aside: Path) -> None:
        _convert(source, aside, identity.variant, weights, params, classes)

    result = Reuse(identity.project, redo).produce(
        folder,
        pipeline="import_weights",
        inputs={"weights": source},
        params={
            "variant": identity.variant,
            "weights": weights,
            "classes": classes,
            **params.model_dump(),
        },
        outputs=["student.safetensors", "load_report.txt"],
        make=make,
    )
    said = (folder / "load_report.txt").read_text(encoding="utf-8").strip()
    _log.info("%s%s", "as imported before: " if result.reused else "imported ", said)
    return identity.folder("import_weights")


def _find(identity: Identity, weights: str, sample: Path) -> Path:
    """The file behind ``weights``: a path, the sample's own, one in weights/, or a download."""
    from hgnetv2_pipeline.weights.load import SUFFIXES
    from hgnetv2_pipeline.weights.paddle.inference import is_archive
    from hgnetv2_pipeline.weights.zoo import ZOO, provide

    given = (identity.project / Path(weights).expanduser()).absolute()
    if given.is_file() or (given.is_dir() and is_archive(given)):
        return given
    own = sorted(sample.glob(f"PPHGNetV2_{identity.variant.upper()}_{weights}*.pdparams"))
    if own:
        return own[0]
    if "/" in weights or Path(weights).suffix in SUFFIXES:
        raise WeightsError(f"there is no weight file at {given} (--params weights=...)")
    entry = ZOO.get(f"{identity.variant}.{weights}")
    if entry is None:
        known = sorted(name.split(".", 1)[1] for name in ZOO if name.startswith(identity.variant))
        raise WeightsError(
            f"weights={weights!r} is no file and no published stage of {identity.variant}; "
            f"published: {', '.join(known)} (--params weights=...)"
        )
    return provide(entry, identity.project, download=identity.download)


def _convert(
    source: Path,
    aside: Path,
    variant: str,
    weights: str,
    params: ImportParams,
    classes: list[str] | None,
) -> None:
    """Load the file into the network it claims to be for, and save that with its metadata."""
    import dataclasses
    import json

    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.models.create import create_model
    from hgnetv2_pipeline.weights import imagenet
    from hgnetv2_pipeline.weights.load import load_read, read_state, save_weights
    from hgnetv2_pipeline.weights.metadata import classes_of, preprocess_of
    from hgnetv2_pipeline.weights.zoo import ZOO

    read = read_state(source, params.part)
    if params.sha256 not in (None, read.sha256):
        raise WeightsError(
            f"{source} has SHA-256 {read.sha256}, not {params.sha256} (import_weights.sha256)"
        )
    if "fc.weight" not in read.tensors:
        raise WeightsError(
            f"{source} has no fc.weight: it holds no classifier. As a start for training it can be "
            f"named itself: --params finetune.init={weights}"
        )
    number = read.head_classes(source)
    model = create_model(variant, num_classes=number)
    report = load_read(model, read, source)
    entry = ZOO.get(f"{variant}.{weights}")
    if entry is not None:
        preprocess = Preprocess(resize_short=entry.resize_short)
    else:
        preprocess = preprocess_of(read.metadata, source) or Preprocess()
    if classes is None:
        classes = classes_of(read.metadata, source)
    if classes is None and entry is not None and number == imagenet.COUNT:
        classes = imagenet.class_names()
    if classes is None or len(classes) != number:
        classes = [str(label) for label in range(number)]
    save_weights(
        aside / "student.safetensors",
        model,
        {
            "format": "hgnetv2_pipeline/1",
            "variant": variant,
            "stage": entry.stage if entry else read.metadata.get("stage", "import_weights"),
            "classes": json.dumps(classes, ensure_ascii=False),
            "num_classes": str(number),
            "preprocess": json.dumps(preprocess.to_dict()),
            "source": entry.url if entry else source.name,
            "inputs": json.dumps({source.name: report.sha256}),
        },
    )
    # Without the place, which differs between machines: the result is the same everywhere.
    said = dataclasses.replace(report, path=Path(source.name))
    (aside / "load_report.txt").write_text(f"{said}\n", encoding="utf-8")
