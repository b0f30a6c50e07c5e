"""The same by gRPC: the engine's own numbers, and codes for what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from serving_cases import SIDE, Running, running, tensor

from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.serving.proto_messages import CALLS, MESSAGES, SERVICE


def call(server: Running, name: str, content: bytes, *metadata: tuple[str, str]) -> Any:
    """The response of a call with a request of any bytes."""
    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.unary_unary(
            f"/{SERVICE}/{name}", response_deserializer=MESSAGES[CALLS[name][1]].FromString
        )
        return method(content, metadata=metadata, timeout=600)


def request(images: np.ndarray, **changes: Any) -> Any:
    """A ModelInferRequest."""
    made = MESSAGES["ModelInferRequest"](model_name="m", id="7")
    entry = {"name": "images", "datatype": "FP32", "shape": images.shape} | changes
    made.inputs.add(**entry)
    made.raw_input_contents.append(images.tobytes())
    return made


def changed(change: Callable[[Any], object]) -> Any:
    """A request that is good but for the change."""
    made = request(tensor())
    change(made)
    return made


def test_raw_tensors_get_the_bare_engines_bits(server: Running, engine: OrtEngine) -> None:
    images = tensor(2)
    found = call(server, "ModelInfer", request(images).SerializeToString())
    logits, embeddings = engine.logits_and_embeddings(images)
    assert [output.name for output in found.outputs] == ["logits", "embedding"]
    assert found.raw_output_contents[0] == logits.tobytes()
    assert found.raw_output_contents[1] == embeddings.tobytes() and found.id == "7"


def test_numbers_get_the_same_bits(server: Running, engine: OrtEngine) -> None:
    images = tensor()
    made = request(images)
    del made.raw_input_contents[:]
    made.inputs[0].contents.fp32_contents.extend(images.ravel().tolist())
    made.outputs.add(name="logits")
    found = call(server, "ModelInfer", made.SerializeToString())
    assert found.raw_output_contents == [engine.logits(images).tobytes()]


def test_the_server_and_its_models_say_what_they_are(server: Running) -> None:
    assert call(server, "ServerLive", b"").live and call(server, "ServerReady", b"").ready
    assert "binary_tensor_data" in call(server, "ServerMetadata", b"").extensions
    named = MESSAGES["ModelMetadataRequest"](name="m").SerializeToString()
    assert list(call(server, "ModelMetadata", named).inputs[0].shape) == [-1, 3, SIDE, SIDE]
    assert call(server, "ModelReady", named).ready
    for wrong in ({"name": "x"}, {"name": "m", "version": "9"}):
        asked = MESSAGES["ModelReadyRequest"](**wrong).SerializeToString()
        assert not call(server, "ModelReady", asked).ready
    index = call(server, "RepositoryIndex", b"").models
    assert {(row.name, row.state) for row in index} == {("m", "READY"), ("other", "READY")}
    assert call(server, "ModelStatistics", named).model_stats[0].name == "m"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"\xff\xff\xff", "INVALID_ARGUMENT", "ModelInferRequest"),
        (b"", "NOT_FOUND", "no model"),
        (request(tensor(), name="x"), "INVALID_ARGUMENT", "'images', got 'x'"),
        (request(tensor(), datatype="INT8"), "INVALID_ARGUMENT", "FP32, got INT8"),
        (request(tensor(side=31)), "INVALID_ARGUMENT", "[-1,3,32,32], got [1,3,31,31]"),
        (request(tensor(), shape=[2, 3, 32, 32]), "INVALID_ARGUMENT", "24576 bytes"),
        (request(tensor(17)), "INVALID_ARGUMENT", "1 to 16 images, got 17"),
        (
            changed(lambda r: r.inputs[0].contents.int_contents.append(1)),
            "INVALID_ARGUMENT",
            "both",
        ),
        (
            changed(lambda r: r.outputs.extend([r.outputs.add(name="logits")])),
            "INVALID_ARGUMENT",
            "twice",
        ),
        (
            changed(
                lambda r: (
                    r.outputs.add(name="logits")
                    .parameters["classification"]
                    .MergeFrom(MESSAGES["InferParameter"](string_param="3"))
                )
            ),
            "INVALID_ARGUMENT",
            "no count",
        ),
        (
            changed(
                lambda r: (
                    r.inputs[0]
                    .parameters["shared_memory_region"]
                    .MergeFrom(MESSAGES["InferParameter"](string_param="x"))
                )
            ),
            "INVALID_ARGUMENT",
            "shared memory",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_what_was_expected(
    server: Running, content: Any, code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "ModelInfer", content if isinstance(content, bytes) else
             content.SerializeToString())  # fmt: skip
    assert caught.value.code() is grpc.StatusCode[code]
    assert words in caught.value.details()


def test_a_message_over_the_limit_is_refused_unread(server: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "ModelInfer", bytes((64 << 20) + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.alive()


def test_s07_both_protocols_ask_for_the_token(exported: Path, tmp_path: Path) -> None:
    token = "a-token-of-enough-characters"  # noqa: S105 - of this test
    with running(tmp_path, f"m={exported}", token=token) as server:
        for given in ("", "Bearer wrong", f"Basic {token}", "Bearer \u00fc"):
            status, headers, _ = server.ask("GET", "/v2", None, {"Authorization": given})
            assert status == 401 and headers["www-authenticate"] == "Bearer"
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "RepositoryIndex", b"")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert server.ask("GET", "/v2", None, {"Authorization": f"Bearer {token}"})[0] == 200
        assert call(server, "RepositoryIndex", b"", ("authorization", f"Bearer {token}")).models
        # Probes and the page, which has no secret, need none.
        assert server.alive() and call(server, "ServerLive", b"").live
        assert server.ask("GET", "/")[0] == 200
        assert token not in server.log_file.read_text("utf-8")
