"""The repository for Triton: what it holds; and, marked ``triton``, what a real server makes of it.

``pytest -m triton`` makes an environment of its own in build/environments (307 MB).
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from deployment_cases import CLASSES
from triton_server import PACKAGES, Running, on_python, site_of, tritonserver

from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.triton.repository import write_repository
from hgnetv2_pipeline.errors import ParameterError
from project_copies import ROOT, environment_python

SERVING = ROOT / "tests" / "serving"


@pytest.fixture(scope="session")
def repository(precisions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(precisions, folder, precisions=("int8",), max_batch=4)
    return folder


def test_it_holds_network_preprocessing_and_both_as_one(repository: Path, precisions: Path) -> None:
    """int8 is left out: Triton's ONNX Runtime would not compute it as it was measured."""
    assert {path.relative_to(repository).as_posix() for path in repository.rglob("*.*")} == {
        "b0/config.pbtxt", "b0/labels.txt", "b0/1/model.onnx",
        "b0_preprocess/config.pbtxt", "b0_preprocess/1/model.py",
        "b0_preprocess/1/preprocess.json",
        "b0_images/config.pbtxt", "b0_images/labels.txt", "b0_images/1/README.txt",
    }  # fmt: skip
    assert (repository / "b0/1/model.onnx").read_bytes() == (precisions / "model.onnx").read_bytes()
    source = (repository / "b0_preprocess/1/model.py").read_text()
    assert "class TritonPythonModel" in source and "import hgnetv2_pipeline" not in source


def test_other_precisions_and_a_plan_are_models_of_their_own(
    precisions: Path, tmp_path: Path
) -> None:
    for name in ("model.onnx", "model.fp16.onnx", "labels.txt", "preprocess.json"):
        (tmp_path / name).symlink_to(precisions / name)
    (tmp_path / "model.engine").write_bytes(b"a plan")
    names = write_repository(tmp_path, tmp_path / "out", precisions=("fp32", "fp16"), max_batch=2)
    assert names == [
        "b0", "b0_fp16", "b0_fp16_images", "b0_images", "b0_preprocess", "b0_tensorrt",
        "b0_tensorrt_images",
    ]  # fmt: skip
    config = (tmp_path / "out/b0_tensorrt/config.pbtxt").read_text()
    assert 'backend: "tensorrt"' in config and "max_batch_size: 2" in config
    assert (tmp_path / "out/b0_tensorrt/1/model.plan").read_bytes() == b"a plan"


def test_a_file_of_one_batch_size_is_refused(precisions: Path, tmp_path: Path) -> None:
    proto = onnx.load(precisions / "model.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ParameterError, match="takes batches of 1 alone"):
        write_repository(tmp_path, tmp_path / "out", precisions=("fp32",), max_batch=2)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="session")
def python() -> Path:
    """The environment of the server and its clients: its packages conflict with ours."""
    return environment_python(*PACKAGES)


@pytest.fixture(scope="session")
def server(
    repository: Path, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    work = tmp_path_factory.mktemp("server")
    copy = on_python(repository, work / "repository", site_of(python))
    shutil.copytree(copy / "b0" / "1", copy / "b0" / "2")
    with tritonserver(python, copy, work) as running:
        assert running.says("ready"), running.log.read_text()
        yield running


@pytest.mark.triton
def test_the_server_reads_every_configuration(
    repository: Path, python: Path, tmp_path: Path
) -> None:
    """As they are written: of the network the server lacks the backend, and says nothing else."""
    copy = on_python(repository, tmp_path / "as_written", site_of(python), networks=False)
    with tritonserver(python, copy, tmp_path) as running:
        log = running.log.read_text()
    assert "successfully loaded 'b0_preprocess'" in log
    assert "failed to load 'b0' version 1: Invalid argument: unable to find backend library" in log
    assert "ensemble 'b0_images' depends on 'b0' which has no loaded version" in log


@pytest.mark.triton
def test_every_way_of_tritonclient_is_answered(
    server: Running, precisions: Path, tmp_path: Path
) -> None:
    with load_engine(precisions / "model.onnx", "ort", threads=1) as engine:
        random = np.random.default_rng(5)
        images = random.standard_normal((3, 3, *engine.preprocess.size)).astype(np.float32)
        logits = np.concatenate([engine.logits(image[None]) for image in images])
    np.savez(tmp_path / "expected.npz", images=images, logits=logits)
    done = server.client(
        SERVING / "conformance.py", "--http", server.http, "--grpc", server.grpc,
        "--model", "b0", "--expect", tmp_path / "expected.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 30 and all(line.startswith("ok ") for line in lines)


@pytest.mark.triton
def test_image_files_are_answered_as_by_the_package(
    server: Running, precisions: Path, pictures: Path
) -> None:
    names = [pictures / "a.jpg", pictures / "b.PNG", pictures / "inner dir/é 7.webp"]
    done = server.client(
        Path(__file__).with_name("triton_images.py"), server.http, server.grpc, "b0_images", *names
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with load_engine(precisions / "model.onnx", "ort", threads=1) as engine:
        exact = np.concatenate([engine.logits(engine.preprocess(name)[None]) for name in names])
        best = [record["label_names"] for record in engine.predict(names, topk=2)]
    for protocol, said in json.loads(done.stdout).items():
        assert np.array_equal(np.float32(said["single"]), exact), protocol
        assert np.allclose(said["batch"], exact, rtol=1e-5, atol=1e-5)
        assert [[cell.split(":", 2)[2] for cell in row] for row in said["best"]] == best
        assert "image 1: not an image of an allowed format" in said["error"]
    assert set(best[0]) <= set(CLASSES)
    with urllib.request.urlopen(f"http://{server.http}/v2/models/b0") as answer:
        assert json.loads(answer.read())["versions"] == ["1", "2"]
    # Requests that come at once are computed together.
    with urllib.request.urlopen(f"http://{server.http}/v2/models/b0/versions/2/stats") as answer:
        (said,) = json.loads(answer.read())["model_stats"]
    assert said["inference_count"] > said["execution_count"]
    assert max(row["batch_size"] for row in said["batch_stats"]) > len(names)
