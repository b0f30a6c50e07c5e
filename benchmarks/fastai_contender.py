"""fastai's vision learner, trained from scratch on command by ``bench_peers.py``.

Runs with the Python of an environment that has ``fastai``; nothing of this project is imported.
Arguments: a folder with train, val, test and perhaps other, each a folder per class; the pixels a
side, epochs, a seed, ``default`` or ``small`` for the augmentation, and the JSON file to write:
versions, steps, CPU seconds of the training, and the answers to each set.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import fastai
import torch
from fastai.callback.schedule import fit_one_cycle, lr_find  # noqa: F401  (they patch Learner)
from fastai.data.transforms import get_image_files
from fastai.learner import Learner
from fastai.losses import LabelSmoothingCrossEntropy
from fastai.torch_core import set_seed
from fastai.vision.augment import RandomResizedCrop, Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from fastai.vision.models.xresnet import xresnet18

BATCH = 64


def main() -> None:
    """Train, answer, write."""
    folder, side, epochs, seed, augment, out = sys.argv[1:]
    torch.set_num_threads(1)
    set_seed(int(seed), reproducible=True)
    root, size = Path(folder), int(side)
    began = time.process_time()
    # aug_transforms mirrors, turns, zooms, warps and lightens; the other is a crop and a mirror.
    small = augment == "small"
    loaders = ImageDataLoaders.from_folder(
        root, train="train", valid="val", bs=BATCH, num_workers=0, device=torch.device("cpu"),
        item_tfms=RandomResizedCrop(size, min_scale=0.6) if small else Resize(size),
        batch_tfms=aug_transforms(max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0)
        if small else aug_transforms(size=size),
    )  # fmt: skip
    learner = Learner(loaders, xresnet18(n_out=loaders.c), loss_func=LabelSmoothingCrossEntropy())
    with learner.no_bar(), learner.no_logging():
        rate = learner.lr_find(show_plot=False).valley
        learner.fit_one_cycle(int(epochs), rate)
        seconds = time.process_time() - began
        answers = {}
        for name in ("test", "other"):
            if (root / name).is_dir():
                files = sorted(get_image_files(root / name))
                said, _ = learner.get_preds(dl=loaders.test_dl(files))
                answers[name] = said.argmax(1).tolist()
    found = {
        "about": f"fastai {fastai.__version__}, xresnet18, one cycle at {rate:.1e}",
        "steps": int(epochs) * len(loaders.train), "cpu_s": seconds, "answers": answers,
    }  # fmt: skip
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
