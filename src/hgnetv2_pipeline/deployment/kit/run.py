"""Build, check and time the graphs of this kit with TensorRT: python run.py

Needs an NVIDIA GPU, Python 3.11 or later, numpy, cuda-bindings, and tensorrt (10 or 11) or TensorRT
for RTX; where both are installed each has its turn (``--engines`` chooses). Each graph is built
(plans/), answers the packed validation images (accuracy, and top-5 and logits beside the stored
ones; one that is computed wrongly is refused) and is timed by PaddleClas's protocol. What one
library did goes into one file, results/<time>-<engine>.json; copy it back into the results/ folder
of the kit where it came from, and `kedro run --pipeline reporting` shows it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hgnetv2_pipeline.deployment.kit.cuda_memory import CudaDevice
from hgnetv2_pipeline.deployment.kit.libraries import LIBRARIES, Library, PlanError
from hgnetv2_pipeline.deployment.kit.plan_runner import PlanRunner
from hgnetv2_pipeline.deployment.kit.plans import (
    BatchProfile,
    PlanSpec,
    capability,
    provide_plan,
)
from hgnetv2_pipeline.deployment.kit.timing import time_plan

_log = logging.getLogger("kit")

KIT, VALIDATION, RESULTS = "kit.json", "validation.npz", "results"
FORMAT = "hgnetv2_pipeline.tensorrt/1"

Opened = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, Any]]]
"""An executor's two faces for one graph: logits of images, and the timing of one batch."""


