"""Training input made on a GPU: how far from the exact path, and how fast, in under two minutes.

python benchmarks/bench_device.py [--device cuda] [--json FILE]

1. Pixels beside the exact path: the decoder alone (nvJPEG beside Pillow's libjpeg-turbo), all but
   the decoder (files decoded on the CPU, everything after it on the device), both together, with
   RandAugment on top, and each operation of RandAugment alone.
2. Images a second: the device's part alone, stage by stage; then whole loaders (exact, fast, both
   with RandAugment on the device, all on the device) with several numbers of workers. Files are
   JPEGs of 120 kB on average, made from scikit-learn's two photographs, read from disk out of the
   system's cache; 224 pixels with ``rand-m7-mstd0.5-inc1``. A loader is timed once its first
   batches have come, for ``--seconds``.

Markdown tables, and all of it as JSON. Needs torch, torchvision, OpenCV, pandas, pyarrow,
scikit-learn and timm; simplejpeg speeds up the CPU paths where it is installed. On a machine
without a GPU it runs with ``--device cpu``, where the decoder is libjpeg-turbo and no rate says
anything about a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_input import FILL, POLICY, opened, photographs
from harness import fingerprint, table
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.io import ImageReadMode, decode_jpeg

from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.input import loader
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.batches import SampleReader, TrainMaker, WorkerBatch
from hgnetv2_pipeline.input.deferred_view import on_device
from hgnetv2_pipeline.input.device_operations import augment
from hgnetv2_pipeline.input.device_views import DeviceInput
from hgnetv2_pipeline.input.jpeg import optional
from hgnetv2_pipeline.input.prefetch import OperateOnDevice, Prefetcher
from hgnetv2_pipeline.input.randaugment import INCREASING, PLAIN

ZOOM = 1.25
_FIRST = 3
"""Batches that come before the clock starts: workers have imported and filled their queues."""


class DecodedOnTheCpu(DeviceInput):
    """Everything but the device's own decoder."""

    def _decoded(self, files: list[torch.Tensor]) -> list[torch.Tensor | None]:
        return [decode_jpeg(file, mode=ImageReadMode.RGB).to(self.device) for file in files]


def config(size: int, policy: str | None, fast: bool = False) -> dict[str, Any]:
    return {"name": "published", "image_size": size, "randaugment": policy, "fast": fast}


def maker_of(found: Any, root: Path, view: Any, batch: int) -> TrainMaker:
    return TrainMaker(
        reader=SampleReader(found, root), transform=view, seed=0, batch_size=batch, rank=0,
        world_size=1, weights=None, stop_after=0,
    )  # fmt: skip


