"""A learnable set of several labels per image: six shapes on noise, each there or not.

    python benchmarks/draw_shapes.py DIR --images 1200

writes ``DIR/photos``, ``DIR/train_list.txt`` and ``DIR/class_map.txt``; see docs/multi_label.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
# Name, colour, share of the images.
SHAPES = {
    "red square": ((220, 30, 30), 0.45),
    "green square": ((30, 200, 40), 0.35),
    "blue square": ((40, 60, 230), 0.3),
    "white disc": ((245, 245, 245), 0.2),
    "yellow bar": ((230, 220, 40), 0.12),
    "black disc": ((5, 5, 5), 0.05),
}


def draw(folder: Path, images: int, seed: int = 0) -> None:
    """Write the set below ``folder``: the same bytes for the same number and seed."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    (folder / "photos").mkdir(parents=True)
    lines = []
    for number in range(images):
        pixels = rng.integers(60, 190, (SIDE, SIDE, 3))
        present = rng.random(len(SHAPES)) < [share for _, share in SHAPES.values()]
        for there, (name, (colour, _)) in zip(present, SHAPES.items(), strict=True):
            if not there:
                continue
            size = int(rng.integers(8, 18))
            top, left = rng.integers(0, SIDE - size, 2)
            wide = (columns >= left) & (columns < left + size)
            if name.endswith("disc"):
                centre = (rows - top - size / 2) ** 2 + (columns - left - size / 2) ** 2
                mask = centre < (size / 2) ** 2
            else:
                high = 5 if name.endswith("bar") else size
                mask = (rows >= top) & (rows < top + high) & wide
            spread = rng.integers(-25, 25, (int(mask.sum()), 3))
            pixels[mask] = np.clip(np.array(colour) + spread, 0, 255)
        path = f"photos/{number:05d}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / path, quality=92)
        lines.append(f"{path}\t{','.join(str(int(there)) for there in present)}\n")
    (folder / "train_list.txt").write_text("".join(lines))
    (folder / "class_map.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(SHAPES)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw a set of several labels per image.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1200)
    options = parser.parse_args()
    draw(options.folder, options.images)
