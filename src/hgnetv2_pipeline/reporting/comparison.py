"""The honest table: what SSLD gained over plain training, with how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats

ARMS = {
    "reference": "logistic regression on simple features",
    "supervised": "supervised only",
    "supervised_equal_steps": "supervised, as many steps as all of SSLD",
    "stage1_unmined": "SSLD stage 1, whole pool unmined",
    "stage1": "SSLD stage 1, mined",
    "stage2": "SSLD stage 2",
    "teacher": "teacher (mean of its members)",
}
UNTRAINED = ("reference", "teacher")
"""Rows that are no training of the student's network."""
_UNSEEN = 2.0  # times the pooled spread, for an arm of a single run


@dataclass(frozen=True)
class ArmSummary:
    """All runs of one arm on one split. Accuracies are shares, errors too."""

    arm: str
    label: str
    split: str
    n: int  # images each run was counted on
    top1: tuple[float, ...]  # a value per run
    seeds: tuple[str, ...]
    steps: tuple[int, ...]
    images_seen: tuple[int, ...]
    seconds: float | None
    """Of its processor, the mean of the runs; of a teacher those of all its members together."""
    processor: str | None  # CPU or GPU
    kept: str | None
    """Which evaluation on val gave the weights, such as 'best of 24'; None where it is unknown."""
    above_last: float | None
    """Share by which that one is above the last, the mean of the runs; None where val did not
    choose among several, or is not the split."""
    image_errors: Mapping[str, float]
    """Of the difference to another arm, paired over the images; by that arm."""
    spread: tuple[float, int] | None
    """Standard deviation over seeds that each of its trainings is taken to have, and the degrees of
    freedom behind it; None where no arm of the split has several runs."""

    @property
    def mean(self) -> float:
        return math.fsum(self.top1) / len(self.top1)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for one run."""
        return intervals.deviation(self.top1)


@dataclass(frozen=True)
class Difference:
    """One arm against another: what the images and what the seeds leave uncertain; shares."""

    gain: float
    image_error: float
    image_degrees: float
    seed_error: float | None
    seed_degrees: float

    @property
    def error(self) -> float | None:
        """Both standard errors together; None where that of the seeds is unknown."""
        return None if self.seed_error is None else math.hypot(self.image_error, self.seed_error)

    @property
    def margin(self) -> float | None:
        """Half of the 95 % interval of the gain; None where it is unknown.

        Each error gets the quantile of Student's t for its own degrees of freedom, and the two
        halves are added as squares (G. Y. Zou and A. Donner, "Construction of confidence limits
        about effect measures", Statistics in Medicine 27, 2008). One t for the sum, with degrees of
        freedom by Satterthwaite, is too narrow: two runs that chance to agree hide the seeds.
        """
        if self.seed_error is None:
            return None
        return math.hypot(
            intervals.t_quantile(self.image_degrees) * self.image_error,
            intervals.t_quantile(self.seed_degrees) * self.seed_error,
        )

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside the 95 % interval; never where that is unknown."""
        return self.margin is not None and abs(self.gain) > self.margin


def summarise_arms(
    rows: Iterable[Mapping[str, Any]], pairs: Iterable[Mapping[str, Any]] = ()
) -> list[ArmSummary]:
    """Rows of the comparison JSON (arm, label, seed, steps, images_seen, split, top1_count, n, run;
    seconds, processor, kept, evaluations and above_last where they are known) as one summary
    per arm and split, in the order of ``ARMS``.

    ``pairs`` are those of the same JSON (arms, split, image_error). Of arms that are not paired
    there, the error of the images is that of two binomials, which is on the careful side.

    Raises:
        DataError: a row lacks a field, a count exceeds its n, a seed of an arm is there twice, or
            runs of one arm were counted on different numbers of images or made different numbers of
            steps, so that their mean would mean nothing.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for place, row in enumerate(rows, start=1):
        missing = [name for name in ("arm", "split", "top1_count", "n") if row.get(name) is None]
        if missing:
            raise DataError(f"comparison row {place} has no {', '.join(missing)}")
        if not 0 <= int(row["top1_count"]) <= int(row["n"]) or int(row["n"]) == 0:
            raise DataError(
                f"comparison row {place} ({row['arm']}, run {row.get('run')}) counts "
                f"{row['top1_count']} right of {row['n']} images"
            )
        groups.setdefault((str(row["split"]), str(row["arm"])), []).append(row)
    if not groups:
        raise DataError("the comparison has no rows")
    order = list(ARMS)

    def place_of(key: tuple[str, str]) -> tuple[str, int]:
        return key[0], order.index(key[1]) if key[1] in ARMS else len(order)

    errors: dict[tuple[str, str], dict[str, float]] = {}
    for pair in pairs:
        for one, other in (pair["arms"], reversed(pair["arms"])):
            errors.setdefault((pair["split"], one), {})[other] = float(pair["image_error"])
    shares = {key: _shares(group) for key, group in groups.items()}
    trained = {
        split: [
            values
            for (its_split, arm), values in shares.items()
            if its_split == split and arm not in UNTRAINED
        ]
        for split, _ in groups
    }
    return [
        _summary(
            arm, split, groups[split, arm], errors.get((split, arm), {}),
            _spread(shares[split, arm], trained[split]),
        )
        for split, arm in sorted(groups, key=place_of)
    ]  # fmt: skip


def _spread(
    own: tuple[float, ...], trained: Sequence[tuple[float, ...]]
) -> tuple[float, int] | None:
    """What seeds do to an arm of the runs ``own``, from the runs of all ``trained`` arms.

    Seeds may move one training twice as much as another. Two or three runs do not show which, so
    an arm is taken to spread like the arm that spreads most; of a single run nothing is seen, and
    it gets twice the pooled deviation at least. Narrower rules call chance a gain too often
    (``benchmarks/simulate_comparison.py``).
    """
    pooled = intervals.pooled_deviation(trained)
    if pooled is None:
        return None
    deviation, degrees = pooled
    most = max(each for runs in trained if (each := intervals.deviation(runs)) is not None)
    return (most if len(own) > 1 else max(most, _UNSEEN * deviation)), degrees


def _shares(rows: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    return tuple(int(row["top1_count"]) / int(row["n"]) for row in rows)


def _summary(
    arm: str,
    split: str,
    rows: Sequence[Mapping[str, Any]],
    image_errors: Mapping[str, float],
    spread: tuple[float, int] | None,
) -> ArmSummary:
    sizes = sorted({int(row["n"]) for row in rows})
    if len(sizes) > 1:
        raise DataError(
            f"runs of '{arm}' on {split} were counted on different numbers of images "
            f"({', '.join(map(str, sizes))}); evaluate all of them on the same list"
        )
    steps = _distinct(rows, "steps")
    if len(steps) > 1:
        raise DataError(
            f"runs of '{arm}' made different numbers of steps ({', '.join(map(str, steps))}); they "
            "are not one arm: train them by one recipe"
        )
    seeds = [row["seed"] for row in rows if row.get("seed") is not None]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise DataError(f"seed {twice} of '{arm}' on {split} is there twice; each counts once")
    ordered = sorted(rows, key=lambda row: (str(row.get("seed")), str(row.get("run"))))
    labels = sorted({str(row["label"]) for row in rows if row.get("label")})
    return ArmSummary(
        arm=arm,
        label=labels[0] if len(labels) == 1 else ARMS.get(arm, arm),
        split=split,
        n=sizes[0],
        top1=_shares(ordered),
        seeds=tuple(formats.words(row.get("seed")) for row in ordered),
        steps=steps,
        images_seen=_distinct(ordered, "images_seen"),
        seconds=_mean_of(row.get("seconds") for row in ordered),
        processor=next((row["processor"] for row in ordered if row.get("processor")), None),
        kept=_kept(ordered),
        above_last=_mean_of(
            row.get("above_last") if split == "val" and _val_chose(row) else None for row in ordered
        ),
        image_errors=image_errors,
        spread=spread,
    )


def _val_chose(row: Mapping[str, Any]) -> bool:
    return bool(row.get("kept", "best") == "best" and row.get("evaluations", 1) > 1)


def _kept(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """'best of 24', 'last'; of runs that differ, the best of the most evaluations."""
    chosen = [row["evaluations"] for row in rows if _val_chose(row)]
    if chosen:
        return f"best of {max(chosen)}"
    return "last" if all(row.get("evaluations") for row in rows) else None


def _mean_of(values: Iterable[float | None]) -> float | None:
    """Their mean; None where one of them is not known."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    return math.fsum(numbers) / len(numbers) if len(numbers) == len(known) else None


def _distinct(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[int, ...]:
    return tuple(sorted({int(row[name]) for row in rows if row.get(name) is not None}))


def difference(first: ArmSummary, second: ArmSummary) -> Difference:
    """``first`` minus ``second``, of one split.

    The error of the images does not shrink with more seeds, since all of them saw the same images.
    That of the seeds is the spread of a training, over the root of an arm's runs; arms that are no
    training (a teacher is taken as given) have none.
    """
    image_error = first.image_errors.get(second.arm)
    if image_error is None:
        image_error = math.hypot(
            *(intervals.share_error(arm.mean, arm.n) for arm in (first, second))
        )
    trained = [arm for arm in (first, second) if arm.arm not in UNTRAINED]
    spreads = [(*arm.spread, len(arm.top1)) for arm in trained if arm.spread is not None]
    if not trained:
        seed_error, degrees = 0.0, math.inf
    elif not spreads:
        seed_error, degrees = None, math.nan
    else:
        seed_error = math.hypot(*(deviation / math.sqrt(runs) for deviation, _, runs in spreads))
        degrees = spreads[0][1]
    images = max(first.n - 1, 1)
    return Difference(first.mean - second.mean, image_error, images, seed_error, degrees)


def compared_with(summaries: Sequence[ArmSummary]) -> ArmSummary | None:
    """The arm that the gains of a table are measured against.

    Supervised training of as many steps as the whole chain where there is one, for a shorter one is
    no fair peer; else the shorter one.
    """
    arms = {summary.arm: summary for summary in summaries}
    return arms.get("supervised_equal_steps") or arms.get("supervised")


def _mean(arm: ArmSummary) -> str:
    return f"{formats.percent(arm.mean, arm.n)} %"


def sized(given: Difference, n: int) -> str:
    """A gain with how sure it is, in words."""
    gain = f"{formats.points(given.gain, n)} points"
    if given.margin is None:
        images = formats.percent(given.image_error, n)
        return f"{gain}, standard error of the images {images}, of the seeds unknown"
    return f"{gain}, 95 % interval ± {formats.percent(given.margin, n)}"


def explain_arms(summaries: Sequence[ArmSummary]) -> list[str]:
    """What the table means, in sentences; one split only."""
    arms = {summary.arm: summary for summary in summaries}
    student = arms.get("stage1")
    last = arms.get("stage2") or student
    said = []
    if student and "supervised_equal_steps" in arms:
        said.append(_equal_steps(student, arms["supervised_equal_steps"], _chain_cost(arms)))
    if last and "reference" in arms:
        below = last.mean < arms["reference"].mean
        said.insert(0 if below else len(said), _reference(last, arms["reference"]))
    if student and "supervised" in arms:
        said.append(_gain(student, arms["supervised"]))
    if student and "stage1_unmined" in arms:
        said.append(mining_gain(student, arms["stage1_unmined"]))
    if student and "stage2" in arms:
        said.append(_stage2(arms["stage2"], student))
    if student and "teacher" in arms:
        said.append(_teacher(student, arms["teacher"]))
    trained = [summary for summary in summaries if summary.arm not in UNTRAINED]
    if trained and trained[0].spread is None:
        said.append(
            "Each training was run once, so how much another seed would change is unknown, and no "
            "difference between trainings is called clear. Two more seeds of stage 1, as a rule, "
            "settle it: --pipeline comparison --params comparison.stage1_seeds=1+2"
        )
    elif any(len(summary.top1) < 2 for summary in trained):
        said.append(
            "Some rows are of a single run: another seed is taken to change them by at least twice "
            "the spread of those with several."
        )
    flattered = [summary for summary in trained if summary.above_last is not None]
    if flattered:
        most = max(flattered, key=lambda summary: summary.above_last or 0)
        said.append(
            "Val chose the epoch of these trainings and measures them as well, which flatters: the "
            f"best evaluation is up to {formats.percent(most.above_last, most.n)} points above the "
            f"last ({most.label}). A test set does not (data.test, data.split.test)."
        )
    return said


def better_training(
    rows: Sequence[Mapping[str, Any]], model: str, run_command: str = "kedro run"
) -> str | None:
    """Which training has more right on val than ``model``, in a sentence; None where none has.

    ``model`` is the run that is evaluated, exported and timed. Raises what a row without counts
    raises.
    """
    runs = [row for row in rows if row["arm"] not in UNTRAINED and row["split"] == "val"]
    ours = next((row for row in runs if row["run"] == model), None)
    best = max(runs, key=lambda row: int(row["top1_count"]), default=None)
    if ours is None or best is None or best["top1_count"] <= ours["top1_count"]:
        return None
    return (
        f"The most accurate on val is not the model that is exported: {best['run']} "
        f"({best['label']}) has {best['top1_count']} of {best['n']} right, {model} "
        f"{ours['top1_count']}. To take it: {run_command} --pipeline export --params "
        f"model={best['run']} (evaluation, latency and prediction likewise)."
    )


def _reference(last: ArmSummary, reference: ArmSummary) -> str:
    """Whether the chain was worth more than what takes seconds."""
    given = difference(last, reference)
    said = f"{reference.label} reaches {_mean(reference)} in seconds, {last.label} {_mean(last)} "
    said = f"{said[0].upper()}{said[1:]}({sized(given, last.n)})."
    if given.gain >= 0:
        return said
    return (
        f"{said} A chain that ends below it is not worth its time: train longer, label more images "
        "or take another teacher (docs/teachers.md)."
    )


def _gain(student: ArmSummary, plain: ArmSummary) -> str:
    given = difference(student, plain)
    runs = f"{len(student.top1)} seeds" if len(student.top1) > 1 else "one run"
    text = (
        f"SSLD stage 1 reaches {_mean(student)} ({runs}) where plain training on the labelled "
        f"images alone reaches {_mean(plain)}: {sized(given, student.n)}."
    )
    if given.margin is None:
        return text + " With one run of each, no gain is shown."
    if not given.clear:
        return text + " That is within the noise: no gain is shown."
    if min(student.top1) > max(plain.top1):
        return text + " The worst stage-1 run is above the best supervised one."
    return text + " The two groups of runs overlap, so a single run may show the opposite."


def cost(arms: Sequence[ArmSummary]) -> str:
    """Steps of one training of each arm, with the seconds of their processor where known: '480
    steps, 95 CPU s'.
    """
    said = f"{formats.count(sum(max(arm.steps, default=0) for arm in arms))} steps"
    seconds = [arm.seconds for arm in arms if arm.seconds is not None]
    if not seconds or len(seconds) < len(arms) or len({arm.processor for arm in arms}) > 1:
        return said
    return f"{said}, {formats.count(math.fsum(seconds))} {arms[0].processor} s"


def _chain_cost(arms: Mapping[str, ArmSummary]) -> str | None:
    """What the chain's own trainings took; None where its teacher was ready or a stage lacks."""
    parts = [arms.get(name) for name in ("teacher", "stage1", "stage2")]
    known = [part for part in parts if part is not None and part.steps]
    return cost(known) if len(known) == len(parts) else None


def _equal_steps(student: ArmSummary, longer: ArmSummary, chain: str | None) -> str:
    given = difference(student, longer)
    if given.clear and given.gain > 0:
        lead = "Training longer does not explain it"
    elif given.clear:
        lead = "Training longer does better than SSLD here"
    elif given.margin is None:
        lead = "Whether training longer explains it is open, with one run of each"
    else:
        lead = "Training longer may explain it"
    return (
        f"{lead}: plain training with as many steps as the whole SSLD run ({cost([longer])}"
        f"{f'; teacher and both stages {chain}' if chain else ''}) reaches {_mean(longer)}; "
        f"stage 1 against it {sized(given, student.n)}."
    )


def mining_gain(student: ArmSummary, unmined: ArmSummary) -> str:
    """What mining added to the accuracy, in a sentence."""
    given = difference(student, unmined)
    same = bool(student.steps) and student.steps == unmined.steps
    steps = "in the same number of steps" if same else "in its own number of steps"
    if given.clear and given.gain > 0:
        lead = "Mining pays"
    elif given.clear:
        lead = "Mining costs accuracy here"
    else:
        lead = "What mining adds is within the noise"
    return (
        f"{lead}: distilled from the whole pool, unmined, {steps}, the student reaches "
        f"{_mean(unmined)}; mined against that {sized(given, student.n)}."
    )


def _stage2(second: ArmSummary, first: ArmSummary) -> str:
    given = difference(second, first)
    if given.clear and given.gain > 0:
        lead = "Stage 2 gains over stage 1"
    elif given.clear:
        lead = "Stage 2 loses against stage 1"
    else:
        lead = "Stage 2 shows no gain over stage 1"
    return f"{lead}: {_mean(second)} against {_mean(first)} ({sized(given, first.n)})."


def _teacher(student: ArmSummary, teacher: ArmSummary) -> str:
    given = difference(student, teacher)
    side = "above" if given.gain > 0 else "below"
    if not given.clear:
        return (
            f"Between the student ({_mean(student)}) and its teacher ({_mean(teacher)}) no "
            f"difference is clear: {sized(given, student.n)}."
        )
    amount = formats.percent(abs(given.gain), student.n)
    return f"The student ends {amount} points {side} its teacher ({_mean(teacher)})."
