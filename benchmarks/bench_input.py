"""Training and evaluation input beside timm's and torchvision's: CPU time an image, interleaved.

python benchmarks/bench_input.py [--images 100] [--rounds 7] [--size 224] [--zoom 1]

JPEG files of several sizes and kinds are made from scikit-learn's two photographs and held in
memory, so that reading is not measured. Every round runs every contender once over all files, one
thread, each in the way its loader works: image by image, or ours in training ``TOGETHER`` images at
a time; figures are medians over rounds of process time, ratios medians of each round's ratio. Then:
how far pixels differ from Pillow's, before RandAugment and for each of its operations. Tables, and
the same as a JSON line.

simplejpeg is used where it is installed (rows below the crop are then not decoded); the output says
which decoder was at work. ``--without simplejpeg`` measures without it.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
warnings.filterwarnings("ignore", category=FutureWarning)

import cv2
import numpy as np
import PIL
import timm
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.input import fast_augment, jpeg
from hgnetv2_pipeline.input.augment import BOXES, TOGETHER, Augment, begin, make_augment
from hgnetv2_pipeline.input.deferred_view import DeviceOperations, on_device
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.pillow_resize import exact_view
from hgnetv2_pipeline.input.randaugment import INCREASING, PLAIN
from hgnetv2_pipeline.processor import describe

FILL = (124, 116, 104)
SIZES = [(500, 375), (375, 500), (500, 333), (333, 500), (640, 480)]
POLICY = "rand-m7-mstd0.5-inc1"


def photographs(count: int, zoom: float = 1.0, noise: float = 6.0) -> list[bytes]:
    """JPEG files: crops of two photographs with a little noise, near ImageNet in size and bytes.

    ``zoom`` times ``SIZES`` in pixels. One in 20 is progressive, one grey, three without colour
    subsampling.
    """
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    files = []
    for n in range(count):
        width, height = (round(zoom * side) for side in SIZES[n % len(SIZES)])
        source = sources[n % 2]
        share = rng.uniform(0.6, 1.0) * min(source.width / width, source.height / height)
        w, h = int(width * share), int(height * share)
        left = int(rng.integers(0, source.width - w + 1))
        top = int(rng.integers(0, source.height - h + 1))
        image = source.resize((width, height), Image.BICUBIC, box=(left, top, left + w, top + h))
        noisy = np.asarray(image) + rng.normal(0, noise, (height, width, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        options: dict[str, Any] = {"quality": int(rng.integers(88, 96))}
        if n % 20 == 19:
            options["progressive"] = True
        if n % 20 in (3, 9, 15):
            options["subsampling"] = 0
        if n % 20 == 7:
            image = image.convert("L")
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        files.append(file.getvalue())
    return files


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def bare_decoder() -> Callable[[bytes], Any]:
    """libjpeg-turbo with as little around it as is installed: the whole image to RGB."""
    simplejpeg = jpeg.optional("simplejpeg")
    if simplejpeg is not None:
        return lambda content: simplejpeg.decode_jpeg(content)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def one_by_one(make: Callable[[bytes], Any]) -> Callable[[list[bytes]], None]:
    """As the loaders of torchvision and timm do: an image is finished before the next is read."""

    def each(files: list[bytes]) -> None:
        for content in files:
            make(content)

    return each


def together(augment: Augment | DeviceOperations) -> Callable[[list[bytes]], None]:
    """As ``TrainMaker`` does: headers and draws of some images, then their pixels."""
    drawn = iter(range(10**9))

    def all_of(files: list[bytes]) -> None:
        for at in range(0, len(files), TOGETHER):
            begun = [
                begin(augment, LazyImage(content), keyed_rng(0, 0, str(next(drawn))))
                for content in files[at : at + TOGETHER]
            ]
            for finish in begun:
                finish()

    return all_of


def contenders(size: int) -> dict[str, Callable[[list[bytes]], None]]:
    cubic = transforms.InterpolationMode.BICUBIC
    floats = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229,) * 3)]
    torchvision_train = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, interpolation=cubic),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(2, 7, interpolation=cubic),
            *floats,
        ]
    )
    options = {
        "is_training": True,
        "auto_augment": POLICY,
        "interpolation": "bicubic",
        "re_prob": 0.0,
        "color_jitter": None,
    }
    timm_floats = timm.data.create_transform(size, **options)
    timm_bytes = timm.data.create_transform(size, use_prefetcher=True, **options)
    # The crops that torchvision and timm draw.
    ours = {"name": "published", "image_size": size, "box": "torchvision"}
    exact, quick = make_augment(ours), make_augment({**ours, "fast": True})
    preprocess = Preprocess(resize_short=round(size * 232 / 224), crop=size)
    torchvision_eval = transforms.Compose(
        [
            transforms.Resize(preprocess.resize_short, interpolation=cubic),
            transforms.CenterCrop(size),
            *floats,
        ]
    )
    return {
        "bare libjpeg": one_by_one(bare_decoder()),
        "train torchvision v1": one_by_one(lambda content: torchvision_train(opened(content))),
        "train timm": one_by_one(lambda content: timm_floats(opened(content))),
        "train timm uint8": one_by_one(lambda content: timm_bytes(opened(content))),
        "train exact": together(exact),
        "train fast": together(quick),
        # What is left to the CPU with input.device 'randaugment'.
        "workers' exact": together(on_device(exact, "randaugment", "cpu")),
        "workers' fast": together(on_device(quick, "randaugment", "cpu")),
        "eval torchvision": one_by_one(lambda content: torchvision_eval(opened(content))),
        "eval exact": one_by_one(lambda content: exact_view(preprocess, LazyImage(content))),
        "eval fast": one_by_one(
            lambda content: fast_augment.evaluation_view(preprocess, LazyImage(content))
        ),
    }


def measure(files: list[bytes], rounds: int, size: int) -> dict[str, list[float]]:
    """Milliseconds of CPU an image, in each round."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    every = contenders(size)
    times: dict[str, list[float]] = {name: [] for name in every}
    for each in every.values():
        each(files[:20])
    for _ in range(rounds):
        for name, each in every.items():
            began = time.process_time()
            each(files)
            times[name].append((time.process_time() - began) * 1e3 / len(files))
    return times


