"""What a training view is worth to a student: the same steps on the same images, several views.

    python benchmarks/compare_views.py --set FOLDER --side 32 --steps 478
    python benchmarks/compare_views.py --set FOLDER --side 32 --steps 2500 --mined NAME/TEACHER

The set is that of ``emoji_set.py`` or ``fashion_set.py``; images are composited on white. B0 is
trained from scratch with the pipeline's views, optimiser and schedule, as ``hgnetv2 init`` sets
them for so few images, once for each of ``--views``, and its last weights answer the test images.
It learns from 85 % of the labelled images of each class; with ``--mined`` from all of them and what
the environment NAME has mined with TEACHER as well, whose answers are the clean ones of mining.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from plain_timm_loop import BATCH, MEAN, RATE, SETS, STD, images_of
from torch import Tensor, nn

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.input.augment import Augment, EvaluationView, make_augment
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.fast_layers import fast_training
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.training.config import OptimizerConfig
from hgnetv2_pipeline.training.optim import build_optimizer, param_groups, set_lr
from hgnetv2_pipeline.training.schedule import Schedule

SMOOTHING, SHARE = 0.1, 0.85
VIEWS = {
    "published": {},
    "paddle, 35 %": {"scale": [0.35, 1.0], "randaugment": None},
    "torchvision, 35 %": {"box": "torchvision", "scale": [0.35, 1.0], "randaugment": None},
    "torchvision, 60 %": {"box": "torchvision", "scale": [0.6, 1.0], "randaugment": None},
    "torchvision, 80 %": {"box": "torchvision", "scale": [0.8, 1.0], "randaugment": None},
}
Views = NDArray[np.uint8]


def labelled_images(folder: Path, classes: list[str], share: float) -> tuple[list[Views], Tensor]:
    """The first of each class, and their smoothed labels [N, C]."""
    images, labels = images_of(folder / "labelled", classes)
    kept = np.concatenate([
        np.flatnonzero(labels.numpy() == label)[: round(share * int((labels == label).sum()))]
        for label in range(len(classes))
    ])  # fmt: skip
    target = F.one_hot(labels[kept], len(classes)) * (1 - SMOOTHING) + SMOOTHING / len(classes)
    return [np.array(images[row]) for row in kept], target


def mined_images(folder: Path, mined: str, classes: int) -> tuple[list[Views], Tensor]:
    """What was mined, and the teacher's probabilities [N, C] of it."""
    environment, teacher = mined.split("/")
    data = Path("data")
    listed = data / "05_model_input" / environment / teacher / "mined.parquet"
    scores = data / "04_feature" / environment / teacher / "scores" / "pool"
    scored = pd.concat([pd.read_parquet(path) for path in sorted(scores.glob("*.parquet"))])
    scored = scored.set_index("key").loc[sorted(set(pd.read_parquet(listed)["key"]))]
    target, images = np.zeros((len(scored), classes), np.float32), []
    for row, (key, one) in enumerate(scored.iterrows()):
        target[row, one.top_ids] = np.exp(one.top_logits - one.lse)
        image = Image.open(folder / "pool" / str(key).rpartition("/")[2]).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        images.append(np.array(Image.alpha_composite(white, image).convert("RGB")))
    return images, torch.from_numpy(target)


def as_input(views: Sequence[Views]) -> Tensor:
    """float32 [N, 3, H, W], normalised, by pixel."""
    x = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float().div_(255)
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def train(model: nn.Module, images: list[Views], target: Tensor, view: Augment, steps: int,
          seed: int, clip: float) -> None:  # fmt: skip
    """AdamW, a warm-up of an epoch, half a cosine, soft cross-entropy."""
    rng = np.random.default_rng(seed)
    adamw = OptimizerConfig(name="adamw", momentum=None, weight_decay=0.05, betas=(0.9, 0.999))
    optimizer = build_optimizer(param_groups(model, RATE, 0.05), adamw)
    epoch = len(images) / BATCH
    schedule = Schedule(RATE, steps, round(epoch), epoch, None, steps)
    rows: list[int] = []
    for step in range(steps):
        if len(rows) < BATCH:
            rows += rng.permutation(len(images)).tolist()
        some, rows = rows[:BATCH], rows[BATCH:]
        set_lr(optimizer, step, schedule)
        x = as_input([view(LazyImage.of(images[row]), rng) for row in some])
        with fast_training(model):
            loss = F.cross_entropy(model(x), target[some])
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()


@torch.inference_mode()
def right_of(model: nn.Module, folder: Path, classes: list[str], side: int) -> str:
    """How many images of each set are answered rightly."""
    said, rng = [], np.random.default_rng(0)
    view = EvaluationView(Preprocess(resize_short=side, crop=side))
    for which in (name for name in SETS if (folder / name).is_dir()):
        images, labels = images_of(folder / which, classes)
        x = as_input([view(LazyImage.of(np.array(one)), rng) for one in images])
        right = (torch.cat([model(part) for part in x.split(100)]).argmax(1) == labels).sum()
        said.append(f"{which} {right} of {len(labels)}")
    return ", ".join(said)


def main() -> None:
    """Train once with every view, and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=478)
    parser.add_argument("--mined", metavar="NAME/TEACHER")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    parser.add_argument("--clip", type=float, default=3.0, help="norm of the gradients; inf: none")
    parser.add_argument("--share", type=float, help="of the labelled images; all with --mined")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    classes = sorted(path.name for path in (given.set / "labelled").iterdir())
    share = given.share or (1.0 if given.mined else SHARE)
    images, target = labelled_images(given.set, classes, share)
    if given.mined:
        more, theirs = mined_images(given.set, given.mined, len(classes))
        images, target = images + more, torch.cat([target, theirs])
    print(f"{describe()}; {len(images):,} images, {given.steps} steps, seed {given.seed}")
    for name in given.views:
        torch.manual_seed(given.seed)
        model = create_model("b0", num_classes=len(classes)).train()
        model = model.to(memory_format=torch.channels_last)
        view = make_augment({"name": "published", "image_size": given.side, **VIEWS[name]})
        began = time.process_time()
        train(model, images, target, view, given.steps, given.seed, given.clip)
        spent = time.process_time() - began
        right = right_of(model.eval(), given.set, classes, given.side)
        print(f"{name}: {right}, {spent:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
