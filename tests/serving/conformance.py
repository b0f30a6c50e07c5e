"""Every way in which NVIDIA's ``tritonclient`` asks a server, against any server's address.

    pip install 'tritonclient[http,grpc]'
    python conformance.py --http 127.0.0.1:8000 --grpc 127.0.0.1:8001 --model NAME

Knows nothing of who answers: ``hgnetv2 serve`` and a real ``tritonserver`` run the same checks. The
model has one FP32 input and FP32 outputs with a free batch size; names and shapes come from its
metadata. ``--expect FILE.npz`` has arrays ``images`` and ``logits``: what the bare engine answers
to ``images`` one by one, which every answer must equal bit for bit. Prints a line per check and
ends with exit code 1 where one failed.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

_REFUSED = {"400", "404", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"}


@dataclass
class Asked:
    """One server by one protocol: ``kit`` is the module of its client."""

    kit: Any
    client: Any
    model: str
    images: np.ndarray
    input_name: str = ""
    outputs: tuple[str, ...] = ()

    @property
    def by_http(self) -> bool:
        return self.kit is http_client

    def read_metadata(self) -> None:
        """The names of the model's input and outputs; the shape and type are checked."""
        said = self.client.get_model_metadata(self.model)
        if not self.by_http:
            said = self.client.get_model_metadata(self.model, as_json=True)
        assert said["name"] == self.model and said["versions"], said
        (given,) = said["inputs"]
        shape = [int(edge) for edge in given["shape"]]
        assert given["datatype"] == "FP32" and shape == [-1, *self.images.shape[1:]], given
        assert all(output["datatype"] == "FP32" for output in said["outputs"]), said
        self.input_name = given["name"]
        self.outputs = tuple(output["name"] for output in said["outputs"])

    def tensor(self, images: np.ndarray, binary: bool = True) -> Any:
        made = self.kit.InferInput(self.input_name, list(images.shape), "FP32")
        if self.by_http:
            made.set_data_from_numpy(images, binary_data=binary)
        else:
            made.set_data_from_numpy(images)
        return made

    def infer(
        self, images: np.ndarray, *, given_binary: bool = True, wanted_binary: bool = True,
        named: bool = True, **more: Any,
    ) -> np.ndarray:  # fmt: skip
        """The first output for ``images``."""
        wanted = None
        if named:
            keywords = {"binary_data": wanted_binary} if self.by_http else {}
            wanted = [self.kit.InferRequestedOutput(self.outputs[0], **keywords)]
        found = self.client.infer(
            self.model, [self.tensor(images, given_binary)], outputs=wanted, **more
        )
        if "request_id" in more:
            said = found.get_response()
            assert (said["id"] if self.by_http else said.id) == more["request_id"]
        result: np.ndarray = found.as_numpy(self.outputs[0])
        return result

    def as_json(self, call: Callable[..., Any], *given: Any) -> Any:
        return call(*given) if self.by_http else call(*given, as_json=True)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """The block must be refused as the client's mistake, with all ``words`` in the message."""
    try:
        yield
    except InferenceServerException as error:
        assert str(error.status()) in _REFUSED, f"status {error.status()}: {error.message()}"
        missing = [word for word in words if word not in str(error.message())]
        assert not missing, f"{missing} not in {error.message()!r}"
    else:
        raise AssertionError("was answered")


def is_ready(asked: Asked, *model: str) -> bool:
    """Whether a model takes requests; some servers refuse to say so of one they do not have."""
    try:
        return bool(asked.client.is_model_ready(*model))
    except InferenceServerException:
        return False


def health(asked: Asked) -> None:
    assert asked.client.is_server_live() and asked.client.is_server_ready()
    assert is_ready(asked, asked.model) and not is_ready(asked, "no-such-model")


def server_metadata(asked: Asked) -> None:
    said = asked.as_json(asked.client.get_server_metadata)
    assert said["name"] and said["version"] and isinstance(said["extensions"], list), said


