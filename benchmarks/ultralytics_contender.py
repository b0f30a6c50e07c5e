"""Ultralytics' classifier, trained from scratch on command by ``bench_peers.py``.

Runs with the Python of an environment that has ``ultralytics``; nothing of this project is
imported. Arguments: a folder with train, val, test and perhaps other, each a folder per class; the
pixels a side, epochs, a seed, ``default`` or ``small`` for the augmentation, and the JSON file to
write: versions, steps, CPU seconds of the training, and the answers to each set.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["YOLO_OFFLINE"] = "true"

import torch
import ultralytics
from torchvision.datasets import ImageFolder
from ultralytics import YOLO

BATCH = 64
# What small images ask for elsewhere too: crops of 60 % and more, no RandAugment, nothing erased.
SMALL = {"scale": 0.4, "auto_augment": None, "erasing": 0.0}


def main() -> None:
    """Train, answer, write."""
    folder, side, epochs, seed, augment, out = sys.argv[1:]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as runs:
        began = time.process_time()
        model = YOLO("yolo11n-cls.yaml", task="classify")
        model.train(
            data=folder, epochs=int(epochs), imgsz=int(side), batch=BATCH, workers=0, device="cpu",
            seed=int(seed), pretrained=False, amp=False, plots=False, val=False, project=runs,
            verbose=False, patience=0, **(SMALL if augment == "small" else {}),
        )  # fmt: skip
        seconds = time.process_time() - began
        answers = {}
        for name in ("test", "other"):
            if (Path(folder) / name).is_dir():
                files = [path for path, _ in ImageFolder(Path(folder) / name).samples]
                said = model.predict(files, imgsz=int(side), device="cpu", verbose=False)
                answers[name] = [one.probs.top1 for one in said]
    size = sum(one.numel() for one in model.model.parameters())
    images = sum(1 for _ in Path(folder, "train").rglob("*.png"))
    found = {
        "about": f"Ultralytics {ultralytics.__version__}, yolo11n-cls, {size / 1e6:.1f} M weights",
        "steps": int(epochs) * -(-images // BATCH), "cpu_s": seconds, "answers": answers,
    }  # fmt: skip
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
