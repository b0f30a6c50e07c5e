"""From the name of a model to its answers on a set, for evaluation and for the teacher."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.devices import known_device
from hgnetv2_pipeline.errors import ParameterError, WeightsError, nearest
from hgnetv2_pipeline.project.identity import FOLDERS, Identity
from hgnetv2_pipeline.weights.places import split_spec

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.data.decode import Colour
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.evaluation.evaluate import Evaluation
    from hgnetv2_pipeline.project.lists import Lists
    from hgnetv2_pipeline.project.params import EvaluationParams
    from hgnetv2_pipeline.project.run import Run

_log = logging.getLogger(__name__)


def model_source(identity: Identity, model: str) -> str:
    """``model`` as ``models.build_from`` takes it: a run id becomes the run's folder.

    Published weights that are missing are fetched, if ``identity.download`` allows. Raises
    ``WeightsError`` for a run that is not there, naming those that are.
    """
    from hgnetv2_pipeline.weights.paddle.inference import is_archive
    from hgnetv2_pipeline.weights.zoo import ZOO, provide

    if model in ZOO:
        provide(ZOO[model], identity.project, download=identity.download)
        return model
    name = split_spec(model)[0]
    if model.startswith("timm:") or "/" not in name or Path(name).suffix:
        return model
    if is_archive(identity.project / name):  # Paddle's inference model, unpacked
        return model
    folder = identity.run_folder(model)
    if (folder / "student.safetensors").is_file():
        return folder.relative_to(identity.project).as_posix()
    base = identity.folder("models")
    known = sorted(
        path.parent.relative_to(base).as_posix() for path in base.glob("*/**/student.safetensors")
    )
    raise WeightsError(
        f"no finished run {model!r}{nearest(model, known)} of dataset {identity.dataset}; there "
        f"are: {', '.join(known) or 'none'}. Make it (kedro run --pipeline "
        f"{model.split('/')[0]}) or name another (--params model=...)"
    )


def check_model(identity: Identity, model: str, *, made: Collection[str]) -> None:
    """Refuse a ``model`` that is not there and that no pipeline of this run (``made``) makes.

    Nothing is loaded or fetched. Raises what ``model_source`` and ``build_from`` would raise later,
    after hours.
    """
    from hgnetv2_pipeline.weights.source_names import check_name
    from hgnetv2_pipeline.weights.zoo import ZOO, weights_file

    maker = model.partition("/")[0]
    folder = identity.run_folder(model)
    if maker in made and maker in FOLDERS and folder.is_relative_to(identity.folder(maker)):
        return
    if model in ZOO and (identity.download or weights_file(ZOO[model], identity.project)):
        return
    check_name(model_source(identity, model), identity.project)


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights and what is known of them."""

    network: Any
    classes: list[str]
    preprocess: Preprocess
    info: dict[str, Any]


def load_model(
    identity: Identity,
    model: str,
    *,
    classes: list[str] | None,
    resize_short: int | None = None,
) -> LoadedModel:
    """Build ``model``; ``classes`` None takes the weights' own.

    ``resize_short`` replaces what the weights say; those that say nothing get the published one.
    """
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.weights.build import build_from
    from hgnetv2_pipeline.weights.imagenet import agree

    network, info = build_from(
        model_source(identity, model),
        num_classes=len(classes) if classes is not None else None,
        root=identity.project,
    )
    known = info.get("classes")
    if classes is not None and known is not None and not agree(known, classes):
        raise WeightsError(
            f"{model} knows {len(known)} classes ({', '.join(map(str, known[:3]))}, ...), the "
            f"lists of {identity.dataset} have {len(classes)} ({', '.join(classes[:3])}, ...)"
        )
    if info.get("preprocess"):
        preprocess = Preprocess.from_dict(info["preprocess"])
    else:
        preprocess = Preprocess()
    preprocess = _resized_otherwise(preprocess, resize_short, model)
    names = classes or known or [str(number) for number in range(info["num_classes"])]
    return LoadedModel(network, list(names), preprocess, info)


def _resized_otherwise(preprocess: Preprocess, resize_short: int | None, model: str) -> Preprocess:
    """``preprocess`` with another short side before the crop; None: as it is."""
    import dataclasses

    if resize_short is None:
        return preprocess
    if preprocess.fit != "crop":
        raise ParameterError(
            f"evaluation.resize_short={resize_short}, but {model} sees images with fit "
            f"{preprocess.fit!r}, which cuts nothing; set it to null"
        )
    return dataclasses.replace(preprocess, resize_short=resize_short)