def ratio(times: dict[str, list[float]], base: str, name: str) -> float:
    """Median over rounds of how many times less ``name`` takes than ``base``."""
    return statistics.median(a / b for a, b in zip(times[base], times[name], strict=True))


def off(first: Any, second: Any) -> np.ndarray[Any, Any]:
    return np.abs(np.asarray(first).astype(int) - np.asarray(second))


def summary(differences: list[np.ndarray[Any, Any]]) -> dict[str, float]:
    return {
        "max": int(max(each.max() for each in differences)),
        "mean": round(float(np.mean([each.mean() for each in differences])), 4),
    }


def pixel_differences(files: list[bytes], size: int) -> dict[str, dict[str, float]]:
    """To Pillow's decode, crop, bicubic and flip, same boxes; and of the evaluation view."""
    views = {
        "name": "published", "image_size": size, "box": "torchvision",
        "randaugment": None, "mirror": 0.0,
    }  # fmt: skip
    found: dict[str, list[np.ndarray[Any, Any]]] = {"exact": [], "fast": [], "eval fast": []}
    preprocess = Preprocess(resize_short=round(size * 232 / 224), crop=size)
    for n, content in enumerate(files):
        image = opened(content)
        box = BOXES["torchvision"](
            *image.size, (0.08, 1.0), (3 / 4, 4 / 3), keyed_rng(0, 0, str(n))
        )
        left, top, width, height = box
        cut = image.crop((left, top, left + width, top + height))
        expected = cut.resize((size, size), Image.BICUBIC)
        for name in ("exact", "fast"):
            augment = make_augment({**views, "fast": name == "fast"})
            found[name].append(off(augment(LazyImage(content), keyed_rng(0, 0, str(n))), expected))
        quick = fast_augment.evaluation_view(preprocess, LazyImage(content))
        found["eval fast"].append(off(quick, preprocess.image(content)))
    return {name: summary(each) for name, each in found.items()}


