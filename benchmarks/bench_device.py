"""How far input made on a device is from the exact path, and how fast batches come.

python benchmarks/bench_device.py [--device cpu] [--images 200] [--batch 50] [--workers 0]

The files are those of bench_input.py, in a folder of their own. Prints the difference of views
before and after RandAugment, of each operation, and images a second (wall time, best of three
passes) of the exact, the fast and the device path; then the same as a JSON line. With ``--device
cpu`` the decoder is libjpeg-turbo and the rate of the device path says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_input import FILL, POLICY, opened, photographs
from PIL import Image

from hgnetv2_pipeline.data import Ledger, loader, make_augment, scan_folder_tree
from hgnetv2_pipeline.data.deviceops import augment
from hgnetv2_pipeline.data.drawn import on_device
from hgnetv2_pipeline.data.randaugment import INCREASING, PLAIN


def batches(found: Any, root: Path, view: Any, size: int, workers: int) -> list[torch.Tensor]:
    """One pass over the samples."""
    every = loader.train_batches(
        found,
        root,
        transform=view,
        seed=0,
        batch_size=size,
        start_step=0,
        steps=len(found) // size,
        workers=workers,
        ledger=Ledger(len(found), 0),
    )
    return [batch.images for batch in every]


def apart(made: list[torch.Tensor], wanted: list[torch.Tensor]) -> dict[str, float]:
    gap = (torch.cat(made).cpu().int() - torch.cat(wanted).int()).abs().float()
    return {"max": int(gap.max()), "mean": round(float(gap.mean()), 4)}


def operations(files: list[bytes], size: int, device: str) -> dict[str, dict[str, float]]:
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
        found[name] = apart(made, wanted)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    files = photographs(options.images)
    result: dict[str, Any] = {**vars(options), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "all").mkdir()
        for n, content in enumerate(files):
            (root / "all" / f"{n:04d}.jpg").write_bytes(content)
        found = scan_folder_tree(root).samples
        for policy in (None, POLICY):
            config = {"name": "published", "image_size": options.size, "randaugment": policy}
            views = {
                "exact": make_augment(config),
                "fast": make_augment({**config, "fast": True}),
                "device": on_device(make_augment(config), options.device),
            }
            made, rates = {}, dict.fromkeys(views, 0.0)
            for _ in range(3):
                for name, view in views.items():
                    began = time.perf_counter()
                    made[name] = batches(found, root, view, options.batch, options.workers)
                    if made[name][0].is_cuda:
                        torch.cuda.synchronize()
                    rate = options.images / (time.perf_counter() - began)
                    rates[name] = max(rates[name], round(rate, 1))
            result[str(policy)] = {
                "images/s": rates,
                "device beside exact": apart(made["device"], made["exact"]),
                "device beside fast": apart(made["device"], made["fast"]),
            }
            print(f"RandAugment {policy}: {result[str(policy)]}")
    result["operations"] = operations(files, options.size, options.device)
    print("\n| operation | max | mean |\n|---|---|---|")
    for name, gap in result["operations"].items():
        print(f"| {name} | {gap['max']} | {gap['mean']:.4f} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
