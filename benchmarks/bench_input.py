"""Training and evaluation input beside timm, torchvision and DALI: CPU time an image, in turns.

python benchmarks/bench_input.py [--images 40] [--size 224] [--dali-python ENV/bin/python]

JPEG files of several sizes and kinds are made from scikit-learn's two photographs and held in
memory, so that reading is not measured: near ImageNet's in size, and four times as wide and high.
Every contender goes once over all files, each in the way its loader works: image by image, or ours
in training ``TOGETHER`` images at a time. All that is compared ends in uint8 views; rows that end
in floats, as timm's and torchvision's transforms do by default, are shown and judge nothing. So is
Pillow's draft mode in training, where libjpeg decodes at a half or less if the whole image stays
larger than the view: a crop of it is then blown up. In evaluation it is a peer like any other.
torchvision's RandAugment on tensors has no bicubic and takes bilinear. DALI runs in an environment
of its own (``dali_contender.py``).

simplejpeg is used where it is installed (rows below the crop are then not decoded); ``--without
simplejpeg`` measures without it. ``--pixels`` measures no time: it prints how far pixels differ
from Pillow's, before RandAugment and for each of its operations.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", category=FutureWarning)

import cv2
import numpy as np
import timm
import torch
from harness import Case, Contender, Elsewhere, run
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.input import fast_augment, jpeg
from hgnetv2_pipeline.input.augment import BOXES, TOGETHER, Augment, begin, make_augment
from hgnetv2_pipeline.input.deferred_view import DeviceOperations, on_device
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.pillow_resize import exact_view
from hgnetv2_pipeline.input.randaugment import INCREASING, PLAIN

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


def opened(content: bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    if draft is not None:
        image.draft("RGB", draft)
    return image.convert("RGB")


def bare_decoder() -> Callable[[bytes], Any]:
    """libjpeg-turbo with as little around it as is installed: the whole image to RGB."""
    simplejpeg = jpeg.optional("simplejpeg")
    if simplejpeg is not None:
        return lambda content: simplejpeg.decode_jpeg(content)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def together(augment: Augment | DeviceOperations, files: list[bytes]) -> Callable[[], None]:
    """As ``TrainMaker`` does: headers and draws of some images, then their pixels."""
    drawn = iter(range(10**9))

    def all_of() -> None:
        for at in range(0, len(files), TOGETHER):
            begun = [
                begin(augment, LazyImage(content), keyed_rng(0, 0, str(next(drawn))))
                for content in files[at : at + TOGETHER]
            ]
            for finish in begun:
                finish()

    return all_of


def timm_transform(size: int, *, training: bool, floats: bool) -> Callable[[Image.Image], Any]:
    kind = (
        {"is_training": True, "auto_augment": POLICY, "re_prob": 0.0, "color_jitter": None}
        if training
        else {"crop_pct": 224 / 232}
    )
    return timm.data.create_transform(
        size, interpolation="bicubic", use_prefetcher=not floats, **kind
    )


def torchvision_steps(size: int, module: Any, *, training: bool, turned: Any = None) -> list[Any]:
    cubic = transforms.InterpolationMode.BICUBIC
    if not training:
        return [module.Resize(short_side(size), interpolation=cubic), module.CenterCrop(size)]
    return [
        module.RandomResizedCrop(size, interpolation=cubic),
        module.RandomHorizontalFlip(),
        module.RandAugment(2, 7, interpolation=turned or cubic),
    ]


def short_side(size: int) -> int:
    return round(size * 232 / 224)


def peers(size: int, *, training: bool) -> dict[str, Callable[[bytes], Any]]:
    """Name to what makes a view; those in floats say so."""
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229,) * 3)
    v1 = transforms.Compose(
        [*torchvision_steps(size, transforms, training=training), transforms.ToTensor(), normal]
    )
    pillow = v2.Compose([*torchvision_steps(size, v2, training=training), v2.PILToTensor()])
    linear = transforms.InterpolationMode.BILINEAR
    tensors = v2.Compose(torchvision_steps(size, v2, training=training, turned=linear))
    ends = {floats: timm_transform(size, training=training, floats=floats) for floats in (0, 1)}
    draft = (size, size) if training else (short_side(size),) * 2

    def decoded(content: bytes) -> torch.Tensor:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return decode_jpeg(data, mode=ImageReadMode.RGB)

    return {
        "timm": lambda content: ends[0](opened(content)),
        "timm, draft": lambda content: ends[0](opened(content, draft)),
        "torchvision v2, Pillow": lambda content: pillow(opened(content)),
        "torchvision v2, decode_jpeg": lambda content: tensors(decoded(content)),
        "timm, floats": lambda content: ends[1](opened(content)),
        "torchvision v1, floats": lambda content: v1(opened(content)),
    }


def contenders(files: list[bytes], size: int, dali: Elsewhere | None) -> dict[str, Contender]:
    def each(make: Callable[[bytes], Any], work: str, *, ours: bool = False) -> Contender:
        """As the loaders of torchvision and timm do: one image is finished before the next."""
        return Contender(lambda: [make(content) for content in files], work, ours=ours)

    def batches(augment: Augment | DeviceOperations, work: str) -> Contender:
        return Contender(together(augment, files), work, ours=True)

    every = {}
    for kind, training in (("train", True), ("eval", False)):
        for name, make in peers(size, training=training).items():
            work = f"{kind}, floats" if "floats" in name else kind
            work = "train, decoded small" if name == "timm, draft" and training else work
            every[f"{kind}: {name}"] = each(make, work)
    if dali is not None:
        every["train: DALI"] = Contender(None, "train", lap=dali.lap)
    # The crops that torchvision and timm draw.
    config = {"name": "published", "image_size": size, "box": "torchvision"}
    preprocess = Preprocess(resize_short=short_side(size), crop=size)
    for name in ("exact", "fast"):
        augment = make_augment({**config, "fast": name == "fast"})
        every[f"train: ours, {name}"] = batches(augment, "train")
        # What is left to the CPU with input.device 'randaugment'.
        every[f"train: ours, {name}, RandAugment elsewhere"] = batches(
            on_device(augment, "randaugment", "cpu"), "train without RandAugment"
        )
    every["eval: ours, exact"] = each(
        lambda content: exact_view(preprocess, LazyImage(content)), "eval", ours=True
    )
    every["eval: ours, fast"] = each(
        lambda content: fast_augment.evaluation_view(preprocess, LazyImage(content)), "eval",
        ours=True,
    )  # fmt: skip
    return {"bare libjpeg": each(bare_decoder(), "decoding alone"), **every}


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


def print_differences(given: argparse.Namespace) -> None:
    """Of ordinary and of large pictures, whose large crops the fast path decodes smaller."""
    print("\n| before RandAugment, levels of 255 | largest | mean |\n|---|---|---|")
    for zoom, count in scales(given):
        files = photographs(count, zoom, given.noise)
        for name, row in pixel_differences(files, given.size).items():
            print(f"| {name}, {shape(zoom)} | {row['max']} | {row['mean']:.4f} |")
    print_operations(photographs(given.images, noise=given.noise), given.size)


def print_operations(files: list[bytes], size: int) -> None:
    print("\n| operation | exact, max | fast, max | fast, mean |\n|---|---|---|---|")
    for name, row in operation_differences(files, size).items():
        print(f"| {name} | {row['exact max']} | {row['fast max']} | {row['fast mean']:.4f} |")


def scales(given: argparse.Namespace) -> list[tuple[float, int]]:
    """How many times ``SIZES`` pictures are wide and high, and how many of them there are."""
    return [(1.0, given.images), (4.0, given.images // 2)]


def shape(zoom: float) -> str:
    return " x ".join(f"{zoom * side:.0f}" for side in SIZES[0])


def cases(given: argparse.Namespace) -> Iterator[Case]:
    found = jpeg.optional
    jpeg.optional = lambda name: None if name in given.without else found(name)
    decoder = "simplejpeg" if jpeg.optional("simplejpeg") else "OpenCV"
    if given.pixels:
        print_differences(given)
        return
    for zoom, count in scales(given):
        files = photographs(count, zoom, given.noise)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        mean = np.mean([len(each) for each in files]) / 1e3
        with tempfile.TemporaryDirectory() as folder:
            dali = None
            if given.dali_python:
                for number, content in enumerate(files):
                    (Path(folder) / f"{number:05d}.jpg").write_bytes(content)
                dali = Elsewhere(given.dali_python, "dali_contender.py", folder, given.size)
            yield Case(
                f"{shape(zoom)}, {decoder}", contenders(files, given.size, dali),
                units=count, base="train: timm", note=f"{count} files of {mean:.0f} kB on average",
            )  # fmt: skip
            if dali is not None:
                dali.close()
        if given.quick:
            return


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--noise", type=float, default=6.0, help="added to pixels, in levels")
    parser.add_argument("--without", nargs="*", default=[], help="packages to leave unused")
    parser.add_argument("--dali-python", type=Path, help="of an environment that has DALI")
    parser.add_argument("--pixels", action="store_true", help="differences of pixels, no time")


if __name__ == "__main__":
    run("input", cases, doc=__doc__, seconds=60, options=options)
