"""What ``input.resized: 384`` saves on photographs of several megapixels, and what it changes.

python benchmarks/bench_resized.py [--images 8] [--short 384]

The files are scikit-learn's two photographs enlarged to 12 megapixels with a little noise, as JPEG
of quality 90, and their copies as ``input.resized`` stores them; the training view has 224 pixels.
Besides, the mean difference of the same crops (without RandAugment) from file and copy, in levels
of 255: as drawn, where corners are rounded to pixels of either, and of the very same place.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator

import numpy as np
from bench_input import summary, together
from harness import Case, Contender, run
from PIL import Image
from sklearn.datasets import load_sample_images

from hgnetv2_pipeline.data.resized import resized_file
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.lazy_image import LazyImage


def large_photographs(count: int) -> list[bytes]:
    """JPEG files of 4000x3000 or 3000x4000 pixels."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    files = []
    for n in range(count):
        size = (4000, 3000) if n % 4 < 2 else (3000, 4000)
        left, top = int(rng.integers(0, 60)), int(rng.integers(0, 40))
        box = (left, top, left + 560 * size[0] // 4000, top + 380 * size[1] // 4000)
        image = np.asarray(sources[n % 2].resize(size, Image.BICUBIC, box=box), np.float32)
        noisy = image + rng.normal(0, 5, image.shape).astype(np.float32)
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def crop_gaps(files: list[bytes], copies: list[bytes]) -> dict[str, str]:
    """How far crops of file and copy differ."""
    plain = make_augment({"name": "published", "image_size": 224, "randaugment": None})
    gaps: dict[str, list[np.ndarray]] = {"drawn": [], "aligned": []}
    for n, (content, copy) in enumerate(zip(files, copies, strict=True)):
        for epoch in range(4):
            first, second = (
                plain(LazyImage(data), keyed_rng(0, epoch, str(n))).astype(int)
                for data in (content, copy)
            )
            gaps["drawn"].append(np.abs(first - second))
            # The copy's crop cut out of the file: corners are on whole pixels of the copy in both.
            picture, small = LazyImage(content), LazyImage(copy)
            box, flip, _ = plain.draw(small.size, keyed_rng(0, epoch, str(n)))
            factor = picture.size[0] / small.size[0]
            left, top, right, low = (
                round(factor * place) for place in (*box[:2], box[0] + box[2], box[1] + box[3])
            )
            image = Image.fromarray(picture.crop(left, top, right - left, low - top))
            view = image.resize((224, 224), Image.BICUBIC)
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view
            gaps["aligned"].append(np.abs(np.asarray(view).astype(int) - second))
    found = {f"crops {name}": summary(each) for name, each in gaps.items()}
    return {name: f"{each['mean']:.1f} (at most {each['max']})" for name, each in found.items()}


def cases(given: argparse.Namespace) -> Iterator[Case]:
    files = large_photographs(4 if given.quick else given.images)
    copies = [resized_file(content, given.short) for content in files]
    small = {"kB": round(np.mean([len(each) for each in copies]) / 1e3)}
    large = {"kB": round(np.mean([len(each) for each in files]) / 1e3)}
    every = {}
    for name in ("exact", "fast"):
        view = make_augment({"name": "published", "image_size": 224, "fast": name == "fast"})
        every[f"{name}, from files"] = Contender(together(view, files), name, extra=large)
        every[f"{name}, from copies"] = Contender(
            together(view, copies), name, ours=True, extra=small
        )
    every["making a copy"] = Contender(
        lambda: [resized_file(content, given.short) for content in files], "copying",
        extra=crop_gaps(files, copies),
    )  # fmt: skip
    yield Case(f"12 megapixels, short side {given.short}", every, units=len(files))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--short", type=int, default=384)


if __name__ == "__main__":
    run("resized", cases, doc=__doc__, seconds=20, options=options)
