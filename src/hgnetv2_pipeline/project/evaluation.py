"""An evaluation and the analysis of its errors as results: what they depend on, their files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.project.identity import result_name
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import model_inputs
from hgnetv2_pipeline.project.params import EvaluationParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.evaluation.mistakes import Explainer

_LEAST_COMPARED = 200  # training images among which the nearest is sought, where a tenth is less

_log = logging.getLogger(__name__)


def evaluation_result(run: Run, params: EvaluationParams, split: str, lists: Lists) -> ResultSpec:
    """JSON with the counts, and parquet with a row per image, in this order."""
    name, model = evaluation_name(params, split), run.identity.model
    decides = {"engine", "precision", "resize_short", "fast", "max_bad"}
    # What is exported runs where its engine does.
    device = {"device": run.device} if params.engine == "torch" else {}
    return ResultSpec(
        folder=run.folder("evaluation"),
        name=name,
        pipeline="evaluation",
        inputs={
            "split": lists.index(split),
            **model_inputs(run.identity, params.engine, params.precision),
        },
        params={
            **params.model_dump(mode="json", include=decides),
            **device,
            "model": model,
            "split": split,
            "classes": lists.classes,
        },
        outputs=[f"{name}.json", f"{name}.parquet"],
    )


def write_evaluation(
    aside: Path, run: Run, params: EvaluationParams, split: str, lists: Lists
) -> None:
    """Measure the model of ``run`` and write both files."""
    from hgnetv2_pipeline.project import models

    found = models.evaluate(run, run.identity.model, lists, split, params)
    name = evaluation_name(params, split)
    write_json(aside / f"{name}.json", found.metrics)
    found.rows.to_parquet(aside / f"{name}.parquet", index=False)


def measure_run(
    run: Run, params: EvaluationParams, model: str, split: str, lists: Lists
) -> tuple[Path, Path]:
    """The counts and the rows of ``model`` on ``split``, in PyTorch and float32.

    It is the evaluation of that model, with its name, and is reused as such.

    Raises:
        WeightsError: it gives no answers, as after a training that diverged.
    """
    params = params.model_copy(update={"engine": "torch", "precision": "fp32"})
    identity = run.identity.model_copy(update={"model": model})
    its = run.model_copy(update={"identity": identity})
    # Another command may evaluate the same model: both need the same figure.
    spec = replace(evaluation_result(its, params, split, lists), wait=True)
    made = its.produce(spec, lambda aside: write_evaluation(aside, its, params, split, lists))
    counts, rows = (made.folder / name for name in spec.outputs)
    return counts, rows


def error_analysis_result(
    run: Run, params: EvaluationParams, split: str, lists: Lists, rows: Path
) -> ResultSpec:
    """JSON with curves and mistakes, the mistakes as CSV, and a folder with their pictures."""
    known = evaluation_result(run, params, split, lists)
    return replace(
        known,
        folder=run.folder("error_analysis") / known.name,
        name="",
        inputs={**known.inputs, "train": lists.index("train"), "rows": rows},
        outputs=["analysis.json", "mistakes.csv", "mistakes"],
    )


def write_error_analysis(
    aside: Path, run: Run, params: EvaluationParams, split: str, lists: Lists, measured: Path
) -> None:
    """Write the files of ``error_analysis_result`` from an evaluation's JSON, ``measured``, and the
    rows beside it: how sure the answers are, by which thresholds, and the surest wrong ones.

    Only these images and at most a tenth as many training images as were evaluated (or 200) are
    shown to the model again, and only with engine torch: it alone has embeddings and gradients.
    """
    import pandas as pd

    from hgnetv2_pipeline.evaluation import mistake_files, mistakes

    classes, root = lists.classes, run.folder("raw")
    rows, counts = pd.read_parquet(measured.with_suffix(".parquet")), read_json(measured)
    found = mistakes.confident_mistakes(rows)
    samples, train = (lists.frame(each).set_index("key", drop=False) for each in (split, "train"))
    compared = train.iloc[:0]
    near: list[tuple[str, float] | None] = [None] * len(found)
    explained = None
    if params.engine == "torch" and len(found):
        explainer = _explainer(run, params, lists)
        size = params.batch_size
        seen = explainer.look(samples.loc[found["key"]], root, size, views=True)
        found = found[found["key"].isin(seen.keys)].reset_index(drop=True)
        compared = _candidates(train, found, max(_LEAST_COMPARED, len(rows) // 10), run)
        if seen.embeddings is not None and len(compared):
            near = mistakes.nearest_images(seen, explainer.look(compared, root, size, views=False))
        maps = explainer.maps(seen.views, found["about"].tolist()) if len(found) else None
        explained = None if maps is None else (seen, maps)
    records = mistake_files.mistake_records(found, classes, samples, train, near)
    digest = mistake_files.write_mistake_pictures(
        aside / "mistakes", records, samples, train, root, explained
    )
    mistake_files.write_mistake_table(aside / "mistakes.csv", records)
    write_json(
        aside / "analysis.json",
        {
            **{key: counts[key] for key in ("model", "split", "engine", "precision")},
            "images": len(rows),
            "wrong": int((~rows["correct"].astype(bool)).sum()),
            **_curves(rows, counts),
            "map": explained[1].summary() if explained else None,
            "compared": len(compared),
            "pictures": digest,
            "mistakes": records,
        },
    )


def _curves(rows: pd.DataFrame, counts: Mapping[str, Any]) -> dict[str, Any]:
    """How sure the answers are: of one label by confidence, of several by threshold."""
    import numpy as np

    from hgnetv2_pipeline.evaluation.calibration import risk_coverage
    from hgnetv2_pipeline.evaluation.metrics import calibration_bins
    from hgnetv2_pipeline.evaluation.thresholds import threshold_curves

    if counts.get("task") == "multi_label":
        probabilities = np.stack(rows["probs"].tolist())
        truth = np.zeros(probabilities.shape, dtype=np.int64)
        for place, labels in enumerate(rows["labels"]):
            truth[place, np.asarray(labels, dtype=np.int64)] = 1
        least = [row["threshold"] for row in counts["per_class"]]
        curves = threshold_curves(probabilities, truth, counts["classes"], least)
        return {"task": "multi_label", "threshold_curves": curves}
    confidence, correct = rows["top1_prob"].to_numpy(), rows["correct"].to_numpy(bool)
    bins = [each.tolist() for each in calibration_bins(confidence, correct)]
    return {
        "reliability": dict(zip(("images", "confidence", "right"), bins, strict=True)),
        "risk_coverage": risk_coverage(confidence, correct),
    }


def _explainer(run: Run, params: EvaluationParams, lists: Lists) -> Explainer:
    from hgnetv2_pipeline.devices import known_device
    from hgnetv2_pipeline.evaluation.mistakes import Explainer
    from hgnetv2_pipeline.project import models

    loaded = models.load_model(
        run.identity, run.identity.model, classes=lists.classes, resize_short=params.resize_short
    )
    place = known_device(run.device)
    return Explainer(
        loaded.network.to(place), loaded.preprocess, device=place, workers=params.workers,
        fast=params.fast,
    )  # fmt: skip


def _candidates(train: pd.DataFrame, found: pd.DataFrame, most: int, run: Run) -> pd.DataFrame:
    """Training images of the classes that were answered or true, spread over these classes."""
    import numpy as np

    from hgnetv2_pipeline.data.lists.multi_label import is_multi_label, label_matrix
    from hgnetv2_pipeline.teacher.typicality import spread_over_classes

    wanted = np.array(sorted({*found["about"], *(each for row in found["labels"] for each in row)}))
    if is_multi_label(train):
        belongs = label_matrix(train)[:, wanted] == 1
    else:
        belongs = train["label"].to_numpy(np.int64, na_value=-1)[:, None] == wanted
    some: pd.DataFrame = train[belongs.any(axis=1)]
    if len(some):
        groups = belongs[belongs.any(axis=1)].argmax(axis=1)
        some = some.iloc[spread_over_classes(groups, most, run.identity.seed)]
    return some


def evaluation_name(params: EvaluationParams, split: str) -> str:
    """The name of the files of an evaluation by ``params``."""
    return result_name(
        split, params.engine, params.precision, resize_short=params.resize_short, fast=params.fast
    )


def log_metrics(model: str, split: str, metrics: Mapping[str, Any]) -> None:
    """The key figure on one line: top-1, or mAP with several labels."""
    if metrics.get("task") == "multi_label":
        _log.info(
            "%s on %s: mAP %.2f %% (%d classes, %d images), F1 micro %.4f, macro %.4f",
            model, split, 100 * metrics["map"], metrics["map_classes"],
            metrics["n_listed"], metrics["f1_micro"], metrics["f1_macro"],
        )  # fmt: skip
    else:
        _log.info(
            "%s on %s: top-1 %.2f %% (%d of %d)%s", model, split, 100 * metrics["top1"],
            metrics["top1_count"], metrics["n_listed"], _over_classes(metrics),
        )  # fmt: skip


def _over_classes(metrics: Mapping[str, Any]) -> str:
    """What an evaluation of before does not have."""
    if metrics.get("balanced_accuracy") is None:
        return ""
    return (
        f", balanced {100 * metrics['balanced_accuracy']:.2f} %, F1 macro {metrics['f1_macro']:.4f}"
    )