def operation_differences(files: list[bytes], size: int) -> dict[str, dict[str, float]]:
    """Of each operation of RandAugment to timm's, levels 3.3, 7 and 10, both signs.

    ``exact`` and ``fast`` are the two implementations here; timm's is called with the same
    arguments through its own table.
    """
    theirs = timm.data.auto_augment
    images = [opened(content).resize((size, size), Image.BICUBIC) for content in files[:10]]
    found = {}
    for name in sorted({*INCREASING, *PLAIN}):
        ours = {**INCREASING, **PLAIN}[name]
        differences: dict[str, list[np.ndarray[Any, Any]]] = {"exact": [], "fast": []}
        for level in (3.3, 7.0, 10.0):
            if (name, level) == ("PosterizeIncreasing", 10.0):
                continue  # no bit is kept, which Pillow 13 refuses in timm's call
            for sign in (1.0, -1.0):
                chance = theirs.random.random
                theirs.random.random = lambda s=sign: 0.9 if s < 0 else 0.1
                to_arguments = theirs.LEVEL_TO_ARG[name]
                arguments = to_arguments(level, {}) if to_arguments else ()
                theirs.random.random = chance
                for image in images:
                    expected = theirs.NAME_TO_OP[name](
                        image, *arguments, fillcolor=FILL, resample=Image.BICUBIC
                    )
                    differences["exact"].append(off(ours(image, level, sign, FILL), expected))
                    quick = fast_augment.OPERATIONS[name](np.asarray(image), level, sign, FILL)
                    differences["fast"].append(off(quick, expected))
        found[name] = {
            "exact max": summary(differences["exact"])["max"],
            "fast max": summary(differences["fast"])["max"],
            "fast mean": summary(differences["fast"])["mean"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--zoom", type=float, default=1.0, help="of 500 x 375 pixels and the like")
    parser.add_argument("--noise", type=float, default=6.0, help="added to pixels, in levels")
    parser.add_argument("--without", nargs="*", default=[], help="packages to leave unused")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    found = jpeg.optional
    jpeg.optional = lambda name: None if name in options.without else found(name)
    files = photographs(options.images, options.zoom, options.noise)
    times = measure(files, options.rounds, options.size)
    ms = {name: statistics.median(each) for name, each in times.items()}
    decoder = "simplejpeg" if jpeg.optional("simplejpeg") else "OpenCV"
    print(f"{len(files)} files, mean {np.mean([len(f) for f in files]) / 1e3:.0f} kB; {decoder}")
    print(f"{'contender':<22}{'ms':>7}{'x tv':>7}{'x timm':>8}{'x timm uint8':>14}{'x bare':>8}")
    rows: dict[str, dict[str, float]] = {}
    for name, value in ms.items():
        kind = name.split()[0]
        bases = {"x tv": {"train": "train torchvision v1", "eval": "eval torchvision"}.get(kind)}
        if kind == "train":
            bases |= {"x timm": "train timm", "x timm uint8": "train timm uint8"}
        bases["x bare"] = "bare libjpeg"
        rows[name] = {key: round(ratio(times, b, name), 2) for key, b in bases.items() if b}
        cells = [rows[name].get(key, "") for key in ("x tv", "x timm", "x timm uint8", "x bare")]
        print(f"{name:<22}{value:7.2f}{cells[0]:>7}{cells[1]:>8}{cells[2]:>14}{cells[3]:>8}")
    pixels = pixel_differences(files, options.size)
    print("\npixels beside Pillow's, before RandAugment (levels of 255)")
    for name, row in pixels.items():
        print(f"{name:<22}max {row['max']:>3}   mean {row['mean']:.4f}")
    operations = operation_differences(files, options.size)
    print("\noperations beside timm's      exact max   fast max   fast mean")
    for name, row in operations.items():
        print(f"{name:<28}{row['exact max']:>11}{row['fast max']:>11}{row['fast mean']:>12.4f}")
    versions = {
        "processor": describe(),
        "python": platform.python_version(),
        **{m.__name__: m.__version__ for m in (torch, torchvision, timm, PIL, cv2, np)},
    }
    result = {
        "decoder": decoder,
        "cpu_ms": ms,
        "ratios": rows,
        "pixels": pixels,
        "operations": operations,
    }
    print(json.dumps(result | {"versions": versions}))


if __name__ == "__main__":
    main()
