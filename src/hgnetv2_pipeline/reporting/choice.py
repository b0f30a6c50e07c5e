"""Which model is used and why, in words, from the ``choice.json`` of the best model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Block, Bullets, Table, Text, table_of
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs

Json = Mapping[str, Any]
_OPTIMISM = (
    "The choice was made once, on val; the test set was not looked at. The figure on val of the "
    "model that was chosen is a little too high, since it was chosen by that figure."
)
METRICS = {"top1": "top-1", "map": "mAP"}


def explain_choice(choice: Json) -> list[str]:
    """What is used, why, and which stage of SSLD is not, in sentences."""
    by_run = {each["run"]: each for each in choice["candidates"]}
    used, leader = used_candidate(choice), by_run[choice["leader"]]
    n, metric = choice["n"], METRICS[choice["metric"]]
    counted = "" if used["right"] is None else f" ({used['right']} of {n} right)"
    said = [
        f"Used: {used['label']}, run {used['run']}, seed {used['seed']}, {used['weights']} "
        f"weights: {metric} {formats.percent(used['value'], n)} % on {choice['split']}{counted}. "
        + _why(choice, used, leader)
    ]
    passed_over = choice["candidates"][: choice["candidates"].index(used)]
    said += [_not_used(each, leader, choice) for each in passed_over]
    return said + [f"{run} is not used: {why}." for run, why in choice["left_out"].items()]


def _why(choice: Json, used: Json, leader: Json) -> str:
    if len(choice["candidates"]) == 1:
        return "There is no other candidate."
    if used is leader:
        return "No other candidate is more accurate there."
    limit = choice["standard_errors"]
    errors = "one standard error" if limit == 1 else f"{limit:g} standard errors"
    return (
        f"The most accurate there is {leader['label']}, by {_sized(used, choice['n'])} points; "
        f"that is within {errors}, so the one that is preferred stays."
    )


def _not_used(passed: Json, leader: Json, choice: Json) -> str:
    amount = f"{_sized(passed, choice['n'])} points"
    metric, split = METRICS[choice["metric"]], choice["split"]
    if passed["arm"] == "stage2" and leader["arm"] == "stage1":
        return (
            f"{passed['label']} lowered {metric} on {split} by {amount} against {leader['label']}, "
            "and is not used."
        )
    return (
        f"{passed['label']} is {amount} of {metric} below {leader['label']} on {split}, and is not "
        "used."
    )


def _sized(candidate: Json, n: int) -> str:
    """How far a candidate is behind the most accurate one, with its standard error."""
    behind = formats.percent(candidate["behind"], n)
    return f"{behind} ± {formats.percent(candidate['error'], n)}"


def choice_rows(choice: Json) -> list[dict[str, str]]:
    """The candidates as short rows, in their order of preference."""
    n, metric = choice["n"], METRICS[choice["metric"]]
    return [
        {
            "candidate": str(each["run"]),
            "training": str(each["label"]),
            "weights": str(each["weights"]),
            f"{metric} %": formats.percent(each["value"], n),
            "behind": formats.percent(each["behind"], n),
            "+/-": formats.percent(each["error"], n),
            "used": "yes" if each["run"] == choice["used"] else "no",
        }
        for each in choice["candidates"]
    ]


def choice_table(choice: Json) -> Table:
    """The candidates, as they were compared."""
    records = choice_rows(choice)
    return table_of(
        records, list(records[0]), left=("candidate", "training", "weights"), code=("candidate",),
        caption=f"Candidates on {choice['split']} ({formats.count(choice['n'])} images); behind: "
        "points below the most accurate, with the standard error of the paired difference",
    )  # fmt: skip


def read_choice(inputs: ReportInputs, ledger: FileLedger) -> dict[str, Any] | None:
    """The choice of the model that the report is about; None where that was named, not chosen.

    Raises:
        AbsentError: it was chosen, and the file that says how is missing or cannot be read.
        DataError: the file is about another model, or does not name the candidate that is used.
    """
    if not inputs.model.startswith("best/"):
        return None
    found = ledger.read_json(inputs.own.get("choice"), "choice of the best model")
    if found.get("model") != inputs.model:
        raise DataError(f"the choice is that of {found.get('model')}, not of {inputs.model}")
    runs = [each["run"] for each in found["candidates"]]
    if not {found["used"], found["leader"]} <= {*runs}:
        raise DataError(f"{found['used']} or {found['leader']} is none of the candidates")
    return found


def used_candidate(choice: Json) -> Json:
    """The candidate that became the best model."""
    found: Json = next(each for each in choice["candidates"] if each["run"] == choice["used"])
    return found


def choice_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """What is used and why, and every candidate; nothing where the model was named."""
    choice = read_choice(inputs, ledger)
    if choice is None:
        return []
    used = used_candidate(choice)
    other = str(used["command"]).replace(str(used["run"]), "CANDIDATE")
    return [
        Bullets((*explain_choice(choice), _OPTIMISM)),
        choice_table(choice),
        Text(f"To use another one: {other}"),
    ]
