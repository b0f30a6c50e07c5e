"""How often the comparison calls a gain clear where there is none, and how large one must be.

    python benchmarks/simulate_comparison.py   # the figures of docs/results/comparison.md
    python benchmarks/simulate_comparison.py --draws 500
    python benchmarks/simulate_comparison.py --images 2000

No network is trained: answers are drawn, and go the way of a real comparison from there on (paired
error of the images, spread of the seeds, ``difference(...).margin``). Every image is as hard as it
is, an arm answers it a little better or worse than another arm, and a seed shifts all answers of a
run; none of the three favours an arm in the mean, so that over many test sets and many seeds the
gain is zero.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.intervals import mean_difference
from hgnetv2_pipeline.reporting.comparison import Difference, difference, summarise_arms

IMAGES = 400
MIXES = list(itertools.product((1, 2, 3), repeat=2))
# Logits, so that figures like the sample's come about: 86 % right, and a paired error of the images
# of 1.7 points with one run of each arm and 1.1 with three.
_EASE, _HARDNESS, _FAVOUR = 5.0, 4.0, 1.0
_POINT = 0.2  # logits that move the accuracy by about one point


@dataclass(frozen=True)
class Setting:
    """The runs of each arm, and by how much a seed moves its answers (points)."""

    runs: Mapping[str, int]
    shifts: Mapping[str, float]


def settings(runs: Sequence[int]) -> dict[str, Setting]:
    """What the two arms that are compared may be among, by name.

    The name has how far seeds move the first arm and the second, in points; behind a plus a third
    arm, of three runs.
    """
    arms = ("supervised_equal_steps", "stage1", "supervised")
    cases = ["0.5 0.5", "2.8 2.8", "2.8 1.4", "1.4 2.8", "2.0 2.0 + 2.0", "2.8 1.4 + 1.4",
             "1.4 2.8 + 1.4", "1.4 1.4 + 2.8", "1.0 0.5 + 0.5", "0.5 1.0 + 0.5"]  # fmt: skip
    found = {}
    for case in cases:
        shifts = dict(zip(arms, map(float, case.replace("+", "").split()), strict=False))
        found[case] = Setting(dict(zip(shifts, (*runs, 3), strict=False)), shifts)
    return found


def draw_answers(
    setting: Setting, rng: np.random.Generator, images: int
) -> dict[str, NDArray[np.bool_]]:
    """Right or wrong, bool [runs, images], of every arm."""
    ease = rng.normal(_EASE, _HARDNESS, images)
    answers = {}
    for arm, runs in setting.runs.items():
        favour = rng.normal(0, _FAVOUR, images)
        seeds = rng.normal(0, _POINT * setting.shifts[arm], (runs, 1))
        right = 1 / (1 + np.exp(-(ease + favour + seeds)))
        answers[arm] = rng.random((runs, images)) < right
    return answers


def compare_arms(answers: Mapping[str, NDArray[np.bool_]]) -> Difference:
    """The second arm minus the first, as the table has it."""
    rows: list[dict[str, Any]] = [
        {"arm": arm, "split": "test", "seed": seed, "top1_count": int(run.sum()), "n": run.size}
        for arm, runs in answers.items()
        for seed, run in enumerate(runs)
    ]
    first, second = list(answers)[:2]
    error = mean_difference(answers[first].mean(axis=0), answers[second].mean(axis=0)).error
    pair = {"arms": [first, second], "split": "test", "image_error": error}
    arms = {summary.arm: summary for summary in summarise_arms(rows, [pair])}
    return difference(arms[second], arms[first])


def draw_differences(
    setting: Setting, draws: int, seed: int = 0, images: int = IMAGES
) -> list[Difference]:
    """What the table says in each of ``draws`` without a gain."""
    rng = np.random.default_rng(seed)
    return [compare_arms(draw_answers(setting, rng, images)) for _ in range(draws)]


def clear_share(found: Sequence[Difference]) -> float:
    """The share in which a gain is called clear though there is none."""
    return sum(each.clear for each in found) / len(found)


def least_gain(found: Sequence[Difference], share: float = 0.8) -> float:
    """The gain that would be called clear in ``share`` of the draws; infinite where none would."""
    lacking = [np.inf if each.margin is None else each.margin - each.gain for each in found]
    return float(np.quantile(lacking, share, method="higher"))


def _table(cells: Mapping[tuple[int, int], Mapping[str, float]]) -> None:
    names = list(next(iter(cells.values())))
    print("| runs of each arm | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for mix, row in cells.items():
        shown = " | ".join(f"{100 * value:.1f}" for value in row.values())
        print(f"| {mix[0]} and {mix[1]} | {shown} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--images", type=int, default=IMAGES)
    given = parser.parse_args()
    clear: dict[tuple[int, int], dict[str, float]] = {}
    least: dict[tuple[int, int], dict[str, float]] = {}
    for mix in MIXES:
        for name, setting in settings(mix).items():
            found = draw_differences(setting, given.draws, images=given.images)
            clear.setdefault(mix, {})[name] = clear_share(found)
            least.setdefault(mix, {})[name] = least_gain(found)
    print(f"{given.draws:,} draws of {given.images:,} images; called clear without a gain, %")
    _table(clear)
    print("\nGain that is called clear in 80 % of the draws, points")
    _table(least)


if __name__ == "__main__":
    main()
