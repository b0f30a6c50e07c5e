"""Weights of others for import_weights: where the file is, and the one that the sample brings."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import ImportParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run


def sample_file(variant: str) -> str:
    """The name of the file that ``write_formula_weights`` makes, as PaddleClas would call it."""
    return f"PPHGNetV2_{variant.upper()}_ssld_stage1_pretrained.pdparams"


def write_formula_weights(file: Path, variant: str, num_classes: int) -> None:
    """A ``.pdparams`` filled by formula: its values mean nothing, its format is PaddleClas's."""
    from hgnetv2_pipeline.models.create import create_model
    from hgnetv2_pipeline.weights.formula import formula_state
    from hgnetv2_pipeline.weights.paddle.writer import write_pdparams

    write_pdparams(file, formula_state(create_model(variant, num_classes=num_classes)))


def find_weights(identity: Identity, weights: str, sample: Path) -> Path:
    """The file behind ``weights``: a path, the sample's own, one in weights/, or a download.

    Raises:
        WeightsError: there is no such file, and nothing of that name is published.
    """
    from hgnetv2_pipeline.weights.paddle.inference import is_archive
    from hgnetv2_pipeline.weights.tensor_file import SUFFIXES
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


def import_result(
    run: Run, params: ImportParams, weights: str, source: Path, classes: list[str] | None
) -> ResultSpec:
    """The imported weights, in a folder named as the published stage or as the file."""
    path = Path(weights)
    name = weights if "/" not in weights and not path.suffix else path.stem
    return ResultSpec(
        folder=run.folder("import_weights") / name,
        pipeline="import_weights",
        inputs={"weights": source},
        params={
            "variant": run.identity.variant,
            "weights": weights,
            "classes": classes,
            "part": params.part,
            "sha256": params.sha256,
            # What was not said is not in the record, as before there was anything to say.
            **params.model_dump(exclude={"part", "sha256"}, exclude_none=True),
        },
        outputs=["student.safetensors", "load_report.txt"],
    )
