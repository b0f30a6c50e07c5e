"""Planted wrong labels: how many of the first suspects are among them.

python benchmarks/bench_label_errors.py [--images 600] [--share 0.1] [--seeds 0 1 2]

Digits of scikit-learn (real handwriting, 8 x 8), of which a share gets another digit's label at
random. N is the number planted: precision among the first N by rank, and the estimate of N with
its interval. The probe is ``simple``, which any data set has.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.teacher.label_errors import find_label_errors
from hgnetv2_pipeline.teacher.probing import held_out_probabilities


def write_digits(root: Path, images: int, share: float, seed: int) -> set[str]:
    """A folder per digit; returns the keys of the files that are in a wrong one."""
    rng = np.random.default_rng(seed)
    digits, truth = load_digits(return_X_y=True)
    planted = set()
    for number in rng.permutation(len(digits))[:images]:
        label = int(truth[number])
        if wrong := rng.random() < share:
            label = (label + int(rng.integers(1, 10))) % 10
        path = root / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (digits[number].reshape(8, 8) * 15.9).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(path)
        if wrong:
            planted.add(f"{label}/{number}.png")
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    logging.disable(logging.INFO)
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            planted = write_digits(Path(name), options.images, options.share, seed)
            scan = scan_folder_tree(Path(name))
            answers = held_out_probabilities(
                "simple", scan.samples, Path(name), classes=scan.classes, weights_root=Path(name)
            )
        labels = scan.samples["label"].to_numpy(np.int64)
        found = find_label_errors(answers, labels)
        order = found.ranked(labels)
        wrong = scan.samples["key"].isin(planted).to_numpy()
        first = wrong[order[: len(planted)]]
        rows.append(
            {
                "seed": seed,
                "planted": len(planted),
                "among first N": int(first.sum()),
                "precision": round(first.sum() / max(1, len(planted)), 3),
                "suspected": int(found.suspected.sum()),
                "of these wrong": int(wrong[found.suspected].sum()),
                "estimate": round(found.estimate, 1),
                "95 %": "{:.0f} to {:.0f}".format(*found.interval),
            }
        )
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
