"""The teacher as a result: probes fitted, candidates judged on val, its record and its gate."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.devices import known_device
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import DataError, ParameterError, WeightsError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import model_source, weights_input
from hgnetv2_pipeline.project.params import GateParams, TeacherParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.training.config import TeacherConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)
RECORD = "teacher.json"
WEIGHTS, PROBE_RECORD = "student.safetensors", "probe.json"


@dataclass(frozen=True)
class TeacherRecord:
    """A teacher as later nodes use it; the members of ``config`` are build_from specs."""

    config: TeacherConfig
    record: Path


def read_teacher(folder: Path, identity: Identity) -> TeacherRecord:
    """Read ``teacher.json`` of a teacher's folder; run ids become folders of the project."""
    record = folder / RECORD
    if not record.is_file():
        raise WeightsError(f"no teacher in {folder}: run kedro run --pipeline train_teacher")
    values = read_json(record)
    members = [model_source(identity, member) for member in values["members"]]
    return TeacherRecord(TeacherConfig(members=members, bn=values["bn"]), record)


def fit_probes(run: Run, teacher: TeacherParams, lists: Lists) -> list[str]:
    """Fit the probes that are not there yet; their run ids end in ``probe=NAME``."""
    names = []
    check_probes(teacher, run.identity.project)
    for trunk in teacher.probes:
        folder = run.folder("train_teacher") / f"probe={probe_name(trunk)}"
        run.produce(
            ResultSpec(
                folder=folder,
                pipeline="train_teacher",
                inputs={
                    "train": lists.index("train"),
                    "trunk": weights_input(run.identity, trunk),
                },
                params={
                    "size": teacher.probe_size,
                    "balanced": teacher.recipe.class_balance != "none",
                    "classes": lists.classes,
                },
                outputs=[WEIGHTS, PROBE_RECORD],
            ),
            partial(_fit, run, trunk, teacher, lists),
        )
        names.append(folder.relative_to(run.folder("models")).as_posix())
    return names


def check_probes(teacher: TeacherParams, project: Path) -> None:
    """Refuse probes that cannot be fitted, without reading weights; hours before it would show.

    Raises ``ParameterError`` or ``WeightsError``.
    """
    from hgnetv2_pipeline.weights.probes import check_trunk

    if not (teacher.members or teacher.source or teacher.probes):
        raise ParameterError(
            "there is no teacher: set train_teacher.members, train_teacher.source or "
            "train_teacher.probes (conf/<env>/parameters.yml or --params)"
        )
    named: dict[str, str] = {}
    for spec in teacher.probes:
        check_trunk(spec, project)
        if (other := named.setdefault(probe_name(spec), spec)) != spec:
            raise ParameterError(
                f"train_teacher.probes: {other} and {spec} would have the same name, "
                f"{probe_name(spec)}; rename one of the files"
            )


def probe_name(spec: str) -> str:
    """A probe's folder: ``tf_efficientnet_lite0`` of ``timm:tf_efficientnet_lite0:packaged``."""
    from hgnetv2_pipeline.weights.probes import trunk_name

    # Two files of one network are two probes.
    file = Path(spec.partition("@")[2]).stem
    name = trunk_name(spec).removeprefix("timm:") + (f"-{file}" if file else "")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _fit(run: Run, spec: str, teacher: TeacherParams, lists: Lists, aside: Path) -> None:
    from hgnetv2_pipeline.teacher.probing import ProbeConfig, fit_probe
    from hgnetv2_pipeline.weights.probes import save_probe, trunk_name

    recipe = teacher.recipe
    found = fit_probe(
        spec,
        lists.frame("train"),
        run.folder("raw"),
        classes=lists.classes,
        weights_root=run.identity.project,
        how=ProbeConfig(
            size=teacher.probe_size,
            balanced=recipe.class_balance != "none",
            workers=recipe.workers,
            max_bad=recipe.max_bad,
        ),
        device=known_device(run.device),
    )
    save_probe(
        aside / WEIGHTS,
        found.probe,
        trunk=trunk_name(spec),
        preprocess=found.preprocess,
        classes=lists.classes,
    )
    write_json(
        aside / PROBE_RECORD,
        {
            "trunk": spec,
            "size": found.probe.size,
            "images": found.images,
            "held_out_right": found.held_out_right,
            "l2": found.classifier.l2,
            "temperature": found.classifier.temperature,
            "features_cpu_seconds": round(found.features_seconds, 1),
            "fit_cpu_seconds": round(found.fit_seconds, 1),
        },
    )


