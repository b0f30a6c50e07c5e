"""LightlyTrain's image classification, trained from scratch on command by ``bench_peers.py``.

Runs with the Python of an environment that has ``lightly-train`` and ``timm``; nothing of this
project is imported. Arguments: a folder with train, val, test and perhaps other, each a folder per
class; the pixels a side, epochs, a seed, ``default`` or ``small`` for the recipe, and the JSON file
to write: versions, steps, CPU seconds of the training, and the answers to each set.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import lightly_train
import torch
from torchvision.datasets import ImageFolder

BATCH = 64
MODEL = "timm/hgnetv2_b0"
# The rate of the other loops; crops of 60 % and more, no change of colours.
SMALL_MODEL = {"lr": 2e-3, "weight_decay": 0.05, "label_smoothing": 0.1}
SMALL_VIEW = {"random_crop": {"min_scale": 0.6, "max_scale": 1.0}, "color_jitter": None}


def main() -> None:
    """Train, answer, write."""
    folder, side, epochs, seed, recipe, out = sys.argv[1:]
    torch.set_num_threads(1)
    root, size = Path(folder), (int(side), int(side))
    classes = sorted(path.name for path in (root / "train").iterdir())
    images = sum(1 for _ in (root / "train").rglob("*.png"))
    steps = int(epochs) * max(1, images // BATCH)
    small = recipe == "small"
    with tempfile.TemporaryDirectory() as runs:
        began = time.process_time()
        lightly_train.train_image_classification(
            out=f"{runs}/out", model=MODEL, steps=steps, batch_size=BATCH, num_workers=0,
            data={"train": str(root / "train"), "val": str(root / "val"),
                  "classes": dict(enumerate(classes))},
            accelerator="cpu", devices=1, precision="32-true", seed=int(seed),
            gradient_accumulation_steps=1,
            model_args=SMALL_MODEL | {"lr_warmup_steps": min(40, steps)} if small else None,
            transform_args={"image_size": size} | (SMALL_VIEW if small else {}),
            logger_args={"tensorboard": None, "val_every_num_steps": steps},
            save_checkpoint_args={"save_every_num_steps": steps},
        )  # fmt: skip
        seconds = time.process_time() - began
        model = lightly_train.load_model(f"{runs}/out/exported_models/exported_last.pt").eval()
        answers = {}
        for name in ("test", "other"):
            if (root / name).is_dir():
                files = [path for path, _ in ImageFolder(root / name).samples]
                answers[name] = [int(model.predict(path)["labels"][0]) for path in files]
    found = {
        "about": f"LightlyTrain {version('lightly-train')}, {MODEL}",
        "steps": steps, "cpu_s": seconds, "answers": answers,
    }  # fmt: skip
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
