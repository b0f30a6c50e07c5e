"""Image files sent to a Triton server by ``tritonclient``: HTTP GRPC MODEL PICTURE... prints JSON.

For each protocol: ``logits`` of every picture by itself and of all in one request, the best two
classes by the classification extension, and the ``error`` where one of them is no picture. At last
the first picture is asked for by sixteen threads at once.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


def main(http: str, grpc: str, model: str, *pictures: str) -> None:
    files = [Path(picture).read_bytes() for picture in pictures]
    said: dict[str, Any] = {}
    for kit, address in ((tritonclient.http, http), (tritonclient.grpc, grpc)):
        client = kit.InferenceServerClient(address)

        def ask(contents, kit=kit, client=client, **wanted):
            batch = np.array(contents, dtype=np.object_)[:, None]
            given = kit.InferInput("image", list(batch.shape), "BYTES")
            given.set_data_from_numpy(batch)
            outputs = [kit.InferRequestedOutput("logits", **wanted)]
            return client.infer(model, [given], outputs=outputs).as_numpy("logits")

        try:
            ask([files[0], b"no picture"])
            error = ""
        except InferenceServerException as refused:
            error = f"{refused.status()}: {refused.message()}"
        said[kit.__name__.rpartition(".")[2]] = {
            "single": [ask([content])[0].tolist() for content in files],
            "batch": ask(files).tolist(),
            "best": [[cell.decode() for cell in row] for row in ask(files, class_count=2)],
            "error": error,
        }
        if kit is tritonclient.grpc:
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(ask, [files[:1]] * 64))
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