def judge_candidates(
    run: Run, teacher: TeacherParams, lists: Lists, candidates: Mapping[str, Path | str]
) -> dict[str, Any]:
    """What ``teacher.json`` says: who teaches, what they score on val, and which bytes they are.

    Whatever learns from the teacher depends on this record alone, so the weights of every member
    are in it, wherever they come from; timm's names alone have none to be hashed. ``candidates``
    are the weights by name.
    """
    import numpy as np

    from hgnetv2_pipeline.teacher.choosing import choose_members

    probabilities, labels = _answers_to_val(run, candidates, teacher, lists)
    right = {name: _right(answers, labels) for name, answers in probabilities.items()}
    members, judged = list(candidates), {}
    if teacher.choose == "best":
        choice = choose_members(probabilities, labels)
        members = list(choice.members)
        judged = {"candidates": choice.reasons, "candidates_top1_count": right}
    mean = np.mean([probabilities[name] for name in members], axis=0)
    return {
        "members": members,
        "bn": teacher.bn,
        "sha256": {
            name: run.reuse.digest(place)
            for name in members
            if isinstance(place := candidates[name], Path)
        },
        "val": {
            "split": "val",
            "n": len(labels),
            "top1_count": _right(mean, labels),
            "members_top1_count": [right[name] for name in members],
            "majority_count": int(np.bincount(labels).max()),
        },
        **judged,
    }


def _answers_to_val(
    run: Run, candidates: Iterable[str], teacher: TeacherParams, lists: Lists
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    import numpy as np
    import torch

    from hgnetv2_pipeline.data.index import decoding_of
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.teacher.member_answers import member_probabilities
    from hgnetv2_pipeline.teacher.teacher import load_teacher

    place, samples = torch.device(known_device(run.device)), lists.frame("val")
    loaded = load_teacher(
        [model_source(run.identity, name) for name in candidates],
        classes=lists.classes,
        root=run.identity.project,
        device=place,
        preprocess=Preprocess(),
        background=decoding_of(samples).background,
        bn=teacher.bn,
    )
    answers = member_probabilities(loaded, samples, run.folder("raw"), device=place)
    labels = samples["label"].to_numpy(dtype=np.int64)
    return dict(zip(candidates, answers, strict=True)), labels


def _right(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> int:
    return int((probabilities.argmax(axis=1) == labels).sum())


def check_gate(identity: Identity, gate: GateParams, record: Mapping[str, Any]) -> None:
    """Say whether the teacher of ``record`` beats what it is to teach.

    Raises:
        DataError: it does not, and ``gate.action`` is ``stop``.
    """
    accuracy = record["val"]["top1_count"] / record["val"]["n"]
    baseline, named = _baseline(identity, gate.baseline, record)
    if baseline is None:
        _log.warning("teacher gate: %s; teacher %.2f %% on val", named, 100 * accuracy)
        return
    line = f"teacher {100 * accuracy:.2f} % on val, {named} {100 * baseline:.2f} %"
    if accuracy > baseline:
        _log.info("teacher gate passed: %s", line)
    elif gate.action == "stop":
        raise DataError(
            f"teacher gate: {line}; a student cannot learn more from it than plain training gives. "
            "Train a better teacher, or set train_teacher.gate.action to warn or off"
        )
    elif gate.action == "warn":
        _log.warning("teacher gate not passed: %s", line)


def _baseline(
    identity: Identity, baseline: str, record: Mapping[str, Any]
) -> tuple[float | None, str]:
    """The accuracy to beat and what it is; None with the reason when there is none to compare."""
    if baseline == "members":
        counts = record["val"]["members_top1_count"]
        if len(counts) < 2 and "majority_count" not in record["val"]:
            return None, "a teacher of one member has no members to be compared with"
        if len(counts) < 2 and record["val"]["majority_count"] == record["val"]["n"]:
            return None, "val has images of one class alone, which shows nothing of a teacher"
        if len(counts) < 2:
            return record["val"]["majority_count"] / record["val"][
                "n"
            ], "naming the largest class every time"
        return sum(counts) / len(counts) / record["val"]["n"], "the mean of its members"
    try:
        return float(baseline), "the accuracy given"
    except ValueError:
        result = identity.run_folder(baseline) / "result.json"
        if not result.is_file():
            raise ParameterError(
                f"train_teacher.gate.baseline {baseline!r} is neither 'members', an accuracy, "
                f"nor a finished run: {result} does not exist"
            ) from None
        return float(read_json(result)["val"]["top1"]), f"run {baseline}"
