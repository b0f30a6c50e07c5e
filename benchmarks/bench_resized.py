"""What ``input.resized: 384`` saves on photographs of several megapixels, and what it changes.

python benchmarks/bench_resized.py [--images 12] [--rounds 5] [--short 384]

The files are scikit-learn's two photographs enlarged to 12 megapixels with a little noise, as JPEG
of quality 90, and their copies as ``input.resized`` stores them. CPU time an image of the training
view of 224 pixels, one thread, interleaved; then the difference of the same crops (without
RandAugment) from file and copy, in levels of 255: as drawn, where corners are rounded to pixels
of either, and of the very same place. Tables, and the same as a JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
from bench_input import POLICY, summary
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", type=int, default=384)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    files = large_photographs(options.images)
    began = time.process_time()
    copies = [resized_file(content, options.short) for content in files]
    making = (time.process_time() - began) * 1e3 / len(files)
    config = {"name": "published", "image_size": 224}
    views = {name: make_augment({**config, "fast": name == "fast"}) for name in ("exact", "fast")}
    times: dict[str, list[float]] = {}
    for step in range(options.rounds):
        for name, view in views.items():
            for kind, contents in (("files", files), ("copies", copies)):
                began = time.process_time()
                for n, content in enumerate(contents):
                    view(LazyImage(content), keyed_rng(0, step, str(n)))
                took = (time.process_time() - began) * 1e3 / len(files)
                times.setdefault(f"{name}, {kind}", []).append(took)
    plain = make_augment({**config, "randaugment": None})
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
    sizes = {
        kind: round(float(np.mean([len(data) for data in contents])) / 1e3)
        for kind, contents in (("files", files), ("copies", copies))
    }
    ms = {name: round(statistics.median(each), 2) for name, each in times.items()}
    result = {
        "kB": sizes,
        "policy": POLICY,
        "cpu_ms": ms,
        "times faster": {
            name: round(ms[f"{name}, files"] / ms[f"{name}, copies"], 1) for name in views
        },
        "making a copy, cpu_ms": round(making, 1),
        "crops": {
            "as drawn": summary(gaps["drawn"]),
            "of the same place": summary(gaps["aligned"]),
        },
    }
    print("\n".join(f"{key}: {value}" for key, value in result.items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
