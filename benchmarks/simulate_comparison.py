"""How often the comparison calls a gain clear where there is none.

    python benchmarks/simulate_comparison.py   # the figures of docs/results/comparison.md
    python benchmarks/simulate_comparison.py --draws 500

No network is trained: answers are drawn, and go the way of a real comparison from there on (paired
error of the images, spread of the seeds, ``difference(...).clear``). Every image is as hard as it
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
from hgnetv2_pipeline.reporting.comparison import difference, summarise_arms

IMAGES = 400
MIXES = list(itertools.product((1, 2, 3), repeat=2))
# Logits, so that figures like the sample's come about: 86 % right, and a paired error of the images
# of 1.7 points with one run of each arm and 1.1 with three.
_EASE, _HARDNESS, _FAVOUR = 5.0, 4.0, 1.0


@dataclass(frozen=True)
class Setting:
    """The runs of each arm, and by how much a seed moves its answers (logits; 0.2 are 1 point)."""

    runs: Mapping[str, int]
    shifts: Mapping[str, float]


def settings(runs: Sequence[int]) -> dict[str, Setting]:
    """What the two arms that are compared may be among, by name."""
    two = dict(zip(("supervised_equal_steps", "stage1"), runs, strict=True))
    third = two | {"supervised": 3}
    unlike = {"supervised_equal_steps": 0.55, "stage1": 0.25, "supervised": 0.4}
    return {
        "seeds of 0.5 points": Setting(two, dict.fromkeys(two, 0.1)),
        "of 2.8 points": Setting(two, dict.fromkeys(two, 0.55)),
        "of 2 points, a third arm of three runs": Setting(third, dict.fromkeys(third, 0.4)),
        "the same, arms of 2.8, 1.3 and 2 points": Setting(third, unlike),
    }


def draw_answers(
    setting: Setting, rng: np.random.Generator, images: int
) -> dict[str, NDArray[np.bool_]]:
    """Right or wrong, bool [runs, images], of every arm."""
    ease = rng.normal(_EASE, _HARDNESS, images)
    answers = {}
    for arm, runs in setting.runs.items():
        favour = rng.normal(0, _FAVOUR, images)
        seeds = rng.normal(0, setting.shifts[arm], (runs, 1))
        right = 1 / (1 + np.exp(-(ease + favour + seeds)))
        answers[arm] = rng.random((runs, images)) < right
    return answers


def is_clear(answers: Mapping[str, NDArray[np.bool_]]) -> bool:
    """Whether the table calls the difference of the first two arms clear."""
    rows: list[dict[str, Any]] = [
        {"arm": arm, "split": "test", "seed": seed, "top1_count": int(run.sum()), "n": run.size}
        for arm, runs in answers.items()
        for seed, run in enumerate(runs)
    ]
    first, second = list(answers)[:2]
    error = mean_difference(answers[first].mean(axis=0), answers[second].mean(axis=0)).error
    pair = {"arms": [first, second], "split": "test", "image_error": error}
    arms = {summary.arm: summary for summary in summarise_arms(rows, [pair])}
    return difference(arms[first], arms[second]).clear


def clear_share(setting: Setting, draws: int, seed: int = 0, images: int = IMAGES) -> float:
    """The share of ``draws`` in which a gain is called clear though there is none."""
    rng = np.random.default_rng(seed)
    return sum(is_clear(draw_answers(setting, rng, images)) for _ in range(draws)) / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    names = list(settings((1, 1)))
    print(f"{draws:,} draws of {IMAGES} images each; called clear, %")
    print("| runs of each arm | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for mix in MIXES:
        cells = [f"{100 * clear_share(setting, draws):.1f}" for setting in settings(mix).values()]
        print(f"| {mix[0]} and {mix[1]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
