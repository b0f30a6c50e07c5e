"""NVIDIA's parser and builder at work, in a process of its own.

A crash of theirs ends this process and not that of the tests, and what they print past their
logger shows: ``python rtx_process.py jobs.json`` prints nothing itself and writes
``<name>.found.json`` and ``<name>.npy`` beside each job's file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def work(job: dict[str, Any]) -> None:
    """Parse one ONNX file, note its layers, build it, and answer ``images.npy`` if asked."""
    import tensorrt_rtx_bindings as trt
    from rtx_network import evaluate, layer_table

    from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT_RTX, listener
    from hgnetv2_pipeline.deployment.kit.plans import (
        AMPERE_ON,
        BatchProfile,
        PlanSpec,
        build_plan,
        parse_network,
    )

    path = Path(job["file"])
    logger, heard = listener(trt)
    heard.clear()
    builder = trt.Builder(logger)
    network = parse_network(trt, builder, path.read_bytes(), logger, TENSORRT_RTX.title)
    found: dict[str, Any] = {"table": layer_table(network), "parser": list(heard)}
    if job.get("evaluate"):
        images = np.load(path.with_name("images.npy"))
        np.save(path.with_suffix(".npy"), evaluate(network, images))
    spec = PlanSpec(TENSORRT_RTX, job["precision"], BatchProfile(), job.get("gpu", AMPERE_ON))
    began = time.perf_counter()
    built = build_plan(path.read_bytes(), spec)
    found |= {"bytes": len(built.plan), "builder": built.warnings}
    found["seconds"] = time.perf_counter() - began
    path.with_suffix(".found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        work(each)
