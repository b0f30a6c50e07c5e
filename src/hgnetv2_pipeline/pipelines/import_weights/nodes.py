"""Official weights, or a file of one's own, as safetensors with everything known of them."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.pipelines.identity import Identity
from hgnetv2_pipeline.pipelines.lists import Lists
from hgnetv2_pipeline.pipelines.params import DataParams, ImportParams
from hgnetv2_pipeline.pipelines.reuse import Reuse


def provide_weights(identity: Identity, data: DataParams, redo: list[str], raw: Path) -> Path:
    """For the sample alone: a ``.pdparams`` filled by formula, so that import_weights has a file.

    Its values mean nothing; its format is that of PaddleClas, with the sample's ten classes.
    """
    folder = identity.folder("raw_weights")
    name = f"PPHGNetV2_{identity.variant.upper()}_ssld_stage1_pretrained.pdparams"
    if data.layout != "sample":
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.models import create_model, formula_state, write_pdparams

        write_pdparams(aside / name, formula_state(create_model(identity.variant, num_classes=10)))

    Reuse(identity.project, redo).produce(
        folder,
        name=identity.variant,
        pipeline="ingestion",
        inputs={},
        params={"variant": identity.variant, "num_classes": 10},
        outputs=[name],
        make=make,
    )
    return folder


def import_weights(
    identity: Identity,
    params: ImportParams,
    weights: str,
    redo: list[str],
    lists: Path,
    sample_weights: Path,
) -> Path:
    """Read the weights safely, check every tensor, and write ``student.safetensors``."""
    source = _find(identity, params, weights, sample_weights)
    name = weights if "/" not in weights and not Path(weights).suffix else Path(weights).stem
    folder = identity.folder("import_weights") / name

    def make(aside: Path) -> None:
        _convert(source, aside, identity.variant, weights, _names(source, sample_weights, lists))

    Reuse(identity.project, redo).produce(
        folder,
        pipeline="import_weights",
        inputs={"weights": source},
        params={"variant": identity.variant, "weights": weights},
        outputs=["student.safetensors", "load_report.txt"],
        make=make,
    )
    return identity.folder("import_weights")


def _find(identity: Identity, params: ImportParams, weights: str, sample: Path) -> Path:
    """The file behind ``weights``: a path, the sample's own, one in weights/, or a download."""
    from hgnetv2_pipeline.models.zoo import ZOO, fetch, weights_file

    given = (identity.project / weights).expanduser()
    if given.is_file():
        return given
    own = sorted(sample.glob(f"PPHGNetV2_{identity.variant.upper()}_{weights}*.pdparams"))
    if own:
        return own[0]
    entry = ZOO.get(f"{identity.variant}.{weights}")
    if entry is None:
        known = sorted(name.split(".", 1)[1] for name in ZOO if name.startswith(identity.variant))
        raise WeightsError(
            f"weights={weights!r} is no file and no published stage of {identity.variant}; "
            f"published: {', '.join(known)}"
        )
    found = weights_file(entry, identity.project)
    if found is not None:
        return found
    if params.download:
        return fetch(entry, identity.project / "weights")
    raise WeightsError(
        f"{entry.filename} is not in weights/: put it there, or allow the download with "
        f"--params import_weights.download=true (from {entry.url})"
    )


def _names(source: Path, sample: Path, lists: Path) -> list[str] | None:
    """The sample's file has the sample's classes; official files have ImageNet's."""
    return Lists(lists).classes if source.parent == sample else None


def _convert(
    source: Path, aside: Path, variant: str, stage: str, classes: list[str] | None
) -> None:
    """Load the file into the network it claims to be for, and save that with its metadata."""
    import json

    from hgnetv2_pipeline.data import Preprocess
    from hgnetv2_pipeline.models import create_model, load_weights, save_weights
    from hgnetv2_pipeline.models.weights import read_state
    from hgnetv2_pipeline.models.zoo import ZOO

    read = read_state(source)
    head = read.tensors.get("fc.weight")
    if head is None:
        raise WeightsError(f"{source} has no fc.weight: it holds no classifier")
    number = int(head.shape[0])
    model = create_model(variant, num_classes=number)
    report = load_weights(model, source)
    entry = ZOO.get(f"{variant}.{stage}")
    preprocess = Preprocess(resize_short=entry.resize_short) if entry else Preprocess()
    if classes is None or len(classes) != number:
        classes = [str(label) for label in range(number)]
    save_weights(
        aside / "student.safetensors",
        model,
        {
            "format": "hgnetv2_pipeline/1",
            "variant": variant,
            "stage": stage,
            "classes": json.dumps(classes, ensure_ascii=False),
            "num_classes": str(number),
            "preprocess": json.dumps(preprocess.to_dict()),
            "inputs": json.dumps({source.name: report.sha256}),
        },
    )
    (aside / "load_report.txt").write_text(
        f"{source.name}: {report.n_tensors} tensors under {report.style} names, "
        f"sha256 {report.sha256}, head {report.head}\n",
        encoding="utf-8",
    )
