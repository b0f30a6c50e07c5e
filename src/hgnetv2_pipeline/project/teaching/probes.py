"""Probes as results: each fitted to the labelled images, then trained further on the pool."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.devices import known_device
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import weights_input
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.models.probe import Probe
    from hgnetv2_pipeline.teacher.probing import ProbeConfig

_log = logging.getLogger(__name__)
WEIGHTS, PROBE_RECORD, TIMING = "student.safetensors", "probe.json", "timing.json"
SIMPLE_PROBE = "probe=simple"
"""The folder of the probe that every teacher's folder may have without any weights."""
SELF_TRAINING, SELF_TRAINED = "self_training", "self_training.json"
_STRETCH = 65_536


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
                params=probe_params(teacher, lists),
                outputs=[WEIGHTS, PROBE_RECORD],
                beside=[TIMING],  # differs each time
            ),
            partial(_fit, run, trunk, teacher, lists),
        )
        names.append(folder.relative_to(run.folder("models")).as_posix())
    return names


def self_train(run: Run, teacher: TeacherParams, lists: Lists) -> SelfTrained | None:
    """The probes trained further on images of the pool; None where that cannot or need not be."""
    wanted = teacher.self_training
    if not wanted.rounds or not teacher.probes:
        return None
    if not lists.has("pool"):
        _log.info("self-training is left out: there is no pool (data.pool)")
        return None
    inputs = {probe_name(trunk): weights_input(run.identity, trunk) for trunk in teacher.probes}
    made = run.produce(
        ResultSpec(
            folder=run.folder("train_teacher"),
            name=SELF_TRAINING,
            pipeline="train_teacher",
            inputs={"train": lists.index("train"), "pool": lists.index("pool"), **inputs},
            params=probe_params(teacher, lists) | {"seed": run.identity.seed} | wanted.model_dump(),
            outputs=[SELF_TRAINING],
        ),
        lambda aside: _self_train(run, teacher, lists, aside / SELF_TRAINING),
    )
    folder = made.folder / SELF_TRAINING
    record = read_json(folder / SELF_TRAINED)
    base = folder.relative_to(run.folder("models")).as_posix()
    return SelfTrained([f"{base}/{name}" for name in record["probes"]], record)


@dataclass(frozen=True)
class SelfTrained:
    """Probes after self-training: their run ids, and the record of what was found."""

    members: list[str]
    record: dict[str, Any]


def _self_train(run: Run, teacher: TeacherParams, lists: Lists, out: Path) -> None:
    from hgnetv2_pipeline.teacher.probing import self_train_probes

    wanted = teacher.self_training
    pool = _some_of_pool(lists.index("pool"), wanted.images, run.identity.seed)
    found, trained = self_train_probes(
        teacher.probes,
        lists.frame("train"),
        pool,
        run.folder("raw"),
        classes=lists.classes,
        weights_root=run.identity.project,
        how=probe_config(teacher),
        device=known_device(run.device),
    )
    if not found.helps:
        _log.warning("self-training makes held-out images worse and is left out")
    for spec, (probe, preprocess) in trained.items():
        _save(out / probe_name(spec), spec, probe, preprocess, lists)
    write_json(
        out / SELF_TRAINED,
        {
            "probes": [probe_name(spec) for spec in trained],
            "pool_images": len(pool),
            "learnt_from": found.taken,
            "held_out": found.held_out,
            "held_out_right_before": found.right_before,
            "held_out_right_after": found.right_after,
            "helps": found.helps,
        },
    )


def _some_of_pool(index: Path, most: int, seed: int) -> pd.DataFrame:
    """At most ``most`` images of the pool, drawn by ``seed``, in their order; the rest is not held.

    All belong to one draw, whatever the sources: an image that was added may take another's place.
    """
    import numpy as np
    import pandas as pd

    from hgnetv2_pipeline.data.sample_rng import epoch_order
    from hgnetv2_pipeline.mining.score_shards import pool_rows, pool_slices

    wanted = np.sort(epoch_order(pool_rows(index), seed, 0)[:most])
    parts = []
    for number, rows in enumerate(pool_slices(index, _STRETCH)):
        here = wanted[(wanted >= number * _STRETCH) & (wanted < (number + 1) * _STRETCH)]
        parts.append(rows.iloc[here - number * _STRETCH])
    return pd.concat(parts, ignore_index=True)


def check_probes(teacher: TeacherParams, project: Path) -> None:
    """Refuse probes that cannot be fitted, without reading weights; hours before it would show.

    Raises ``ParameterError`` or ``WeightsError``.
    """
    from hgnetv2_pipeline.weights.source_names import check_trunk

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
    from hgnetv2_pipeline.weights.source_names import trunk_name

    # Two files of one network are two probes.
    file = Path(spec.partition("@")[2]).stem
    name = trunk_name(spec).removeprefix("timm:") + (f"-{file}" if file else "")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def probe_params(teacher: TeacherParams, lists: Lists) -> dict[str, Any]:
    """What the classifiers follow from besides images and networks."""
    how = _fitted_by(teacher)
    seen = {key: how.pop(key) for key in ("fit", "pad_colour")}
    return how | {"classes": lists.classes} | ({} if seen["fit"] == "crop" else seen)


def probe_config(teacher: TeacherParams) -> ProbeConfig:
    from hgnetv2_pipeline.teacher.probing import ProbeConfig

    return ProbeConfig(
        **_fitted_by(teacher),
        rounds=teacher.self_training.rounds,
        workers=teacher.recipe.workers,
        max_bad=teacher.recipe.max_bad,
    )


def _fitted_by(teacher: TeacherParams) -> dict[str, Any]:
    """The fields of ``ProbeConfig`` that change what is fitted; without torch, to compare runs."""
    return {
        "size": teacher.probe_size,
        "balanced": teacher.recipe.class_balance != "none",
        "fit": teacher.recipe.fit_of_others or "crop",
        "pad_colour": teacher.recipe.pad_colour,
    }


def _save(folder: Path, spec: str, probe: Probe, preprocess: Preprocess, lists: Lists) -> None:
    from hgnetv2_pipeline.weights.probes import save_probe
    from hgnetv2_pipeline.weights.source_names import trunk_name

    save_probe(
        folder / WEIGHTS,
        probe,
        trunk=trunk_name(spec),
        preprocess=preprocess,
        classes=lists.classes,
    )


def _fit(run: Run, spec: str, teacher: TeacherParams, lists: Lists, aside: Path) -> None:
    from hgnetv2_pipeline.teacher.probing import fit_probe

    found = fit_probe(
        spec,
        lists.frame("train"),
        run.folder("raw"),
        classes=lists.classes,
        weights_root=run.identity.project,
        how=probe_config(teacher),
        device=known_device(run.device),
    )
    _save(aside, spec, found.probe, found.preprocess, lists)
    write_json(
        aside / PROBE_RECORD,
        {
            "trunk": spec,
            "size": found.probe.size,
            "images": found.images,
            "held_out_right": found.held_out_right,
            "l2": found.classifier.l2,
            "temperature": found.classifier.temperature,
        },
    )
    write_json(
        aside / TIMING,
        {
            "features_cpu_seconds": round(found.features_seconds, 1),
            "fit_cpu_seconds": round(found.fit_seconds, 1),
        },
    )
