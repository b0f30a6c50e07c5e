"""The registered model: every export a version, and one of them the champion, by a stated rule.

A new version is ``@challenger``. It becomes ``@champion`` where there is none, or where it has more
of the same images right than the champion and the difference is beyond what those images leave
uncertain (95 %, paired image by image).
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.intervals import t_quantile, top1_difference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
ANSWERS = "answers.parquet"
"""The artifact of an evaluation's run by which versions are compared: key and correct."""


@dataclass(frozen=True)
class Export:
    """An exported model: its run and URI in MLflow, where it was logged now, and its ONNX file."""

    sha256: str
    run_id: str | None = None
    model_uri: str | None = None


@dataclass(frozen=True)
class EvaluatedModel:
    """What a version is judged by: the right answers to a split, and the run that holds them."""

    split: str
    images: str
    answers: Path
    run_id: str | None


def read_evaluation(metrics: Path, run_id: str | None) -> EvaluatedModel:
    """The evaluation whose metrics are in the file; ``images`` is the SHA-256 of the split."""
    manifest = read_json(metrics.with_suffix(".manifest.json"))
    split = str(manifest["params"]["split"])
    answers = metrics.with_suffix(".parquet")
    return EvaluatedModel(split, manifest["inputs"]["split"], answers, run_id)


def register(
    client: Any, name: str, export: Export, evaluation: EvaluatedModel | None
) -> str | None:
    """Make the export a version of ``name``, once; judge it. What came of it, in a sentence."""
    version = _version_of(client, name, export)
    if version is None:
        return None
    known = f"{name} version {version}"
    champion = _aliased(client, name, CHAMPION)
    if champion == version:
        return f"{known} is the champion already"
    if evaluation is not None and evaluation.run_id:
        tags = {"split": evaluation.split, "images": evaluation.images, "run": evaluation.run_id}
        for key, value in tags.items():
            client.set_model_version_tag(name, version, f"evaluation.{key}", value)
    if champion is None:
        better, why = True, "there was no champion"
    else:
        better, why = _is_better(client, name, champion, evaluation)
    client.set_registered_model_alias(name, CHAMPION if better else CHALLENGER, version)
    if better and _aliased(client, name, CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    return f"{known} is @{CHAMPION if better else CHALLENGER}: {why}"


def _version_of(client: Any, name: str, export: Export) -> str | None:
    """The version that has the export's bytes, made where its model was logged now."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        if export.model_uri is None:
            return None
        client.create_registered_model(name)
    for version in client.search_model_versions(f"name='{name}'"):
        if version.tags.get("sha256") == export.sha256:
            return str(version.version)
    if export.model_uri is None:
        return None
    made = client.create_model_version(
        name, export.model_uri, export.run_id, {"sha256": export.sha256},
        model_id=export.model_uri.rpartition("/")[2],
    )  # fmt: skip
    return str(made.version)


def _aliased(client: Any, name: str, alias: str) -> str | None:
    found = client.get_registered_model(name).aliases.get(alias)
    return None if found is None else str(found)


def _is_better(
    client: Any, name: str, champion: str, evaluation: EvaluatedModel | None
) -> tuple[bool, str]:
    """Whether the evaluated model beats the champion beyond the noise of the images, and why."""
    if evaluation is None:
        return False, "it has not been evaluated (--pipeline evaluation)"
    tags = client.get_model_version(name, champion).tags
    if tags.get("evaluation.images") != evaluation.images or "evaluation.run" not in tags:
        return False, f"version {champion}, the champion, was measured on other images"
    with tempfile.TemporaryDirectory() as folder:
        theirs = client.download_artifacts(tags["evaluation.run"], ANSWERS, folder)
        ours, before = _right(evaluation.answers), _right(Path(theirs))
    gain = top1_difference(ours, before)
    noise = t_quantile(max(len(ours) - 1, 1)) * gain.error
    said = (
        f"{int(ours.sum())} of {len(ours)} right on {evaluation.split}, version {champion}, the "
        f"champion, {int(before.sum())}: {100 * gain.value:+.2f} points, 95 % interval "
        f"± {100 * noise:.2f}"
    )
    return gain.value > noise, said


def _right(answers: Path) -> NDArray[np.bool_]:
    """Whether each image was answered rightly, in the order of the keys."""
    import pandas as pd

    found = pd.read_parquet(answers, columns=["key", "correct"]).sort_values("key")
    return found["correct"].to_numpy(bool)


def write_answers(answers: Path, folder: Path) -> Path | None:
    """The columns of an evaluation's answers that a comparison needs; None of several labels."""
    import pyarrow.parquet as pq

    if "correct" not in pq.read_schema(answers).names:
        return None
    file = folder / ANSWERS
    pq.write_table(pq.read_table(answers, columns=["key", "correct"]), file, compression="zstd")
    return file
