"""Each training as a run of its own: named as in the report, with its curves and its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.differences import flatten
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.experiment.headline import images_per_second
from hgnetv2_pipeline.project.experiment.images import inputs_of
from hgnetv2_pipeline.project.experiment.names import STAGES, training_name
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.tracking import Tracker
from hgnetv2_pipeline.project.training.arms import ARMS as FOLDERS_OF_ARMS
from hgnetv2_pipeline.reporting.comparison import ARMS

# The parameters that an arm of the comparison is made by.
_RECIPES = {"stage1": "ssld_stage1", "stage1_unmined": "ssld_stage1", "stage2": "ssld_stage2"}


def trainings_below(folder: Path) -> Iterator[Path]:
    """The finished trainings that ``folder`` is or holds."""
    for each in (folder, *sorted(folder.iterdir())):
        if all((each / name).is_file() for name in ("result.json", "history.csv", "manifest.json")):
            yield each


def _name(folder: Path, seed: int) -> str:
    """What the report calls the training in ``folder``, and its seed."""
    if folder.name.startswith("member="):
        return training_name(f"teacher member {folder.name.removeprefix('member=')}", seed)
    return training_name(_arm_of(folder)[0], seed)


def _arm_of(folder: Path) -> tuple[str, str]:
    """What a training is called without its seed, and which parameters are its recipe."""
    for arm, (prefix, _) in FOLDERS_OF_ARMS.items():
        if folder.name.startswith(f"{prefix},seed="):
            return ARMS[arm], _RECIPES.get(arm, "train")
    stage = folder.parent.parent.name
    return STAGES.get(stage, stage), stage


def record_training(
    tracker: Tracker, folder: Path, identity: Identity, usual: Mapping[str, Any]
) -> None:
    """The finished training in ``folder``, whoever trained it, as a run below the command's.

    ``usual``: the parameters of ``conf/base``; of the recipe what differs from them is recorded.
    """
    result, made = read_json(folder / "result.json"), read_json(folder / "manifest.json")
    tracker.begin(folder)  # in the run of the process that trained it, if that died too early
    run = tracker.child(_name(folder, result["seed"]), folder, seconds=training_seconds(folder))
    run.history(folder / "history.csv")
    run.metrics(_figures(folder, result))
    own = made["params"]
    run.params({"variant": own["variant"], "seed": own["seed"], "device": own["device"]})
    run.params(_recipe(folder, own["config"], usual))
    run.inputs(inputs_of(identity, set(made["inputs"].values())))
    run.tags(
        {
            f"forced_at_step_{forced['step']}": "; ".join(forced["changed"])
            for forced in result.get("forced_resumes", [])
        }
    )
    tracker.close(run, folder)


def training_seconds(folder: Path) -> float:
    """How long a training took, over all its parts; 0 where that is not known."""
    timing = folder / "timing.json"
    segments = read_json(timing)["segments"] if timing.is_file() else []
    return float(sum(each["training"] + each["evaluating"] for each in segments))


def _figures(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    names = ("steps", "images_seen", "best_step", "parameters")
    speed = {"images_per_second": images_per_second(folder), "seconds": training_seconds(folder)}
    val = result.get("val") or {}
    final = {f"final_val_{name}": val[name] for name in ("top1", "map") if name in val}
    return {name: result[name] for name in names if name in result} | speed | final


def _recipe(folder: Path, config: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What sets the recipe off from that of ``conf/base``."""
    if folder.name.startswith("member="):
        base = usual["train_teacher"]["recipe"]
    else:
        base = usual.get(_arm_of(folder)[1], {})
    known = flatten(base)
    return {name: value for name, value in flatten(config).items() if known.get(name) != value}
