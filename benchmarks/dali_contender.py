"""DALI's training view on the CPU, timed on command by ``bench_input.py`` (``harness.Elsewhere``).

Runs with the Python of an environment that has ``nvidia-dali-cuda120`` (from PyPI, 424 MB; it needs
no GPU) and NumPy; nothing of this project is imported. Arguments: a folder of JPEG files, the size
of a view. Files are held in memory; a line on standard input makes one view of each, by one thread:
cut while decoding, resized with antialiasing, RandAugment of two operations, mirrored, uint8.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from nvidia import dali
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.auto_aug import rand_augment

BATCH = 20  # divides the number of files
files = [np.frombuffer(path.read_bytes(), np.uint8) for path in sorted(Path(sys.argv[1]).iterdir())]
size = int(sys.argv[2])


@pipeline_def(
    batch_size=BATCH, num_threads=1, device_id=None, seed=0, enable_conditionals=True,
    prefetch_queue_depth=1, exec_async=False, exec_pipelined=False,
)  # fmt: skip
def training():
    encoded = fn.external_source(
        source=lambda sample: files[sample.idx_in_epoch % len(files)],
        batch=False,
        dtype=types.UINT8,
    )
    images = fn.decoders.image_random_crop(
        encoded, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
    )
    images = fn.resize(
        images, size=[size, size], interp_type=types.INTERP_CUBIC, antialias=True, dtype=types.UINT8
    )
    images = rand_augment.rand_augment(images, n=2, m=7)
    return fn.flip(images, horizontal=fn.random.coin_flip())


pipeline = training()
pipeline.build()
pipeline.run()
print(json.dumps({"dali": dali.__version__}), flush=True)
for _ in sys.stdin:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(0, len(files), BATCH):
        views = pipeline.run()[0]
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    assert views.at(0).shape == (size, size, 3) and views.at(0).dtype == np.uint8
    print(json.dumps(seconds), flush=True)
