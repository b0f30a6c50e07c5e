"""Probes as teachers on emoji: how many they get right, where and in how many CPU seconds.

    python benchmarks/bench_emoji_teachers.py [--set FOLDER] [--probe timm:NAME@FILE ...]

The set is that of ``emoji_set.py``, made where it is missing (``npm`` fetches 136 MB; without it
this prints a line and ends). Probes are fitted to all of Google's labelled images. Counted are the
right answers on the images held out in cross-validation, on other emoji of the same vendor (test),
on the same emoji of a vendor that was never labelled (other), and on the pool, of which a third is
of no class. Transparency is composited on white, or, in a last row, dropped as the decoder does.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import emoji_set
import numpy as np
import pandas as pd
import torch
from PIL import Image

from hgnetv2_pipeline.data.scan.folders import scan_folder_tree, scan_unlabelled
from hgnetv2_pipeline.input.loader import normalise
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.teacher.probing import FittedProbe, fit_probe
from hgnetv2_pipeline.weights.packages import installed_packages


def on_white(source: Path, target: Path) -> None:
    """A copy of a tree of images, each composited on white."""
    for path in sorted(source.rglob("*.png")):
        image = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.alpha_composite(white, image).convert("RGB").save(copy)


def answers(found: FittedProbe, samples: pd.DataFrame, root: Path) -> np.ndarray:
    """Classes [N] that the probe names."""
    named = []
    for at in range(0, len(samples), 64):
        paths = samples["path"].iloc[at : at + 64]
        pixels = np.stack([found.preprocess.image(root / path) for path in paths])
        x = normalise(
            torch.from_numpy(pixels).permute(0, 3, 1, 2),
            found.preprocess.mean, found.preprocess.std,
        )  # fmt: skip
        with torch.inference_mode():
            named.append(found.probe(x).argmax(dim=1).numpy())
    return np.concatenate(named)


def row(spec: str, folder: Path, name: str, truth: dict[str, str]) -> str:
    labelled = scan_folder_tree(folder / "labelled")
    classes = list(labelled.classes)
    found = fit_probe(
        spec, labelled.samples, folder / "labelled", classes=classes, weights_root=Path.cwd()
    )
    counts = [f"{found.held_out_right} of {found.images}"]
    for which in ("test", "other"):
        scan = scan_folder_tree(folder / which)
        right = int((answers(found, scan.samples, folder / which) == scan.samples["label"]).sum())
        counts.append(f"{right} of {len(scan.samples)}")
    pool = scan_unlabelled(folder / "pool").samples
    began = time.process_time()
    said = [classes[number] for number in answers(found, pool, folder / "pool")]
    taken = time.process_time() - began
    known = [truth[key] for key in pool["key"]]
    right = sum(one == other for one, other in zip(said, known, strict=True))
    counts.append(f"{right} of {sum(bool(one) for one in known)}")
    seconds = f"{found.features_seconds:.0f} + {found.fit_seconds:.0f} + {taken:.0f}"
    return f"| {name} | {found.probe.size} | {' | '.join(counts)} | {seconds} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", type=Path, default=Path("data/01_raw/emoji"))
    parser.add_argument("--probe", nargs="+", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not (given.set / "pool_truth.csv").is_file():
        emoji_set.build(emoji_set.fetch(given.set / "npm"), given.set)
    with (given.set / "pool_truth.csv").open(newline="", encoding="utf-8") as file:
        truth = {line["key"]: line["class"] for line in csv.DictReader(file)}
    probes = given.probe or [
        "simple", *(f"timm:{name}:packaged" for name in reversed(installed_packages()))
    ]  # fmt: skip
    print(f"{describe()}; torch {torch.__version__}, one thread")
    print("| probe | pixels | held out | test | other | pool | CPU s: features + fit + pool |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        on_white(given.set, Path(folder))
        for spec in probes:
            print(row(spec, Path(folder), spec, truth), flush=True)
        print(row(probes[-1], given.set, f"{probes[-1]}, transparency dropped", truth), flush=True)


if __name__ == "__main__":
    main()
