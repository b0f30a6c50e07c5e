"""The rules of ``hgnetv2 init``: which values fit what was found. All of them are in this file.

What they come to is in ``conf/NAME/parameters.yml``, to be read and changed. The keys are the
names between double underscores in the template ``conf/own``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from hgnetv2_pipeline.commands.survey import Survey
from hgnetv2_pipeline.data.decode import ALPHA
from hgnetv2_pipeline.variants import ImageSize, height_and_width

PUBLISHED = 224
"""Pixels a side of the published view."""
LARGE = 20_000
"""Labelled images from which on the published SGD recipe is taken."""
MEDIUM = 2_000
"""Labelled images from which on AdamW's rate is halved and the warm-up takes longer."""
SMALL = 64
"""Pixels of the shorter edge of a view up to which images are changed less (``_augment``), and to
which smaller ones are enlarged (``_square``)."""
JUDGING = 1_000
"""Images of val from which on the best of several evaluations is kept, and not the last weights.

With 60 it is mostly chance which of ten is the highest: on clothes it was one before the learning
rate had come down, which cost 5 points (docs/results/own_pictures.md)."""
CLIP = 3.0
"""Norm to which AdamW's gradients are clipped: on clothes 12 to 32 of 1,000 test images more in
four pairs of trainings, distilled or not (docs/results/own_pictures.md)."""
FEW = 100
"""Images of val below which ``init`` says how coarse a figure on it is."""
MIN_CONF = 0.3
"""``mining.min_conf`` of the template: what is more typical than this share of labelled images."""
FEATURES_KEPT = 50_000
"""Images of a pool up to which what the teacher sees of them is kept, 7 kB per image with a small
network: drawing the map of the pool looks at 3,000 of them again otherwise."""


def choose_defaults(
    found: Survey,
    *,
    variant: str | None,
    test: bool,
    cuda: bool,
    cores: int,
    teacher_file: bool,
    packaged: Sequence[str] = (),
) -> dict[str, Any]:
    """Values for the template, from what was found.

    ``test``: a test set was named. None is set aside then, nor where the layout has one of its own,
    or a val set: what the user has divided stays so. ``teacher_file``: the official weights
    of PPHGNet_small are in weights/. ``packaged``: timm's names of networks whose weights a package
    has installed, the best first. Without ``variant`` it is B4 with a GPU, B0 without.
    """
    variant = variant or ("b4" if cuda else "b0")
    divided = "val" in found.sets
    held_out = test or "test" in found.sets
    own = found.sets.get("train", found.labelled)
    train = max(1, own if divided else round(own * (0.85 if held_out else 0.7)))
    recipe = _optimiser(found, train)
    epochs = _epochs(found, train, cuda)
    view = _view(found)
    return {
        "VARIANT": variant,
        "TEST_SHARE": 0.0 if held_out or divided else 0.15,
        "SPLIT": "val" if divided and not held_out else "test",
        "AMP": "bf16" if cuda else "off",
        "SCORE_BATCH": 256 if cuda else 64,
        "WORKERS": _workers(found, cuda, cores),
        **view,
        "KEEP": "best" if val_images(found) >= JUDGING else "last",
        "AUGMENT": _augment(view["SIZE"]),
        **_answers(found, view["SIZE"]),
        **_task(found),
        **recipe,
        **epochs,
        **_teacher(variant, recipe, epochs, official=teacher_file, packaged=packaged),
        "SELF_TRAINING": 3 if found.pool_images and not found.several else 0,
        "FEATURES": "true" if found.pool_images <= FEATURES_KEPT else "false",
    }


def _workers(found: Survey, cuda: bool, cores: int) -> int:
    """Loader processes: 16 at most with a GPU, 2 without, where they would take the cores of the
    network; none for images so small that starting them costs more than they do.
    """
    return min(16 if cuda else 2, max(0, cores - 1)) if _square(found) >= 128 else 0


