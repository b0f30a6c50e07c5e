"""The table of the comparison: one row per training, those of the chain itself among them.

Of the chain: its members where they are the student's own kind, its stage 1 and its stage 2. All
are measured on the same images, those that the final evaluation is made on, so that what the images
leave uncertain can be paired.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.printable import Lines, lines
from hgnetv2_pipeline.project.evaluation import measure_run
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.manifest import read_manifest
from hgnetv2_pipeline.project.params import ComparisonParams, EvaluationParams, TeacherParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.probes import SIMPLE_PROBE
from hgnetv2_pipeline.project.teaching.teacher import RECORD, teacher_answers
from hgnetv2_pipeline.project.training.arms import arm_folders
from hgnetv2_pipeline.project.training.members import member_seed
from hgnetv2_pipeline.reporting.comparison import ARMS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

TIMING = "timing.json"


@dataclass(frozen=True)
class MeasuredArm:
    """One training of the table: its arm and seed, its folder, and its answers as parquet."""

    arm: str
    seed: int
    folder: Path
    answers: Path


def list_trainings(
    run: Run, comparison: ComparisonParams, teacher: TeacherParams
) -> list[tuple[str, int, Path]]:
    """Arm, seed and folder of every training in the table, the chain's own first."""
    seed = run.identity.seed
    runs = [(stage, seed, run.folder(f"ssld_{stage}")) for stage in ("stage1", "stage2")]
    # The members are plain students, where they are the student's own network from scratch.
    plain = teacher.arch == run.identity.variant and teacher.recipe.init == "scratch"
    if plain and not teacher.source:
        runs += [
            (
                "supervised",
                member_seed(seed, number),
                run.folder("train_teacher") / f"member={number}",
            )
            for number in range(teacher.members)
        ]
    return runs + arm_folders(run, comparison)


def measure_arms(
    run: Run,
    params: EvaluationParams,
    trainings: Sequence[tuple[str, int, Path]],
    split: str,
    lists: Lists,
) -> list[MeasuredArm]:
    """The answers of every training to the images of ``split``; each seed of an arm counts once.

    A training that gives none, as one that diverged, is left out with a warning. A member of the
    teacher that was trained by another recipe than the arm it would count in is not counted there.
    """
    recipes = {folder: _recipe(folder) for _, _, folder in trainings}
    members = run.folder("train_teacher")
    measured: dict[tuple[str, int], MeasuredArm] = {}
    for arm, seed, folder in trainings:
        if (arm, seed) in measured:
            continue
        name = folder.relative_to(run.folder("models")).as_posix()
        others = [
            recipes[its]
            for its_arm, _, its in trainings
            if its_arm == arm and not its.is_relative_to(members)
        ]
        if folder.is_relative_to(members) and recipes[folder] not in (others or [recipes[folder]]):
            _log.info("%s has a recipe of its own and is not counted as %s", name, ARMS[arm])
            continue
        try:
            _, rows = measure_run(run, params, name, split, lists)
        except WeightsError as error:
            _log.warning("%s is not in the comparison: %s", name, error)
            continue
        measured[arm, seed] = MeasuredArm(arm, seed, folder, rows)
    return list(measured.values())


def _recipe(folder: Path) -> Mapping[str, Any]:
    """What a training was made by, but for what decides nothing of its accuracy."""
    config = dict(read_manifest(folder / "manifest.json", folder)["params"]["config"])
    for name in ("threads", "workers", "head"):  # from scratch, there is no head to be kept
        config.pop(name, None)
    return config


def table_result(
    run: Run, measured: Sequence[MeasuredArm], split: str, lists: Lists, teacher: Path
) -> ResultSpec:
    """``comparison.json``: rows and paired errors."""
    inputs: dict[str, Path | str] = {"teacher": teacher / RECORD, "split": lists.index(split)}
    for each in measured:
        inputs[f"{each.arm} {each.seed}"] = each.folder / "result.json"
        inputs[f"answers of {each.arm} {each.seed}"] = each.answers
    return ResultSpec(
        folder=run.folder("comparison_report"),
        pipeline="comparison",
        inputs=inputs,
        params={"split": split},
        outputs=["comparison.json"],
    )


def write_table(
    aside: Path,
    run: Run,
    measured: Sequence[MeasuredArm],
    split: str,
    lists: Lists,
    teacher: tuple[TeacherParams, Path],
) -> None:
    """Write ``comparison.json``: a row per training with its right answers; the teacher.

    Where a probe on simple features was among the teacher's candidates, its row is the reference: a
    training that ends below it was not worth its time. Of each two arms, ``pairs`` has the error
    that the images leave in their difference, each arm being the mean of its runs.
    """
    models = run.folder("models")
    rows: list[dict[str, Any]] = []
    answers: dict[str, list[NDArray[np.bool_]]] = {}
    keys = lists.frame(split)["key"].tolist()
    for each in measured:
        right = _answers(each.answers, keys)
        answers.setdefault(each.arm, []).append(right)
        rows.append(_row(models, each, split, right))
    for arm, name, right in _untrained(run, *teacher, split, lists):
        answers[arm] = [right]
        cost = _members_cost(*teacher) if arm == "teacher" else {}
        rows.append(_counted(arm, split, name, right) | cost)
    pairs = [
        {"arms": [one, other], "split": split, "image_error": _paired(answers[one], answers[other])}
        for one, other in combinations(answers, 2)
    ]
    found = {"variant": run.identity.variant, "rows": rows, "pairs": pairs}
    write_json(aside / "comparison.json", found)