def index(asked: Asked) -> None:
    said = asked.as_json(asked.client.get_model_repository_index)
    rows = said if asked.by_http else said["models"]
    assert any(row["name"] == asked.model and row["state"] == "READY" for row in rows), rows


def versions(asked: Asked) -> None:
    version = str(asked.as_json(asked.client.get_model_metadata, asked.model)["versions"][-1])
    assert is_ready(asked, asked.model, version) and not is_ready(asked, asked.model, "987654")
    both = (asked.infer(asked.images[:1], **more) for more in ({}, {"model_version": version}))
    assert np.array_equal(*both)
    with refused():
        asked.infer(asked.images[:1], model_version="987654")


def statistics(asked: Asked) -> None:
    def counts() -> tuple[int, int]:
        said = asked.as_json(asked.client.get_inference_statistics, asked.model)
        entry = said["model_stats"][-1]
        assert entry["name"] == asked.model, entry
        return int(entry["inference_count"]), int(entry["inference_stats"]["success"]["count"])

    asked.infer(asked.images[:1])
    before = counts()
    asked.infer(asked.images[:2])
    after = counts()
    assert after[0] == before[0] + 2 and after[1] == before[1] + 1, (before, after)


def request_id(asked: Asked) -> None:
    asked.infer(asked.images[:1], request_id="question-7")


def all_outputs_unnamed(asked: Asked) -> None:
    named = asked.infer(asked.images[:1])
    assert np.array_equal(named, asked.infer(asked.images[:1], named=False))


def asynchronous(asked: Asked) -> None:
    if asked.by_http:
        answers = [
            asked.client.async_infer(asked.model, [asked.tensor(asked.images[:1])])
            for _ in range(4)
        ]
        found = [answer.get_result() for answer in answers]
    else:
        import queue

        came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        for _ in range(4):
            asked.client.async_infer(
                asked.model, [asked.tensor(asked.images[:1])],
                lambda result, error: came.put((result, error)),
            )  # fmt: skip
        found = []
        for _ in range(4):
            result, error = came.get(timeout=60)
            assert error is None, error
            found.append(result)
    exact = asked.infer(asked.images[:1])
    for one in found:
        assert np.allclose(one.as_numpy(asked.outputs[0]), exact, rtol=1e-5, atol=1e-5)


def bad_shape(asked: Asked) -> None:
    edge = asked.images.shape[-1]
    with refused(asked.input_name, str(edge), str(edge - 1)):
        asked.infer(np.ascontiguousarray(asked.images[:1, ..., : edge - 1]))
    with refused(asked.input_name):
        asked.infer(asked.images[0])


def bad_dtype(asked: Asked) -> None:
    made = asked.kit.InferInput(asked.input_name, list(asked.images[:1].shape), "INT32")
    made.set_data_from_numpy(asked.images[:1].astype(np.int32))
    with refused("FP32", "INT32"):
        asked.client.infer(asked.model, [made])


def bad_names(asked: Asked) -> None:
    made = asked.kit.InferInput("no-such-input", list(asked.images[:1].shape), "FP32")
    made.set_data_from_numpy(asked.images[:1])
    with refused("no-such-input"):
        asked.client.infer(asked.model, [made])
    with refused("no-such-output"):
        wanted = [asked.kit.InferRequestedOutput("no-such-output")]
        asked.client.infer(asked.model, [asked.tensor(asked.images[:1])], outputs=wanted)
    with refused("no-such-model"):
        asked.client.infer("no-such-model", [asked.tensor(asked.images[:1])])


