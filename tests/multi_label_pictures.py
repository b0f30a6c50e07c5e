"""A learnable set of several labels per image: squares of three colours, each there or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hgnetv2_pipeline.data.decode import DECODING
from hgnetv2_pipeline.data.scan.folders import Scan, scan_listing
from hgnetv2_pipeline.data.scan.layout_sets import list_sets
from hgnetv2_pipeline.data.scan.layouts import Layout, Place, layout_as

CLASSES = ["red square", "green square", "blue square"]


def draw(folder: Path, split: str, count: int, *, seed: int, side: int = 32) -> None:
    """``count`` noisy images below ``folder/split``, and ``split_list.txt`` in ``folder``."""
    rng = np.random.default_rng(seed)
    lines = []
    (folder / split).mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 60, (side, side, 3))
        present = rng.random(3) < [0.5, 0.35, 0.25]
        for channel in np.flatnonzero(present):
            top, left = rng.integers(0, side - side // 2, 2)
            pixels[top : top + side // 2, left : left + side // 2, channel] = 255
        name = f"{split}/{number:04d}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        lines.append(f"{name}\t{','.join(str(int(there)) for there in present)}\n")
    (folder / f"{split}_list.txt").write_text("".join(lines))
    (folder / "class_map.txt").write_text(
        "".join(f"{at} {name}\n" for at, name in enumerate(CLASSES))
    )


def scan_multi_label(root: Path, split: str) -> Scan:
    """A set of ``path<TAB>0,1,0`` lists in ``root``, as ingestion reads it."""
    place = Place(root, root)
    listings = list_sets(place, layout_as("multi_label", place, Layout("multi_label")))
    return scan_listing(listings[split], DECODING, 1, phash=False)
