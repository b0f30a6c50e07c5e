"""Clients that others wrote, in environments of their own, against our server."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from client_environment import client_python
from serving_cases import SIDE, Running, picture, tensor

from hang_guard import HANG
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from in_browser import run_in_browser

HERE = Path(__file__).parent


def run_client(folder: Path, program: Path, *arguments: object) -> str:
    """What a client prints, run in ``folder``; it must end with 0."""
    done = subprocess.run(
        [program, *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        timeout=2 * HANG,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.triton
def test_tritonclient_asks_in_every_way(server: Running, engine: OrtEngine, tmp_path: Path) -> None:
    images = tensor(4)
    logits = np.concatenate([engine.logits(image[None]) for image in images])
    np.savez(tmp_path / "expected.npz", images=images, logits=logits)
    python = client_python("tritonclient[http,grpc]==2.73.0")
    said = run_client(
        tmp_path, python, HERE / "conformance.py", "--http", server.http, "--grpc", server.grpc,
        "--model", "m", "--expect", tmp_path / "expected.npz", "--size", SIDE, SIDE,
    )  # fmt: skip
    assert said.count("\nok ") > 30 and "FAILED" not in said


@pytest.mark.clients
def test_schemathesis_finds_the_server_as_its_document_says(
    server: Running, tmp_path: Path
) -> None:
    python = client_python("schemathesis>=4")
    address = f"http://{server.http}"
    said = run_client(
        tmp_path, python.with_name("st"), "run", f"{address}/openapi.json", "--url", address,
        "--max-examples", 30, "--seed", 7, "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance,response_headers_conformance",
        "--suppress-health-check", "all", "--generation-deterministic",
    )  # fmt: skip
    assert re.search(r"(\d{3,}) generated, \1 passed", said), said[-4000:]


@pytest.mark.clients
def test_a_browser_drops_pastes_and_chooses_pictures(
    server: Running, engine: OrtEngine, tmp_path: Path
) -> None:
    for name, seed in (("dropped.png", 1), ("pasted.png", 2), ("chosen.jpg", 3)):
        kind = "JPEG" if name.endswith("jpg") else "PNG"
        (tmp_path / name).write_bytes(picture(seed, kind, (200, 150)))
    said = run_in_browser("drop_pictures", f"http://{server.http}/", tmp_path)
    for line, name in zip(said, ("dropped.png", "pasted.png", "chosen.jpg") * 2, strict=True):
        (row,) = engine.predict((tmp_path / name).read_bytes())
        best = f"{row['label_names'][0]} {100 * row['scores'][0]:.1f} %"
        assert line == f"{name}: {best}"
