"""A server's life: how it starts or says why not, takes new versions, and ends without a loss."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_cases import HGNETV2, Running, infer_body, logits_of, picture, running, tensor

from filled_networks import Filled, filled  # noqa: F401 - a fixture
from hang_guard import HANG, wait_until
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.serving import repository
from hgnetv2_pipeline.serving.batching import BatchSpec
from hgnetv2_pipeline.serving.proto_messages import MESSAGES, SERVICE
from hgnetv2_pipeline.serving.repository import Repository

INFER = "/v2/models/m/infer"


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _spoiled(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


SPOILED = {
    "no labels": (_without("labels.txt"), "no labels.txt"),
    "no manifest": (_without("manifest.json"), "no manifest.json"),
    "a cut model": (_spoiled("model.onnx", lambda b: b[:-1]), "SHA-256 differs"),
    "other labels": (_spoiled("labels.txt", lambda b: b + b"x\n"), "SHA-256 differs"),
    "a manifest of nothing": (_spoiled("manifest.json", lambda b: b"[]"), "manifest.json"),
    "a manifest that lists nothing": (
        lambda folder: (folder / "manifest.json").write_text('{"files": {}}') and None,
        "does not list labels.txt, model.onnx, preprocess.json",
    ),
    "no manifest at all": (_spoiled("manifest.json", lambda b: b"\xff{"), "manifest.json"),
}


def refused(*arguments: str, code: int) -> str:
    """The one line with which ``hgnetv2 serve`` ends."""
    done = subprocess.run(
        [HGNETV2, "serve", *arguments], capture_output=True, text=True, timeout=HANG
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert not done.stdout
    last = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    return last


@pytest.mark.parametrize("case", SPOILED)
def test_a_damaged_folder_is_refused_in_a_line(exported: Path, tmp_path: Path, case: str) -> None:
    from hgnetv2_pipeline.errors import WeightsError
    from hgnetv2_pipeline.serving.repository import verify_export

    spoil, words = SPOILED[case]
    folder = tmp_path / "b0"
    shutil.copytree(exported, folder)
    verify_export(folder)
    spoil(folder)
    with pytest.raises(WeightsError, match=words):
        verify_export(folder)


def test_the_command_ends_with_a_line_and_the_codes_of_all_commands(
    exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "b0"
    shutil.copytree(exported, folder)
    (folder / "labels.txt").unlink()
    assert "no labels.txt" in refused(str(folder), code=4)
    assert "unknown engine" in refused(str(exported), "--engine", "x", code=2)
    same = refused(f"m={exported}", f"m={exported}", "--engine", "ort", code=2)
    assert "two models are called m" in same
    for place, version in ("one", "1"), ("two", "2"):
        shutil.copytree(exported, tmp_path / place / version)
    several = [f"m={tmp_path / place}" for place in ("one", "two")]
    assert "two models are called m" in refused(*several, "--engine", "ort", code=2)
    one_port = ("--port", "8114", "--grpc-port", "8114")
    assert "both 8114" in refused(str(exported), *one_port, code=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in refused(str(exported), "--port", port, code=2)
        both = ("--port", "0", "--grpc-port", port, "--engine", "ort")
        assert "--grpc-port" in refused(str(exported), *both, code=2)


def test_s07_it_does_not_listen_elsewhere_without_a_token(exported: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from hgnetv2_pipeline.commands.main import main

    short = tmp_path / "token"
    short.write_text("short\n")
    for arguments, words in (
        (("--host", "0.0.0.0"), "no token"),  # noqa: S104 - it is refused
        (("--host", "::"), "no token"),
        (("--token-file", str(short)), "16 printable"),
        (("--token-file", str(tmp_path / "none")), "cannot be read"),
    ):
        done = CliRunner(env={"HGNETV2_TOKEN": ""}).invoke(
            main, ["serve", str(exported), *arguments]
        )
        assert done.exit_code == 2 and words in done.output, done.output


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from hgnetv2_pipeline.commands import serve
    from hgnetv2_pipeline.commands.main import main

    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "grpc" else name)
    done = CliRunner().invoke(main, ["serve", str(exported)])
    assert done.exit_code == 2 and "needs grpc" in done.output and "[serve]" in done.output


def test_s08_it_listens_on_this_machine_alone(server: Running) -> None:
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, port = local.split(":")
            if state == "0A" and int(port, 16) in (
                int(server.http.rsplit(":", 1)[1]), int(server.grpc.rsplit(":", 1)[1])
            ):  # fmt: skip
                listening.add(address)
    mapped = "0000000000000000FFFF0000"  # gRPC speaks IPv6 sockets to IPv4 addresses
    assert listening <= {"0100007F", f"{mapped}0100007F"} and listening


def replace_folder(folder: Path, by: Path) -> None:
    """As a careful person does it: made whole aside, then renamed."""
    aside, old = folder.with_name("aside"), folder.with_name("old")
    shutil.copytree(by, aside)
    folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old)


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_s10_a_new_version_takes_over_without_a_lost_request(
    exported: Path, exported_anew: Path, tmp_path: Path, times: int
) -> None:
    served = tmp_path / "served"
    shutil.copytree(exported, served)
    images = tensor(2)
    answers = [OrtEngine(f / "model.onnx").logits(images) for f in (exported, exported_anew)]
    assert not np.array_equal(*answers)
    stop, wrong, seen = threading.Event(), [], []

    with running(tmp_path, f"m={served}", limits={"connections": 500}, waiting=64) as server:

        def ask() -> None:
            while not stop.is_set():
                status, headers, content = server.ask("POST", INFER, *infer_body(images))
                if status != 200:
                    wrong.append((status, content))
                    continue
                found = logits_of(headers, content)
                which = [np.array_equal(found, answer) for answer in answers]
                if sum(which) != 1:
                    wrong.append((status, found))
                seen.append(which.index(True))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(times):
                replace_folder(served, (exported_anew, exported)[turn % 2])
                before = len(seen)
                wait_until(lambda b=before, t=turn: (t + 1) % 2 in seen[b:], "the new one answers")
            # What is not whole changes nothing.
            broken = tmp_path / "broken"
            shutil.copytree(exported_anew, broken)
            (broken / "labels.txt").unlink()
            replace_folder(served, broken)
            wait_until(lambda: any("stays as it is" in r.get("message", "") for r in server.log()),
                       "the damaged one is refused")  # fmt: skip
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not wrong and len(seen) > times
        assert server.stop() == 0


def test_numbered_folders_are_versions_and_the_highest_is_the_default(
    exported: Path, exported_anew: Path, tmp_path: Path
) -> None:
    served = tmp_path / "m"
    shutil.copytree(exported, served / "2")
    images = tensor()
    old, new = (OrtEngine(f / "model.onnx").logits(images) for f in (exported, exported_anew))
    with running(tmp_path, f"m={served}", waiting=10) as server:

        def versions() -> list[str]:
            return list(server.json("GET", "/v2/models/m")["versions"])

        def logits(path: str) -> np.ndarray:
            return logits_of(*server.ask("POST", path, *infer_body(images))[1:])

        assert versions() == ["2"]
        shutil.copytree(exported_anew, served / "aside")
        (served / "aside").rename(served / "10")
        wait_until(lambda: versions() == ["2", "10"], "version 10 is there")
        assert np.array_equal(logits(INFER), new)
        assert np.array_equal(logits("/v2/models/m/versions/2/infer"), old)
        (served / "10").rename(served / "gone")
        wait_until(lambda: versions() == ["2"], "version 10 is gone")
        assert np.array_equal(logits(INFER), old)


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_s06_sigterm_loses_nothing_that_was_accepted(
    exported: Path, tmp_path: Path, times: int
) -> None:
    for _ in range(times):
        _stopped_under_load(exported, tmp_path)


def _stopped_under_load(exported: Path, folder: Path) -> None:
    body, headers = infer_body(tensor())
    answered: set[str] = set()
    failed: dict[str, str] = {}
    numbers = itertools.count()
    stop = threading.Event()

    with running(folder, f"m={exported}", log_requests=True, waiting=64) as server:

        def ask_http() -> None:
            connection = http.client.HTTPConnection(server.http, timeout=HANG)
            while not stop.is_set():
                name = f"n{next(numbers)}"
                try:
                    connection.request("POST", INFER, body, headers | {"X-Request-Id": name})
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException) as error:
                    failed[name] = repr(error)
                    if isinstance(error, ConnectionRefusedError):
                        return
                    connection.close()
                else:
                    assert answer.status == 200
                    answered.add(name)

        codes: list[grpc.StatusCode] = []

        def ask_grpc() -> None:
            made = MESSAGES["ModelInferRequest"](model_name="m")
            made.inputs.add(name="images", datatype="FP32", shape=(1, 3, 32, 32))
            made.raw_input_contents.append(tensor().tobytes())
            content = made.SerializeToString()
            with grpc.insecure_channel(server.grpc) as channel:
                call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
                while not stop.is_set():
                    try:
                        call(content, timeout=HANG)
                    except grpc.RpcError as error:
                        codes.append(error.code())
                        return

        threads = [threading.Thread(target=ask) for ask in (*[ask_http] * 4, ask_grpc)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answered) > 20, "requests are answered")
        code = server.stop()
        stop.set()
        for thread in threads:
            thread.join()
        lines = [row for row in server.log() if row.get("door") == "infer"]
    assert code == 0
    # Whatever the server has begun it has answered, and that has arrived.
    begun = {str(row["request"]) for row in lines}
    assert {str(row["status"]) for row in lines} == {"200"}
    assert begun <= answered, {name: failed.get(name) for name in begun - answered}
    # A call that gRPC has not begun is one that its client may send again.
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_other_engines_of_the_ladder_serve(
    exported: Path,
    filled: Filled,  # noqa: F811
    tmp_path: Path,
    engine: str,
) -> None:
    from hgnetv2_pipeline.deployment.engines.ladder import load_engine
    from hgnetv2_pipeline.weights.writing import save_weights

    source = exported
    if engine == "torch":
        source = tmp_path / "student.safetensors"
        save_weights(source, filled("b0", 5), {"variant": "b0"})
    with (
        running(tmp_path, f"m={source}", engine=engine) as server,
        load_engine(source, engine=engine, threads=1) as own,
    ):
        images = tensor(side=own.preprocess.size[0])
        status, headers, content = server.ask("POST", INFER, *infer_body(images))
        assert status == 200 and np.array_equal(logits_of(headers, content), own.logits(images))


def test_readiness_ends_before_the_server_does(exported: Path, tmp_path: Path) -> None:
    with running(tmp_path, f"m={exported}", waiting=10) as server:
        connection = http.client.HTTPConnection(server.http, timeout=HANG)

        def ready() -> tuple[int, str | None]:
            connection.request("GET", "/v2/health/ready")
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("connection")

        assert ready() == (200, None)
        server.process.terminate()
        found = ready()
        while found[0] == 200:
            found = ready()
        assert found == (503, "close")
        assert server.process.wait(HANG) == 0


def test_the_log_is_one_json_object_per_line(exported: Path, tmp_path: Path) -> None:
    with running(tmp_path, f"m={exported}", waiting=10) as server:
        server.ask("GET", "/nowhere")
        assert server.stop() == 0
        rows = server.log()
    assert all({"time", "level"} <= row.keys() for row in rows)
    assert rows[-1]["message"] == "stopped"
    assert [row["status"] for row in rows if "request" in row] == ["404"]
    assert str(exported) not in json.dumps(rows)


@pytest.mark.slow
def test_memory_is_flat_over_a_hundred_thousand_requests(exported: Path, tmp_path: Path) -> None:
    images, content = tensor(), picture()
    body, headers = infer_body(images)
    made = MESSAGES["ModelInferRequest"](model_name="m")
    made.inputs.add(name="images", datatype="FP32", shape=images.shape)
    made.raw_input_contents.append(images.tobytes())
    with (
        running(tmp_path, f"m={exported}", waiting=10) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        connection = http.client.HTTPConnection(server.http, timeout=HANG)
        resident = []
        for number in range(100_000):
            if number % 10 == 0:
                assert call(made.SerializeToString(), timeout=HANG)
                continue
            if number % 10 == 1:
                connection.request("POST", "/v1/classify", content)
            else:
                connection.request("POST", INFER, body, headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            if number % 10_000 == 9_999:
                resident.append(server.resident() >> 10)
        print("KiB resident after every 10,000:", resident)  # noqa: T201 - with -s
        assert resident[-1] - resident[0] < 4 << 10


@pytest.mark.parametrize("wrong", [RuntimeError("no driver"), MemoryError(), None])
def test_whatever_is_wrong_with_a_new_version_the_old_one_goes_on_and_it_is_said_once(
    exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: Exception | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An error that nobody had thought of ended the watch, and with it the server."""
    served, broken = tmp_path / "m", False
    shutil.copytree(exported, served)

    def load(path: str) -> OrtEngine:
        if broken:
            raise wrong or AssertionError
        return OrtEngine(Path(path) / "model.onnx")

    def unreadable(path: Path) -> dict[str, Path]:
        raise PermissionError(13, "Permission denied", str(path))

    async def turn() -> None:
        nonlocal broken
        models = Repository([("m", str(served))], load, lambda engine: BatchSpec())
        await models.load_all()
        first = models.find("m")
        broken = True
        if wrong is None:
            monkeypatch.setattr(repository, "_versions", unreadable)
        else:
            os.utime(served / "labels.txt")
        for _ in range(3):
            await models.look()
        assert models.find("m") is first
        await models.close()

    asyncio.run(turn())
    assert sum("stays as it is" in record.getMessage() for record in caplog.records) == 1
