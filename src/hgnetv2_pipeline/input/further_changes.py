"""What a published view may do besides, all off by default: turns, upside down, colours, grey.

Each change is drawn as an operation of RandAugment's kind, so that the exact path, the fast one and
the GPU show the same ones. Nothing is drawn where all are off, and everything is drawn after what
the published recipe draws: crops, flips and its own operations stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.input.randaugment import Choice, Fill, level_of_factor, level_of_turn

OFF: dict[str, Any] = {
    "vertical_flip": 0.0,
    "quarter_turns": False,
    "rotation": 0.0,
    "jitter": 0.0,
    "grey": 0.0,
}
_ENHANCED = ("Brightness", "Contrast", "Color")


@dataclass(frozen=True)
class FurtherChanges:
    """What happens to a view besides crop, mirror and RandAugment.

    Attributes:
        vertical_flip: chance that top and bottom are exchanged.
        quarter_turns: whether it is turned by 0, 90, 180 or 270 degrees, each as often.
        rotation: turn after that, uniform in +- so many degrees; corners take ``fill``.
        jitter: of brightness, contrast and saturation: a factor uniform in 1 +- this, in an order
            that is drawn (torchvision's ColorJitter).
        grey: chance that the colours go.
        fill: colour of what a rotation uncovers.
    """

    vertical_flip: float
    quarter_turns: bool
    rotation: float
    jitter: tuple[float, float, float]
    grey: float
    fill: Fill

    def draw(
        self, flip: bool, operations: list[Choice], rng: np.random.Generator
    ) -> tuple[bool, list[Choice]]:
        """``flip`` and ``operations`` of a view with these changes: turns before the operations,
        colours after them.

        As many numbers are drawn whatever is on, so that one setting does not change another's.
        """
        upside, turns, angle, grey, *factors = rng.random(4 + len(_ENHANCED)).tolist()
        order = rng.permutation(len(_ENHANCED)).tolist()
        quarters = int(4 * turns) if self.quarter_turns else 0
        if upside < self.vertical_flip:
            # Upside down is mirrored and turned by half.
            flip, quarters = not flip, (quarters + 2) % 4
        before: list[Choice] = [("QuarterTurn", float(quarters), 1.0)] if quarters else []
        if self.rotation:
            degrees = self.rotation * (2 * angle - 1)
            before.append(("Rotate", level_of_turn(abs(degrees)), 1.0 if degrees >= 0 else -1.0))
        after: list[Choice] = []
        for place in order:
            if self.jitter[place]:
                factor = 1 + self.jitter[place] * (2 * factors[place] - 1)
                after.append((_ENHANCED[place], level_of_factor(factor), 1.0))
        if grey < self.grey:
            after.append(("Color", level_of_factor(0.0), 1.0))
        return flip, [*before, *operations, *after]


def further_changes(values: Mapping[str, Any], fill: Fill) -> FurtherChanges | None:
    """What ``values`` ask for by the names of ``OFF``; None where all are off.

    ``jitter`` is one number for all three, or a list of brightness, contrast and saturation.

    Raises:
        ParameterError: a value out of range.
    """
    given = {name: values[name] for name in OFF}
    jitter = given["jitter"]
    three = list(jitter) if isinstance(jitter, list | tuple) else [jitter] * len(_ENHANCED)
    if len(three) != len(_ENHANCED) or not all(_is_number(one, 0, 1) for one in three):
        raise ParameterError(
            f"jitter {jitter!r}: a number from 0 to 1, or three of brightness, contrast and "
            "saturation (augment.jitter)"
        )
    if not isinstance(given["quarter_turns"], bool):
        raise ParameterError(
            f"quarter_turns {given['quarter_turns']!r}: true or false (augment.quarter_turns)"
        )
    for name, most in (("vertical_flip", 1), ("rotation", 180), ("grey", 1)):
        if not _is_number(given[name], 0, most):
            raise ParameterError(
                f"{name} {given[name]!r}: a number from 0 to {most} (augment.{name})"
            )
    changes = FurtherChanges(
        vertical_flip=float(given["vertical_flip"]),
        quarter_turns=given["quarter_turns"],
        rotation=float(given["rotation"]),
        jitter=(float(three[0]), float(three[1]), float(three[2])),
        grey=float(given["grey"]),
        fill=fill,
    )
    off = not any(
        (changes.vertical_flip, changes.quarter_turns, changes.rotation, changes.grey)
    ) and not any(changes.jitter)
    return None if off else changes


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