def classification(asked: Asked) -> None:
    """The extension of that name: the best three classes as ``score:number:name``."""
    logits = asked.infer(asked.images[:2])
    wanted = [asked.kit.InferRequestedOutput(asked.outputs[0], class_count=3)]
    found = asked.client.infer(asked.model, [asked.tensor(asked.images[:2])], outputs=wanted)
    rows = found.as_numpy(asked.outputs[0])
    assert rows.shape == (2, 3), rows.shape
    for row, answers in zip(rows, logits, strict=True):
        numbers = [int(cell.decode().split(":")[1]) for cell in row]
        assert [answers[number] for number in numbers] == sorted(answers, reverse=True)[:3]


CHECKS = (
    health, server_metadata, index, versions, statistics, request_id, all_outputs_unnamed,
    asynchronous, bad_shape, bad_dtype, bad_names, classification,
)  # fmt: skip


def answers_of(asked: Asked) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Each mode of calling by name, with what asks for the images one by one and in a batch."""
    ways = [(True, True), (True, False), (False, True), (False, False)] if asked.by_http else [()]
    for way in ways:
        words = " in, ".join("binary" if each else "JSON" for each in way)
        more = dict(zip(("given_binary", "wanted_binary"), way, strict=False))

        def singles(more: dict[str, bool] = more) -> np.ndarray:
            return np.concatenate([asked.infer(image[None], **more) for image in asked.images])

        def batch(more: dict[str, bool] = more) -> np.ndarray:
            return asked.infer(asked.images[:2], **more)

        yield f"infer {words} out" if words else "infer", singles
        yield f"infer {words} out, batch 2" if words else "infer, batch 2", batch


def run_checks(asked: Asked, expected: np.ndarray | None) -> Iterator[tuple[str, str]]:
    """(name of a check, what is wrong or nothing) for every check by one protocol."""
    protocol = "HTTP" if asked.by_http else "gRPC"
    yield f"{protocol} model metadata", _finding(asked.read_metadata)
    if not asked.input_name:
        return
    for check in CHECKS:
        yield f"{protocol} {check.__name__.replace('_', ' ')}", _finding(lambda c=check: c(asked))
    exact = asked.infer(asked.images[:1]) if expected is None else expected
    for name, ask in answers_of(asked):

        def compare(ask: Callable[[], np.ndarray] = ask, batch: bool = "batch" in name) -> None:
            found = ask()
            assert found.dtype == np.float32 and found.shape[1:] == exact.shape[1:], found.shape
            many = exact[: len(found)]
            if batch:  # kernels may sum in another order for two images than for one
                assert np.allclose(found[: len(many)], many, rtol=1e-5, atol=1e-5), "not near"
            else:
                assert np.array_equal(found[: len(many)], many), "not bit-equal"

        yield f"{protocol} {name}", _finding(compare)


def _finding(check: Callable[[], Any]) -> str:
    try:
        check()
    except Exception as error:  # whatever the client or the server does is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} (line {place.lineno})"
    return ""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words.add_argument("--http", help="host:port")
    words.add_argument("--grpc", help="host:port")
    words.add_argument("--model", required=True)
    words.add_argument("--expect", help="an .npz with images and logits")
    words.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"))
    words.add_argument("--skip", default="", help="names of checks, with commas")
    given = words.parse_args()
    if given.expect:
        with np.load(given.expect) as file:
            images, expected = file["images"], file["logits"]
    else:
        random = np.random.default_rng(5)
        images = random.standard_normal((3, 3, *given.size)).astype(np.float32)
        expected = None
    failed = 0
    for kit, address in ((http_client, given.http), (grpc_client, given.grpc)):
        if not address:
            continue
        more = {"network_timeout": 120.0} if kit is http_client else {}
        asked = Asked(kit, kit.InferenceServerClient(address, **more), given.model, images)
        for name, finding in run_checks(asked, expected):
            if name.split(" ", 1)[1] in given.skip.split(","):
                print(f"left out  {name}")
                continue
            failed += bool(finding)
            print(f"{'FAILED    ' if finding else 'ok        '}{name}{finding and f': {finding}'}")
        asked.client.close()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
