"""The best model as a result: who the candidates are, what each answers on val, which is used.

The chosen weights become the run ``best/<variant>/<run>``, byte for byte, so that whatever takes a
run takes them; ``choice.json`` beside them says where they come from and why. The test set is not
read here.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json, sha256_file, write_aside, write_json
from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.printable import lines
from hgnetv2_pipeline.project.evaluation import measure_run
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.manifest import DamagedError, read_manifest
from hgnetv2_pipeline.project.params import (
    BestParams,
    ComparisonParams,
    EvaluationParams,
    TeacherParams,
)
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import RECORD
from hgnetv2_pipeline.project.training.arms_table import list_trainings
from hgnetv2_pipeline.reporting.comparison import ARMS

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.intervals import PairedDifference

_log = logging.getLogger(__name__)

CHOICE = "choice.json"
_STUDENT = "student.safetensors"
# In the order of preference: what the product is about, the last stage first; then the trainings
# that it has to beat. The labels of the others are the comparison's.
_PREFERRED = {
    "stage2": ARMS["stage2"],
    "stage1": ARMS["stage1"],
    "finetune": "fine-tuning",
    "train": "supervised training",
    "supervised": ARMS["supervised"],
    "supervised_equal_steps": ARMS["supervised_equal_steps"],
    "stage1_unmined": ARMS["stage1_unmined"],
}


@dataclass(frozen=True)
class Candidate:
    """A finished training that may be used: how it was trained, and its run id."""

    arm: str
    seed: int
    run: str
    folder: Path


@dataclass(frozen=True)
class Measurement:
    """A candidate's evaluation on val: its counts as JSON, its answers as parquet."""

    candidate: Candidate
    counts: Path
    rows: Path


def find_candidates(
    run: Run, comparison: ComparisonParams, teacher: TeacherParams, lists: Lists
) -> tuple[list[Candidate], dict[str, str]]:
    """The finished trainings of this variant and run, in the order of preference.

    One for each way of training: that with the run's own seed, else the lowest; the best of several
    seeds would look better than it is. Those that were trained on other images than today's are
    left out: the second value has the reason by run id.

    Raises:
        DataError: there is none.
    """
    models, seed = run.folder("models"), run.identity.seed
    trainings = list_trainings(run, comparison, teacher)
    trainings += [(name, seed, run.folder(name)) for name in ("finetune", "train")]

    def place(training: tuple[str, int, Path]) -> tuple[bool, bool, int]:
        """The run's own seed, then others; members of the teacher last, by their numbers."""
        _, its_seed, folder = training
        member = folder.name.startswith("member=")
        return its_seed != seed, member, 0 if member else its_seed

    found: dict[str, Candidate] = {}
    left_out: dict[str, str] = {}
    for arm, its_seed, folder in sorted(trainings, key=place):
        if arm in found or not (folder / _STUDENT).is_file():
            continue
        name = folder.relative_to(models).as_posix()
        if why := _why_not(run, arm, folder, lists):
            left_out[name] = why
        else:
            found[arm] = Candidate(arm, its_seed, name, folder)
    if not found:
        others = "".join(f"; {name} is left out: {why}" for name, why in left_out.items())
        raise DataError(
            f"no finished training of {run.identity.variant}, run {run.identity.run}, of dataset "
            f"{run.identity.dataset} to choose the best model from: {run.identity.run_command} "
            f"--pipeline best trains what it needs{others}"
        )
    return [found[arm] for arm in _PREFERRED if arm in found], left_out


def _why_not(run: Run, arm: str, folder: Path, lists: Lists) -> str | None:
    """Why a training is not to be compared with the others; None where it is."""
    try:
        manifest = read_manifest(folder / "manifest.json", folder)
    except FileNotFoundError:
        return "it is not finished"
    except DamagedError as error:
        return str(error)
    images = {
        "stage1": run.folder("mining") / "train_mined.parquet",
        "stage1_unmined": run.folder("comparison") / "train_unmined.parquet",
    }.get(arm) or lists.index("train")
    now = {
        "val": lists.index("val"),
        "train": images,
        "teacher": run.folder("train_teacher") / RECORD,
    }
    for role, before in manifest["inputs"].items():
        path = now.get(role)
        if path is not None and (not path.is_file() or run.reuse.digest(path) != before):
            what = "teacher" if role == "teacher" else f"list of {role} images"
            return f"it was trained with another {what} than today's"
    return None


def measure_candidates(
    run: Run, params: EvaluationParams, candidates: Sequence[Candidate], lists: Lists
) -> tuple[list[Measurement], dict[str, str]]:
    """Evaluate each candidate on val, as ``--pipeline evaluation`` would.

    The second value has the reason, by run id, of each that gives no answers.

    Raises:
        WeightsError: of the last candidate, if none gives answers.
    """
    measured: list[Measurement] = []
    left_out: dict[str, str] = {}
    for candidate in candidates:
        try:
            counts, rows = measure_run(run, params, candidate.run, "val", lists)
        except WeightsError as error:
            left_out[candidate.run] = str(error)
            if len(left_out) == len(candidates):
                raise
            continue
        measured.append(Measurement(candidate, counts, rows))
    return measured, left_out