def _square(found: Survey) -> int:
    """224 pixels; smaller images keep their own size, rounded down to a multiple of 32.

    Those below 64 are enlarged to 64: of 32 pixels the last two stages of the network see maps of
    2 x 2 and of 1 x 1, and on clothes that cost 2 to 4 points (docs/results/own_pictures.md).
    """
    return min(PUBLISHED, max(SMALL, found.short_side // 32 * 32))


def _view(found: Survey) -> dict[str, Any]:
    """What of an image the networks see, and the colour behind it.

    The published view cuts a square from the middle. Where a quarter of the images or more would
    lose over half of their area it is the whole of them: in an oblong view of at most 224 x 224
    pixels where nine of ten have about one shape, else in a square with bars. Those of a background
    have its colour, so that they look like more of it.
    """
    alpha, square = _alpha(found), _square(found)
    seen = {
        "ALPHA": alpha,
        "SIZE": square,
        "RESIZE": 232 if square == PUBLISHED else square,
        "FIT": "crop",
        "PAD_COLOUR": "null",
    }
    cut = [square_share(shape) < 0.5 for shape in found.shapes]
    if not cut or sum(cut) < len(cut) / 4:
        return seen
    aspect = median_aspect(found.shapes)
    alike = [shape for shape in found.shapes if abs(math.log(shape[0] / shape[1] / aspect)) < 0.15]
    if len(alike) < 0.9 * len(found.shapes):
        longest = int(statistics.median(map(max, found.shapes)))
        size = min(PUBLISHED, max(square, longest // 32 * 32))
        colour = list(ALPHA[alpha] or ()) or "null"
        return seen | {"SIZE": size, "RESIZE": size, "FIT": "pad", "PAD_COLOUR": colour}
    width, height = (int(statistics.median(edges)) for edges in zip(*found.shapes, strict=True))
    side = math.sqrt(width * height)
    scale = min(max(1.0, SMALL / side), PUBLISHED / side) / 32
    edges = [max(32, round(edge * scale) * 32) for edge in (height, width)]
    return seen | {"SIZE": edges, "RESIZE": min(edges), "FIT": "squash"}


def val_images(found: Survey) -> int:
    """How many images val will have, about."""
    own = found.sets.get("train", found.labelled)
    return found.sets.get("val", round(0.15 * own))


def _is_small(size: ImageSize) -> bool:
    return min(height_and_width(size)) <= SMALL


def _augment(size: ImageSize) -> str:
    """The published view; of small images in larger crops, without RandAugment.

    It cuts out 8 % of an image and more: of 32 pixels a side that is 9. What that costs on three
    sets: docs/results/own_pictures.md. The box is torchvision's, because PaddleClas's seldom shows
    more than four fifths of an image.
    """
    small = ", box: torchvision, scale: [0.6, 1.0], randaugment: null"
    return f"{{name: published{small if _is_small(size) else ''}}}"


def _answers(found: Survey, size: ImageSize) -> dict[str, Any]:
    """How students come to their teacher's answers.

    Small images are shown in large crops, for which the teacher's answer to the whole image still
    holds. It is computed once, and a step then costs less than half (docs/results/own_pictures.md).
    Larger images in the published view, and several labels per image, were not measured.
    """
    return {
        "ANSWERS": "clean" if _is_small(size) and not found.several else "online",
        "TOPK": min(100, max(10, len(found.per_class))),
    }


def square_share(shape: tuple[int, int]) -> float:
    """The share of an image, by its width and height, that the largest square in it has."""
    return min(shape) / max(shape)


def median_aspect(shapes: Sequence[tuple[int, int]]) -> float:
    """The median of width over height."""
    return statistics.median(width / height for width, height in shapes)


def _alpha(found: Survey) -> str:
    """A white background as soon as one image looked at is transparent somewhere.

    The colours below transparent pixels are whatever a program left there: on icons that a
    classifier sees them costs it 10 to 20 points of accuracy, and other programs, which show such
    images on white, give a model pixels that it was not trained on.
    """
    return "white" if found.transparent else "drop"


def _task(found: Survey) -> dict[str, Any]:
    """Loss and balance by the labels of an image: one, or several.

    Classes are drawn equally often when the largest is more than 3 times the smallest; with
    several labels per image cannot be drawn for one of them.
    """
    if found.several:
        return {
            "LOSS": "{name: bce, label_smoothing: 0.0}",
            "BALANCE": "none",
        }
    return {
        "LOSS": "{name: label_smoothing}",
        "BALANCE": "sampler" if found.imbalance > 3 else "none",
    }


def _optimiser(found: Survey, train: int) -> dict[str, Any]:
    """Optimiser, rates and batch of ``train`` training images.

    The published SGD recipe from 20,000 labelled images on, AdamW below: 2e-3 was measured on the
    embedded sample, with its short runs; half of it from 2,000 images on. Several labels per image:
    AdamW at the rates of recipe_multi_label.yml, whatever the number of images. With AdamW and one
    label per image gradients are clipped (``CLIP``).
    """
    medium = found.labelled >= MEDIUM
    if found.labelled >= LARGE and not found.several:
        return {
            "OPTIMIZER": "{name: sgd, momentum: 0.9, weight_decay: 2.0e-5, betas: null}",
            "CLIP": "null",
            "LR": 0.5,
            "FINETUNE_LR": 0.05,
            "STAGE2_LR": 0.005,
            "LR_BATCH": 1024,
            "WARMUP": 5,
            "BATCH": 128,
            "EVAL_EVERY": 1,
        }
    return {
        "OPTIMIZER": "{name: adamw, momentum: null, weight_decay: 0.05, betas: [0.9, 0.999]}",
        "CLIP": "null" if found.several else CLIP,
        "LR": 1.0e-3 if medium or found.several else 2.0e-3,
        "FINETUNE_LR": 3.0e-4 if found.several else 5.0e-4,
        "STAGE2_LR": 2.0e-4,
        "LR_BATCH": "null",
        "WARMUP": 5 if medium else 1,
        "BATCH": min(64, max(8, train // 3)),
        "EVAL_EVERY": 10,
    }


def _epochs(found: Survey, train: int, cuda: bool) -> dict[str, Any]:
    """How long each recipe goes over its images; ``train`` of them are labelled.

    From scratch: 200 epochs as published with a GPU, 90 without, and up to 240 for a data set so
    small that fewer would not show it 9,600 images. Stage 1: 60, fewer without a GPU where that
    would be more than 300,000 images, but at least 10. Stage 2: 20.
    """
    from hgnetv2_pipeline.mining.selection import typical_target

    listed = train + typical_target(found.pool_images, MIN_CONF)
    return {
        "EPOCHS": max(200 if cuda else 90, min(240, round(9_600 / train))),
        "STAGE1_EPOCHS": 60 if cuda else max(10, min(60, round(300_000 / listed))),
        "STAGE2_EPOCHS": 20,
    }


def _teacher(
    variant: str,
    recipe: dict[str, Any],
    epochs: dict[str, Any],
    *,
    official: bool,
    packaged: Sequence[str],
) -> dict[str, Any]:
    """The best of what is at hand: official weights, a pretrained network to probe, own labels.

    A linear classifier on simple features is a candidate of the last two. It costs seconds, and of
    small images it is at times the best that so few labels give.
    """
    if official:
        return _official_teacher(recipe) | {"PROBES": "[]", "CHOOSE": "all"}
    own = _own_teacher(variant, recipe, epochs) | {"CHOOSE": "best"}
    if not packaged:
        return own | {"PROBES": "[simple]"}
    probe = {"TEACHER": f"probe_{packaged[0]}", "MEMBERS": 0, "SUPERVISED": "[0]"}
    return own | probe | {"PROBES": f"['timm:{packaged[0]}:packaged', simple]"}


def _official_teacher(recipe: dict[str, Any]) -> dict[str, Any]:
    """PPHGNet_small, fine-tuned from its official weights; a student alone is compared with it."""
    return {
        "TEACHER": "hgnet_small",
        "ARCH": "hgnet_small",
        "MEMBERS": 1,
        "TEACHER_INIT": "hgnet_small.ssld",
        "TEACHER_EPOCHS": 30,
        "TEACHER_LR": recipe["FINETUNE_LR"],
        "SUPERVISED": "[0]",
    }


def _own_teacher(variant: str, recipe: dict[str, Any], epochs: dict[str, Any]) -> dict[str, Any]:
    """The mean of two students trained on the labelled images."""
    return {
        "TEACHER": f"two_{variant}",
        "ARCH": variant,
        "MEMBERS": 2,
        "TEACHER_INIT": "scratch",
        "TEACHER_EPOCHS": epochs["EPOCHS"],
        "TEACHER_LR": recipe["LR"],
        "SUPERVISED": "[]",
    }