def evaluate(
    run: Run, model: str, lists: Lists, split: str, params: EvaluationParams
) -> Evaluation:
    """Measure ``model`` on a set of the dataset; every listed image counts.

    Raises:
        ParameterError: an engine or precision that cannot be had.
        WeightsError: the model or its export is missing, or is not for the classes of ``lists``.
    """
    from hgnetv2_pipeline.evaluation.evaluate import evaluate_samples

    identity, engine, precision = run.identity, params.engine, params.precision
    samples = lists.frame(split)
    inputs = {"split": split}
    if engine == "torch":
        if precision != "fp32":
            raise ParameterError(
                f"evaluation.precision={precision} with engine torch, which measures fp32: name "
                "the engine that runs it (evaluation.engine)"
            )
        loaded = load_model(
            identity, model, classes=lists.classes, resize_short=params.resize_short
        )
        place = known_device(run.device)
        predictor: Any = loaded.network.eval().to(place)
        preprocess = loaded.preprocess
        task, thresholds = loaded.info["task"], loaded.info["thresholds"]
        inputs["weights"] = str(loaded.info.get("sha256") or "")
    else:
        from hgnetv2_pipeline.deployment.engines.ladder import load_engine

        exported = identity.folder("export") / "model.onnx"
        if not exported.is_file():
            raise WeightsError(
                f"{exported} is not there: run kedro run --pipeline export --params model={model}"
            )
        loaded_engine = load_engine(
            exported, engine=engine, precision=precision, batch_size=params.batch_size
        )
        predictor, preprocess = loaded_engine.logits, loaded_engine.preprocess
        task, thresholds = loaded_engine.card.more.get("task"), loaded_engine.card.thresholds
        preprocess = _resized_otherwise(preprocess, params.resize_short, model)
        place = "cpu"
    _warn_of_another_decoding(model, preprocess, samples)
    wanted = "multi_label" if lists.multi_label else "single_label"
    if task not in (None, wanted):
        raise WeightsError(
            f"{model} is a {task} model, the lists of {identity.dataset} are {wanted}: name "
            "another model (--params model=...) or another data.layout"
        )
    return evaluate_samples(
        predictor,
        samples,
        identity.folder("raw"),
        preprocess=preprocess,
        classes=lists.classes,
        batch_size=params.batch_size,
        workers=params.workers,
        model_name=model,
        split=split,
        engine=engine,
        precision=precision,
        inputs=inputs,
        device=place,
        max_bad=params.max_bad,
        fast=params.fast,
        thresholds=thresholds,
    )


def _warn_of_another_decoding(model: str, preprocess: Preprocess, samples: pd.DataFrame) -> None:
    """Say that a model treats transparency or 16 bits otherwise than its data set does."""
    from hgnetv2_pipeline.data.index import decoding_of

    own, theirs = preprocess.decoding, decoding_of(samples)
    if own.background != theirs.background:
        _log.warning(
            "%s is measured as its weights say, with transparency %s; the lists were made with "
            "transparency %s (data.alpha)",
            model, *map(_in_words, (own.background, theirs.background)),
        )  # fmt: skip
    if own.depth != theirs.depth:
        _log.warning(
            "%s is measured as its weights say, with depth %s of 16 bits; the lists were made with "
            "%s (data.depth)", model, own.depth, theirs.depth,
        )  # fmt: skip


def _in_words(background: Colour | None) -> str:
    return "dropped" if background is None else f"composited on {list(background)}"


def weights_input(identity: Identity, model: str) -> Path | str:
    """The file that holds the weights of ``model``, to be hashed; its name where there is none."""
    from hgnetv2_pipeline.weights.source_names import timm_file
    from hgnetv2_pipeline.weights.zoo import ZOO, weights_file

    source = model_source(identity, model)
    if source in ZOO:
        return weights_file(ZOO[source], identity.project) or source
    if source.startswith("timm:"):
        return timm_file(source.partition(":")[2], identity.project) or source
    path = identity.project / split_spec(source)[0]
    if (path / "student.safetensors").is_file():
        return path / "student.safetensors"
    return path if path.exists() else source


def model_inputs(
    identity: Identity, engine: str = "torch", precision: str = "fp32"
) -> dict[str, Path | str]:
    """What a result about ``identity.model`` depends on: the file that ``engine`` reads, that of
    its weights, or its name."""
    if engine != "torch":
        from hgnetv2_pipeline.deployment.engines.ladder import model_file

        return {"model": model_file(identity.folder("export") / "model.onnx", engine, precision)}
    return {"model": weights_input(identity, identity.model)}