def _answers(rows: Path, keys: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each image was answered rightly; one that could not be read was not."""
    import pandas as pd

    found = pd.read_parquet(rows, columns=["key", "correct"]).set_index("key")
    return found.reindex(list(keys), fill_value=False)["correct"].to_numpy(bool)


def _paired(first: Sequence[NDArray[np.bool_]], second: Sequence[NDArray[np.bool_]]) -> float:
    import numpy as np

    from hgnetv2_pipeline.intervals import mean_difference

    return mean_difference(np.mean(first, axis=0), np.mean(second, axis=0)).error


def _untrained(
    run: Run, params: TeacherParams, folder: Path, split: str, lists: Lists
) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Arm, run id and right answers of the reference, where there is one, and of the teacher."""
    import numpy as np

    record = read_json(folder / RECORD)
    name = folder.relative_to(run.folder("models")).as_posix()
    reference = f"{name}/{SIMPLE_PROBE}"
    known = reference in record.get("candidates_top1_count", {})
    asked = dict.fromkeys([*record["members"], *([reference] if known else [])])
    found, labels = teacher_answers(run, asked, params, lists, split)
    mean = np.mean([found[member] for member in record["members"]], axis=0)
    rows = [("teacher", name, mean.argmax(axis=1) == labels)]
    if known:
        rows.insert(0, ("reference", reference, found[reference].argmax(axis=1) == labels))
    return rows


def _members_cost(params: TeacherParams, folder: Path) -> dict[str, Any]:
    """What training the members of a teacher took, all of them together; none is trained of ready
    weights and probes.
    """
    members = [] if params.source else [folder / f"member={n}" for n in range(params.members)]
    costs = [training_cost(member) for member in members]
    if not costs:
        return {}
    summed = {name: sum(cost[name] for cost in costs) for name in ("steps", "images_seen")}
    seconds = [cost["seconds"] for cost in costs]
    known = None not in seconds
    processor = costs[0]["processor"] if known else None
    return {**summed, "seconds": sum(seconds) if known else None, "processor": processor}


def training_cost(folder: Path) -> dict[str, Any]:
    """Steps and images of a training, and the seconds of its processor where they are known."""
    result = read_json(folder / "result.json")
    found = {name: result[name] for name in ("steps", "images_seen")}
    try:
        segments = read_json(folder / TIMING)["segments"]
        seconds = round(sum(segment["processor_seconds"] for segment in segments), 1)
        return {**found, "seconds": seconds, "processor": segments[-1]["processor"]}
    except (OSError, ValueError, LookupError, TypeError):
        # Its times are no part of a result: they may be damaged, gone or of an earlier version.
        return {**found, "seconds": None, "processor": None}


def kept_weights(folder: Path) -> dict[str, Any]:
    """Which evaluation gave a training its weights (best or last), of how many, and by how much (a
    share of val) that one is above the last.
    """
    import pandas as pd

    history = pd.read_csv(folder / "history.csv")
    scores = history[[name for name in ("val_top1", "val_top1_ema") if name in history]]
    best = scores.dropna(how="all").max(axis=1).to_numpy(float)
    kept = _recipe(folder).get("keep", "best")
    above = float(best.max() - best[-1]) if kept == "best" else 0.0
    return {"kept": kept, "evaluations": len(best), "above_last": above}


def _counted(arm: str, split: str, name: str, right: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "arm": arm,
        "label": ARMS[arm],
        "seed": None,
        "steps": None,
        "images_seen": None,
        "seconds": None,
        "processor": None,
        "split": split,
        "top1_count": int(right.sum()),
        "n": len(right),
        "run": name,
    }


def _row(models: Path, each: MeasuredArm, split: str, right: NDArray[np.bool_]) -> dict[str, Any]:
    counted = _counted(each.arm, split, each.folder.relative_to(models).as_posix(), right)
    trained = training_cost(each.folder) | kept_weights(each.folder)
    # The seed of a member is derived, a number of ten digits that nobody typed.
    member = each.folder.name.startswith("member=")
    seed = each.folder.name.replace("=", " ") if member else each.seed
    return {**counted, "seed": seed, **trained}


def describe_comparison(file: Path, model: str) -> Lines:
    """The table, what its differences mean, and whether a training beats ``model`` on val."""
    from hgnetv2_pipeline.reporting.comparison import better_training, explain_arms, summarise_arms
    from hgnetv2_pipeline.reporting.terminal import summary_rows, terminal_table

    found = read_json(file)
    summaries = summarise_arms(found["rows"], found["pairs"])
    better = better_training(found["rows"], model)
    table = terminal_table(summary_rows(summaries))
    return lines(table, *explain_arms(summaries), *([better] if better else []))