def check(
    logits: Callable[[np.ndarray], np.ndarray], folder: Path, kit: dict[str, Any]
) -> dict[str, Any]:
    """Accuracy on the packed images, and how near the logits are to the stored fp32 ones."""
    packed = np.load(folder / VALIDATION, allow_pickle=False)
    pixels, labels, stored = packed["images"], packed["labels"], packed["logits"]
    mean, std = (np.array(kit["preprocess"][name], np.float32) for name in ("mean", "std"))
    got = np.concatenate(
        [
            logits(
                np.ascontiguousarray(((part / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
            )
            for part in (pixels[at : at + 16] for at in range(0, len(pixels), 16))
        ]
    )
    k = min(5, stored.shape[1])
    tops = [
        np.sort(np.argsort(-rows, axis=1, kind="stable")[:, :k], axis=1) for rows in (got, stored)
    ]
    error = np.abs(got.astype(np.float64) - stored)
    return {
        "n": len(labels),
        "top1_count": int((got.argmax(1) == labels).sum()),
        "stored_top1_count": int((stored.argmax(1) == labels).sum()),
        "same_top1": int((got.argmax(1) == stored.argmax(1)).sum()),
        "same_top5_set": int((tops[0] == tops[1]).all(axis=1).sum()),
        "relative_error": float(f"{error.max() / (stored.std() or 1):.4g}"),
        "rms_error": float(f"{np.sqrt(np.square(error).mean()) / (stored.std() or 1):.4g}"),
    }


def measure_kit(
    folder: Path,
    open_graph: Callable[[Path, str], Opened],
    *,
    engine: str,
    device: str,
    versions: dict[str, str],
    batch_sizes: Sequence[int],
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Check and time every graph of the kit with an executor; a graph that fails says why.

    ``engine`` and ``versions``: what built and ran it, for the record.
    """
    kit = json.loads((folder / KIT).read_text(encoding="utf-8"))
    size = kit["preprocess"]["crop"]  # the side of a square, or [height, width]
    edges = [size, size] if isinstance(size, int) else size
    random = np.random.default_rng(0)
    rows = []
    for graph in kit["graphs"]:
        if only and graph["name"] not in only:
            continue
        row = {**graph, "engine": engine, "model": kit["model"]}
        path = folder / graph["file"]
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != graph["sha256"]:
                raise PlanError(f"{graph['file']} is not the file that the kit was made with")
            logits, timing = open_graph(path, graph["precision"])
            row["check"] = check(logits, folder, kit)
            if not row["check"]["rms_error"] <= graph["max_rms_error"]:  # nor for NaN
                raise PlanError(
                    f"computed wrongly on {device}: its logits are off by "
                    f"{row['check']['rms_error']:.2g} of their standard deviation (allowed "
                    f"{graph['max_rms_error']:g}); it is not timed"
                )
            row["timings"] = [
                timing(random.standard_normal((batch, 3, *edges), np.float32))
                for batch in batch_sizes
            ]
        except (PlanError, OSError) as error:
            row["failed"] = str(error)
        except Exception as error:  # the bindings' own kinds; hours of building may be behind
            row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        rows.append(row)
        _log.info("%s: %s", graph["name"], row.get("failed") or _line(row))
    if not rows:
        names = ", ".join(graph["name"] for graph in kit["graphs"])
        raise PlanError(f"no graph of the kit is called {', '.join(only)}; there are {names}")
    return {
        "format": FORMAT,
        "engine": engine,
        "model": kit["model"],
        "source_sha256": kit["source_sha256"],
        "device": device,
        "versions": versions,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "image_size": size,
        "rows": rows,
    }


def write_results(folder: Path, found: dict[str, Any]) -> Path:
    """One new file in ``results/``, whole or not at all."""
    (folder / RESULTS).mkdir(exist_ok=True)
    name = f"%Y-%m-%dT%H.%M.%SZ-{found['engine']}.json"
    path = folder / RESULTS / time.strftime(name, time.gmtime())
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)
    return path


def tensorrt_opener(
    folder: Path, device: Any, library: Library, profile: BatchProfile, *, warmup: int, runs: int
) -> Callable[[Path, str], Opened]:
    """Graphs opened by a TensorRT: the plan built if need be, deserialised, run on ``device``."""

    def open_graph(path: Path, precision: str) -> Opened:
        gpu = capability(device.name) if library.portable else device.name
        plan = provide_plan(path, folder / "plans", PlanSpec(library, precision, profile, gpu))
        runner = PlanRunner(plan, device, library=library)
        return runner.logits, lambda images: time_plan(runner, images, warmup=warmup, runs=runs)

    return open_graph


def installed(names: Sequence[str]) -> list[Library]:
    """The libraries of these engines, or of all that can be imported; PlanError without any."""
    if names:
        return [LIBRARIES[name] for name in names]
    found, refused = [], []
    for library in LIBRARIES.values():
        try:
            library.load()
            found.append(library)
        except PlanError as error:
            refused.append(str(error))
    if not found:
        raise PlanError("; or ".join(refused))
    return found


def _line(row: dict[str, Any]) -> str:
    checked, timings = row["check"], row["timings"]
    times = ", ".join(
        f"batch {entry['batch_size']}: {entry['gpu']['p50_ms']:.3f} ms GPU" for entry in timings
    )
    return (
        f"top-1 {checked['top1_count']} of {checked['n']} (fp32: {checked['stored_top1_count']}), "
        f"same top-5 {checked['same_top5_set']}, {times}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build, check and time this kit with TensorRT.")
    parser.add_argument(
        "--engines", nargs="*", default=[], choices=sorted(LIBRARIES), help="default: all installed"
    )
    parser.add_argument("--graphs", nargs="*", default=[], help="names in kit.json; default: all")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=None)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    folder = Path(__file__).resolve().parent
    try:
        kit = json.loads((folder / KIT).read_text(encoding="utf-8"))
        profile = BatchProfile(**kit["profile"])
        batch_sizes = options.batch_sizes or kit["batch_sizes"]
        beyond = [size for size in batch_sizes if not profile.least <= size <= profile.most]
        if beyond:
            raise PlanError(
                f"batch sizes {beyond} are outside the profile {profile.least}..{profile.most} "
                f'that the plans are built for (--batch-sizes; "profile" in {KIT})'
            )
        libraries = installed(options.engines)
        device = CudaDevice()
        failed = False
        for library in libraries:
            found = measure_kit(
                folder,
                tensorrt_opener(
                    folder, device, library, profile, warmup=options.warmup, runs=options.runs
                ),
                engine=library.engine,
                device=device.name,
                versions={library.engine: library.load().__version__, **device.versions},
                batch_sizes=batch_sizes,
                only=options.graphs,
            )
            _log.info("wrote %s", write_results(folder, found))
            failed |= any("failed" in row for row in found["rows"])
    except PlanError as error:
        _log.error("%s", error)
        return 2
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
