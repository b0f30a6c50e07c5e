"""What a request to ``hgnetv2 serve`` costs beside a bare call of ONNX Runtime, in CPU time.

The server has one core, the clients another: eight of them, each sending one preprocessed image
after the other. Bare calls, HTTP (binary tensors) and gRPC take turns, so that whatever else the
machine does falls on all alike; medians over the rounds, ratios within each round.

    python benchmarks/bench_serving.py [--model FOLDER] [--rounds 7] [--seconds 4]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CLIENTS = 8
TICK = os.sysconf("SC_CLK_TCK")


def export_b0(folder: Path) -> Path:
    """An exported B0 with 1,000 classes; what it answers does not matter here."""
    from hgnetv2_pipeline.deployment.export.bundle import write_bundle
    from hgnetv2_pipeline.models.create import create_model

    write_bundle(create_model("b0").eval(), folder)
    return folder


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str, float]]:
    """A server: (process, HTTP address, gRPC address, seconds until it was ready)."""
    command = [str(Path(sys.executable).with_name("hgnetv2")), "serve", f"m={folder}"]
    command += ["--port", "0", "--grpc-port", "0", "--engine", "ort", "--threads", "1", *options]
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        took = time.monotonic() - began
        assert words[:1] == ["ready:"], words
        yield process, words[1].removeprefix("http://"), words[2].removeprefix("grpc://"), took
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss(process_id: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def http_sender(address: str, images: np.ndarray) -> Callable[[], int]:
    """A function that sends one request and returns its status; each of its threads has its own."""
    connection = http.client.HTTPConnection(address, timeout=60)
    raw = images.tobytes()
    head = json.dumps({
        "inputs": [{"name": "images", "datatype": "FP32", "shape": list(images.shape),
                    "parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    body, headers = head + raw, {"Inference-Header-Content-Length": str(len(head))}

    def send() -> int:
        connection.request("POST", "/v2/models/m/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    return send


def grpc_sender(address: str, images: np.ndarray) -> Callable[[], int]:
    """The same by gRPC; 200 for an answer, 503 for RESOURCE_EXHAUSTED."""
    import grpc

    from hgnetv2_pipeline.serving.proto_messages import MESSAGES, SERVICE

    # A channel of its own for each client, as eight processes would have.
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    request = MESSAGES["ModelInferRequest"](model_name="m")
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    request.outputs.add(name="logits")
    request.raw_input_contents.append(images.tobytes())
    content = request.SerializeToString()

    def send() -> int:
        try:
            call(content, timeout=60)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return 503
        return 200

    return send


def hammer(
    senders: list[Callable[[], int]], seconds: float, every: float = 0.0
) -> tuple[list[float], int]:
    """Every sender one request after the other: latencies of those answered, how many were not.

    ``every``: seconds between the beginnings of two requests of a sender, where it is fast enough.
    """
    until = time.monotonic() + seconds
    taken: list[list[float]] = [[] for _ in senders]
    refused = [0] * len(senders)

    def one(place: int) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            status = senders[place]()
            if status == 200:
                taken[place].append(time.monotonic() - began)
            else:
                assert status == 503, status
                refused[place] += 1
            time.sleep(max(0.0, began + every - time.monotonic()))

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(senders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for times in taken for each in times], sum(refused)


def bare_call(folder: Path, images: np.ndarray) -> Callable[[float], float]:
    """Calls of ONNX Runtime in this thread, on one image at a time: CPU seconds per call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )

    def call(seconds: float) -> float:
        until, count, began = time.monotonic() + seconds, 0, time.thread_time()
        while time.monotonic() < until:
            session.run(["logits"], {"images": images[count % len(images)][None]})
            count += 1
        return (time.thread_time() - began) / count

    return call


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words.add_argument("--model", type=Path)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--seconds", type=float, default=4.0)
    words.add_argument("--overload", type=float, default=10.0, help="seconds at 10 times capacity")
    given = words.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = cores[0], cores[-1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or export_b0(Path(scratch) / "b0")
        from hgnetv2_pipeline.deployment.card import ModelCard

        size = ModelCard.from_folder(folder).preprocess.size
        images = np.random.default_rng(0).standard_normal((8, 3, *size)).astype(np.float32)
        bare = bare_call(folder, images)
        os.sched_setaffinity(0, {theirs})  # the server inherits it
        with serving(folder) as (process, http_address, grpc_address, took):
            print(f"ready after {took:.1f} s, {rss(process.pid) / 2**20:.0f} MiB resident")
            ways = {
                "HTTP": [http_sender(http_address, images[i][None]) for i in range(CLIENTS)],
                "gRPC": [grpc_sender(grpc_address, images[i][None]) for i in range(CLIENTS)],
            }
            per_round = compare(process.pid, bare, ways, given, (ours, theirs))
            for name in ("HTTP", "gRPC"):
                costs = per_round[name]
                ratio = statistics.median(
                    cost / own for cost, own in zip(costs, per_round["bare"], strict=True)
                )
                print(
                    f"{name:5} {1e3 * statistics.median(costs):6.2f} CPU ms per request, "
                    f"{ratio:.2f} x bare"
                )
            print(f"bare  {1e3 * statistics.median(per_round['bare']):6.2f} CPU ms per call")
            overload(ways["HTTP"], http_address, images, given.overload)
            print(f"{rss(process.pid) / 2**20:.0f} MiB resident at the end")


def compare(
    process_id: int, bare: Callable[[float], float],
    ways: dict[str, list[Callable[[], int]]], given: argparse.Namespace, cores: tuple[int, int],
) -> dict[str, list[float]]:  # fmt: skip
    """CPU seconds per request of each way in each round; a first round is dropped."""
    ours, theirs = cores
    found: dict[str, list[float]] = {"bare": [], **{name: [] for name in ways}}
    for turn in range(given.rounds + 1):
        os.sched_setaffinity(0, {theirs})
        costs = {"bare": bare(given.seconds)}
        os.sched_setaffinity(0, {ours})
        for name, senders in ways.items():
            before = cpu_seconds(process_id)
            latencies, refused = hammer(senders, given.seconds)
            assert not refused and latencies
            costs[name] = (cpu_seconds(process_id) - before) / len(latencies)
        if turn:
            for name, cost in costs.items():
                found[name].append(cost)
    return found


def overload(
    senders: list[Callable[[], int]], address: str, images: np.ndarray, seconds: float
) -> None:
    """Latencies of eight clients, and of what is answered to eighty who ask ten times as often."""
    before = spent_inside(address)
    calm, _ = hammer(senders, seconds)
    between = spent_inside(address)
    many = [http_sender(address, images[i % len(images)][None]) for i in range(10 * CLIENTS)]
    pressed, refused = hammer(many, seconds, CLIENTS * seconds / len(calm))
    after = spent_inside(address)
    print(
        f"8 clients: p50 {1e3 * np.percentile(calm, 50):.0f} ms, p99 "
        f"{1e3 * np.percentile(calm, 99):.0f} ms, {mean_ms(before, between):.0f} ms on average "
        "between a request's last byte and its answer"
    )
    print(
        f"{(len(pressed) + refused) / len(calm):.1f} times as many requests: {len(pressed)} "
        f"answered, {refused} refused, p50 {1e3 * np.percentile(pressed, 50):.0f} ms, p99 "
        f"{1e3 * np.percentile(pressed, 99):.0f} ms "
        f"({np.percentile(pressed, 99) / np.percentile(calm, 99):.2f} x), "
        f"{mean_ms(between, after):.0f} ms on average inside"
    )


def spent_inside(address: str) -> tuple[int, int]:
    """Requests answered so far, and nanoseconds from the last byte of each to its answer."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/v2/models/m/stats")
    said = json.loads(connection.getresponse().read())["model_stats"][0]["inference_stats"]
    connection.close()
    return said["success"]["count"], said["success"]["ns"]


def mean_ms(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Milliseconds per request between two looks."""
    return (after[1] - before[1]) / (after[0] - before[0]) / 1e6


if __name__ == "__main__":
    main()