def choice_result(
    run: Run,
    params: BestParams,
    measured: Sequence[Measurement],
    left_out: Mapping[str, str],
    lists: Lists,
) -> ResultSpec:
    """The run ``best/<variant>/<run>``: weights, and ``choice.json``."""
    inputs: dict[str, Path | str] = {"val": lists.index("val")}
    for each in measured:
        inputs[f"weights of {each.candidate.run}"] = each.candidate.folder / _STUDENT
        inputs[f"answers of {each.candidate.run}"] = each.rows
    return ResultSpec(
        folder=run.folder("best"),
        pipeline="best",
        inputs=inputs,
        params={
            "candidates": [each.candidate.run for each in measured],
            "left_out": dict(left_out),
            "standard_errors": params.standard_errors,
            "run_command": run.identity.run_command,
        },
        outputs=[_STUDENT, CHOICE],
    )


def write_choice(
    aside: Path,
    run: Run,
    params: BestParams,
    measured: Sequence[Measurement],
    left_out: Mapping[str, str],
) -> None:
    """Apply the rule, copy the weights that are used, and write ``choice.json``."""
    from hgnetv2_pipeline.evaluation.choice import choose_model
    from hgnetv2_pipeline.reporting.choice import explain_choice

    counts = [read_json(each.counts) for each in measured]
    several = counts[0].get("task") == "multi_label"
    metric = "map" if several else "top1"
    values = [float(each[metric]) for each in counts]
    difference = paired_differences(
        {each.candidate.run: each.rows for each in measured},
        counts[0]["classes"] if several else None,
    )
    found = choose_model(values, difference, standard_errors=params.standard_errors)
    candidates = []
    for each, count, value, behind in zip(measured, counts, values, found.behind, strict=True):
        candidate = each.candidate
        candidates.append(
            {
                "run": candidate.run,
                "arm": candidate.arm,
                "label": _PREFERRED[candidate.arm],
                "seed": candidate.seed,
                "weights": read_json(candidate.folder / "result.json")["weights"],
                "sha256": sha256_file(candidate.folder / _STUDENT),
                "value": value,
                "right": count.get("top1_count"),
                "behind": behind.value,
                "error": behind.error,
                "command": f"{run.identity.run_command} --pipelines evaluation,export,latency "
                f"--params model={candidate.run}",
            }
        )
    used, leader = measured[found.used].candidate, measured[found.leader].candidate
    choice = {
        "model": run.identity.relative("best").removeprefix(f"{run.identity.relative('models')}/"),
        "used": used.run,
        "leader": leader.run,
        "metric": metric,
        "split": "val",
        "n": counts[0]["n_listed"],
        "standard_errors": params.standard_errors,
        "candidates": candidates,
        "left_out": dict(left_out),
    }
    with write_aside(aside / _STUDENT) as copy:
        shutil.copyfile(used.folder / _STUDENT, copy)
    write_json(aside / CHOICE, {**choice, "reasons": explain_choice(choice)})


def paired_differences(
    answers: Mapping[str, Path], classes: Sequence[str] | None
) -> Callable[[int, int], PairedDifference]:
    """The difference of two models by their places in ``answers``, the rows of their evaluations by
    name; ``classes`` where an image has several.

    Raises:
        DataError: they answered different images.
    """
    from hgnetv2_pipeline.evaluation.choice import map_difference
    from hgnetv2_pipeline.intervals import top1_difference

    rows = [_answers(path) for path in answers.values()]
    names = list(answers)
    for name, frame in zip(names, rows, strict=True):
        if not frame.index.equals(rows[0].index):
            raise DataError(
                f"{name} and {names[0]} answered different val images, so that they cannot be "
                "compared: kedro run --params redo=evaluation"
            )

    def difference(first: int, second: int) -> PairedDifference:
        if classes is None:
            return top1_difference(
                rows[first]["correct"].to_numpy(bool), rows[second]["correct"].to_numpy(bool)
            )
        ours, theirs = (_scores(rows[place]) for place in (first, second))
        return map_difference(ours, theirs, _truth(rows[0], len(classes)))

    return difference


def _answers(path: Path) -> pd.DataFrame:
    """The rows of an evaluation by key, in the order of the keys."""
    import pandas as pd

    return pd.read_parquet(path).set_index("key").sort_index()


def _scores(rows: pd.DataFrame) -> Any:
    """The probabilities of several classes as float64 [N, C]."""
    import numpy as np

    return np.stack([np.asarray(value, np.float64) for value in rows["probs"]])


def _truth(rows: pd.DataFrame, classes: int) -> Any:
    """The labels of several classes as 0 or 1, int64 [N, C]."""
    import numpy as np

    truth = np.zeros((len(rows), classes), np.int64)
    for place, labels in enumerate(rows["labels"]):
        truth[place, np.asarray(labels, np.int64)] = 1
    return truth


def log_choice(folder: Path) -> None:
    """Log the candidates as a table, which is used, and why."""
    from hgnetv2_pipeline.reporting.choice import choice_rows
    from hgnetv2_pipeline.reporting.terminal import terminal_table

    choice = read_json(folder / CHOICE)
    table = terminal_table(choice_rows(choice))
    for name, why in choice["left_out"].items():
        _log.warning("%s is no candidate for the best model: %s", name, why)
    _log.info("the best model\n%s", lines(table, *choice["reasons"]))


def chosen_run(folder: Path) -> str | None:
    """The run whose weights ``folder`` holds, where it is one that was chosen; else None."""
    file = folder / CHOICE
    return str(read_json(file)["used"]) if file.is_file() else None