def apart(made: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    gap = (made.cpu().int() - wanted.cpu().int()).abs()
    return {
        "max": int(gap.max()),
        "mean": round(float(gap.double().mean()), 4),
        "share of values that differ": round(float((gap > 0).double().mean()), 5),
    }


def decoders(files: list[bytes], device: torch.device) -> dict[str, float]:
    """The device's decoder beside Pillow's, whole pictures."""
    data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    made = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
    wanted = [torch.from_numpy(np.array(opened(file))).permute(2, 0, 1) for file in files]
    pairs = zip(made, wanted, strict=True)
    flat = [(a.cpu().reshape(-1), b.reshape(-1)) for a, b in pairs]
    return apart(torch.cat([a for a, _ in flat]), torch.cat([b for _, b in flat]))


def operations(files: list[bytes], size: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Each operation beside the exact one: ten images, levels 3.3, 7 and 10, both signs."""
    images = [opened(content).resize((size, size), Image.BICUBIC) for content in files[:10]]
    pixels = np.stack([np.asarray(image) for image in images])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
    found = {}
    for name, exact in sorted({**INCREASING, **PLAIN}.items()):
        made, wanted = [], []
        for level in (3.3, 7.0, 10.0):
            for sign in (1.0, -1.0):
                made.append(augment(batch, [[(name, level, sign)]] * len(images), FILL))
                expected = [np.asarray(exact(image, level, sign, FILL)) for image in images]
                wanted.append(torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
        found[name] = apart(torch.cat(made), torch.cat(wanted))
    return found


def pixels(
    files: list[bytes], found: Any, root: Path, size: int, device: torch.device
) -> dict[str, Any]:
    """Differences of the device path from the exact path, in levels of 255."""
    result: dict[str, Any] = {
        "decoder alone": decoders(files, device),
        "the same, colour not subsampled": decoders(plain_files(files), device),
    }
    count = min(len(files), 64)
    for policy, told in ((None, "before RandAugment"), (POLICY, f"with {POLICY}")):
        view = make_augment(config(size, policy))
        exact = maker_of(found, root, view, count).make(0).batch
        whole = on_device(view, "all", device)
        maker = maker_of(found, root, whole, count)
        for kind in (DecodedOnTheCpu, DeviceInput):
            made = finished(kind(whole, maker), device, maker.make(0)).batch
            assert made.keys == exact.keys and torch.equal(made.labels, exact.labels)
            name = "all but the decoder" if kind is DecodedOnTheCpu else "all"
            result[f"{name}, {told}"] = apart(made.images, exact.images)
        if policy is not None:
            part = on_device(view, "randaugment", device)
            made = finished(
                OperateOnDevice(part), device, maker_of(found, root, part, count).make(0)
            )
            result[f"nothing but RandAugment, {told}"] = apart(made.batch.images, exact.images)
    result["operations"] = operations(files, size, device)
    return result


def finished(
    finish: Callable[[WorkerBatch], WorkerBatch], device: torch.device, made: WorkerBatch
) -> WorkerBatch:
    return next(Prefetcher(device, finish)([made]))


class Counted(TorchDispatchMode):
    """Launches, and bytes of all that they read and write, each tensor whole and once a launch."""

    launches = bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        result = function(*given, **(named or {}))
        if not function.is_view and "empty" not in function.overloadpacket.__name__:
            self.launches += 1
            tensors = {id(t): t for t in tree_leaves((given, result)) if torch.is_tensor(t)}
            for tensor in tensors.values():
                sizes = zip(tensor.shape, tensor.stride(), strict=True)
                self.bytes += tensor.element_size() * math.prod(n for n, step in sizes if step)
        return result


def counted(size: int, batch: int) -> dict[str, float]:
    """What RandAugment asks of a device, counted on the CPU: the mean of four batches."""
    policy = make_augment(config(size, POLICY)).randaugment
    with Counted() as counter, torch.no_grad():
        for step in range(4):
            images = torch.empty((batch, 3, size, size), dtype=torch.uint8).random_()
            chosen = [policy.choices(keyed_rng(0, step, str(n))) for n in range(batch)]
            augment(images, chosen, FILL)
    return {"launches": counter.launches / 4, "GB": round(counter.bytes / 4e9, 2)}


def plain_files(files: list[bytes]) -> list[bytes]:
    """The same pictures, baseline and without colour subsampling."""
    made = []
    for content in files:
        with tempfile.SpooledTemporaryFile() as out:
            opened(content).save(out, "JPEG", quality=90, subsampling=0)
            out.seek(0)
            made.append(out.read())
    return made


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(do: Callable[[], Any], images: int, seconds: float, device: torch.device) -> float:
    """Images a second of ``do``, after two calls that do not count."""
    do(), do()
    wait(device)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        do()
        wait(device)
        count += images
    return round(count / (time.perf_counter() - began), 1)


def stages(
    found: Any, root: Path, size: int, batch: int, seconds: float, device: torch.device
) -> dict[str, float]:
    """Images a second of the device's part alone: the same batch of files over and over."""
    result = {}
    for policy, told in ((None, "decode, cut, resize, flip"), (POLICY, "the same and RandAugment")):
        view = on_device(make_augment(config(size, policy)), "all", device)
        maker = maker_of(found, root, view, batch)
        made = maker.make(0)
        data = list(made.batch.images.split([one.length for one in made.drawn]))
        files = [n for n, one in enumerate(made.drawn) if one.encoded]
        own = DeviceInput(view, maker)
        if policy is None:
            result["decode"] = rate(
                lambda d=data, f=files: decode_jpeg([d[n] for n in f], ImageReadMode.RGB, device),
                len(files), seconds, device,
            )  # fmt: skip
        result[told] = rate(lambda o=own, m=made: finished(o, device, m), batch, seconds, device)
    part = on_device(make_augment(config(size, POLICY)), "randaugment", device)
    shown = maker_of(found, root, part, batch).make(0)
    if device.type == "cuda":
        shown = shown.pin_memory()
    result["copy and RandAugment"] = rate(
        lambda: finished(OperateOnDevice(part), device, shown), batch, seconds, device
    )
    return result


def loader_rate(
    found: Any, root: Path, view: Any, batch: int, workers: int, seconds: float, most: int
) -> dict[str, float]:
    """Images a second of a loader, and the seconds until its first batch."""
    device = getattr(view, "device", torch.device("cpu"))
    began = time.perf_counter()
    every = loader.train_batches(
        found, root, transform=view, seed=0, batch_size=batch, start_step=0, steps=most,
        workers=workers, ledger=Ledger(len(found), 0),
    )  # fmt: skip
    with closing(every):
        next(every)
        first = time.perf_counter() - began
        # What the workers have ready when the clock starts must not count: as many again first.
        for _ in itertools.islice(every, _FIRST + 4 * workers):
            pass
        count, began = 0, time.perf_counter()
        for made in every:
            count += made.n_real
            if time.perf_counter() - began >= seconds:
                break
        wait(device)
        took = time.perf_counter() - began
    return {"images/s": round(count / took, 1), "first batch, s": round(first, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="*", default=[128, 256])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=2.5, help="that each rate is measured")
    parser.add_argument("--limit", type=float, default=110.0, help="seconds; then no more rates")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    began = time.perf_counter()
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.init()
        # Workers read this script again: what it imports is to be there already.
        used = ["timm", "sklearn.datasets", "torchvision", "hgnetv2_pipeline.input.loader"]
        forkserver.set_forkserver_preload(used)
        forkserver.ensure_running()
    files = photographs(options.images, ZOOM)
    result: dict[str, Any] = {
        **fingerprint(options.device),
        "simplejpeg": optional("simplejpeg") is not None,
        "mean file, kB": round(float(np.mean([len(file) for file in files])) / 1e3, 1),
    }
    print(", ".join(f"{key} {value}" for key, value in result.items()), "\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "all").mkdir()
        for n, content in enumerate(files):
            (root / "all" / f"{n:04d}.jpg").write_bytes(content)
        found = scan_folder_tree(root).samples
        result["counted"] = counted(options.size, options.batch[0])
        print(f"RandAugment of a batch of {options.batch[0]}, counted:", result["counted"], "\n")
        result["pixels"] = pixels(files[:64], found, root, options.size, device)
        differences = {k: v for k, v in result["pixels"].items() if k != "operations"}
        differences |= result["pixels"]["operations"]
        head = ("beside the exact path", "max", "mean", "share of values that differ")
        print(table([head, *((name, *gap.values()) for name, gap in differences.items())]))

        size, first = options.size, options.batch[0]
        result["stages"] = stages(found, root, size, first, options.seconds / 2, device)
        rows = [(name, f"{value:,.0f}") for name, value in result["stages"].items()]
        print(table([(f"the device's part alone, batches of {first}", "images/s"), *rows]))

        exact, fast = (make_augment(config(size, POLICY, fast)) for fast in (False, True))
        views = {
            "fast, RandAugment on the device": on_device(fast, "randaugment", device),
            "fast": fast,
            "device": on_device(exact, "all", device),
            "exact": exact,
            "exact, RandAugment on the device": on_device(exact, "randaugment", device),
        }
        # The many workers first, in case the time does not do.
        many, few = options.workers[-1], options.workers[0]
        plan = [(name, first, many) for name in views]
        plan += [("device", batch, many) for batch in options.batch[1:]]
        plan += [("device", first, n) for n in options.workers[-2::-1]]
        plan += [(name, first, few) for name in views if name != "device" and few != many]
        result["loaders"] = []
        for name, batch, workers in plan:
            if time.perf_counter() - began > options.limit:
                print(f"not measured within {options.limit:g} s: {name}, {batch}, {workers}")
                continue
            run = {"path": name, "batch": batch, "workers": workers} | loader_rate(
                found, root, views[name], batch, workers, options.seconds, 10**6
            )
            result["loaders"].append(run)
        head = ("loader", "batch", "workers", "images/s", "first batch after, s")
        print(table([head, *(tuple(run.values()) for run in result["loaders"])]))
    result["seconds in all"] = round(time.perf_counter() - began, 1)
    print(f"{result['seconds in all']} s in all")
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
