"""Hostile requests by the thousand: no answer above 499 but 503, no exit, no memory kept."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Callable

import grpc
import pytest
from serving_cases import Running, form, infer_body, picture, tensor

from hang_guard import HANG
from hgnetv2_pipeline.serving.proto_messages import CALLS, MESSAGES, SERVICE

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_ODD_VALUES = (
    None, True, -1, 0, 2**63, 1e308, "", "\u0000", "../../etc/passwd", [], {}, [[]], "images",
    "logits", "FP32", [1, 3, 32, 32], [1, 3, 32, 2**40], {"binary_data_size": 2**70},
    {"classification": 10**9}, {"binary_data": "x"},
)  # fmt: skip

_PATHS = (
    b"/v2/models/m", b"/v2/models/../../etc/passwd", b"/v2/models/%2e%2e%00/infer", b"//",
    b"/v2/models/m/versions/-1", b"*", b"http://x/", b"/\xff", b"/" * 9000,
)  # fmt: skip


def http_message(path: bytes, body: bytes, headers: dict[str, str], length: object) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    lines += [f"{name}: {value}".encode() for name, value in headers.items()]
    lines.append(f"Content-Length: {length}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def changed_bytes(draw: random.Random, content: bytes) -> bytes:
    """A few bytes of it changed, cut, doubled."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        if not found:
            break
        place = draw.randrange(len(found))
        match draw.randrange(4):
            case 0:
                found[place] = draw.randrange(256)
            case 1:
                del found[place : place + draw.randint(1, 64)]
            case 2:
                found[place:place] = draw.randbytes(draw.randint(1, 64))
            case _:
                found[place:place] = found[place : place + 64]
    return bytes(found)


def changed_json(draw: random.Random, value: object) -> object:
    """One place in it, at any depth, with an odd value, or gone."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        rest = {name: each for name, each in value.items() if name != key}
        return rest if draw.random() < 0.2 else rest | {key: changed_json(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(min(len(value), 4))
        return [*value[:place], changed_json(draw, value[place]), *value[place + 1 :]]
    return draw.choice(_ODD_VALUES)


def fuzzed_json(draw: random.Random) -> bytes:
    entry = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
    asked: object = {
        "id": "1",
        "inputs": [entry],
        "outputs": [{"name": "logits", "parameters": {}}],
    }
    for _ in range(draw.randint(1, 3)):
        asked = changed_json(draw, asked)
    body = json.dumps(asked).encode()
    if draw.random() < 0.2:
        body = changed_bytes(draw, body)
    return http_message(b"/v2/models/m/infer", body, {}, len(body))


def fuzzed_binary(draw: random.Random) -> bytes:
    body, headers = infer_body(tensor())
    body = changed_bytes(draw, body)
    if draw.random() < 0.5:
        odd = draw.choice(("-1", "1e3", str(2**64), "x", "0x10", "99999", ""))
        headers = {"Inference-Header-Content-Length": odd}
    return http_message(b"/v2/models/m/infer", body, headers, len(body))


def fuzzed_length(draw: random.Random) -> bytes:
    """A length that lies, or is none, or is there twice, or a body that stops half-way."""
    body, headers = infer_body(tensor())
    length = draw.choice((0, 1, len(body) - 1, len(body) + 9, -1, 2**64, "x", "1, 2", "+3", ""))
    if draw.random() < 0.3:
        headers["Transfer-Encoding"] = draw.choice(("chunked", "gzip, chunked", "x"))
    if draw.random() < 0.3:
        headers["content-length"] = "5"
    return http_message(b"/v2/models/m/infer", body[: draw.randrange(len(body))], headers, length)


def fuzzed_picture(draw: random.Random) -> bytes:
    kind = draw.choice(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"))
    content = changed_bytes(draw, picture(draw.randrange(4), kind, (20, 20)))
    headers: dict[str, str] = {}
    if draw.random() < 0.3:
        content, headers = form({draw.choice(("a", "../x", "\u202e")): content})
        content = changed_bytes(draw, content)
    query = draw.choice(
        (b"", b"?topk=9", b"?topk=-1", b"?threshold=x", b"?model=%00", b"?embedding=1")
    )
    return http_message(b"/v1/classify" + query, content, headers, len(content))


def fuzzed_head(draw: random.Random) -> bytes:
    path = draw.choice(_PATHS)
    method = draw.choice((b"GET", b"POST", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"X", b"PRI"))
    head = method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"".join(
        b"x%d: %s\r\n" % (i, draw.randbytes(3).hex().encode()) for i in range(draw.randint(0, 50))
    )
    return changed_bytes(draw, head + b"\r\n") if draw.random() < 0.5 else head + b"\r\n"


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    fuzzed_json, fuzzed_binary, fuzzed_picture, fuzzed_length, fuzzed_head,
)  # fmt: skip
_MAY_WAIT = 3


def hostile_call(draw: random.Random, channel: grpc.Channel) -> grpc.StatusCode:
    """The code of a call whose request was changed, in its bytes or its fields."""
    name = draw.choice(list(CALLS))
    request = MESSAGES["ModelInferRequest"](model_name="m")
    shape = draw.choice(((1, 3, 32, 32), (2**40, 3, 32, 32), (), (-1, 3, 32, 32)))
    entry = request.inputs.add(
        name="images", datatype=draw.choice(("FP32", "", "BYTES")), shape=shape
    )
    entry.contents.fp32_contents.extend([float("nan")] * draw.randint(0, 3))
    request.raw_input_contents.append(bytes(draw.choice((0, 4, 12288))))
    request.outputs.add(name=draw.choice(("logits", "x"))).parameters[
        "classification"
    ].int64_param = draw.choice((-1, 0, 3, 2**62))
    content = request.SerializeToString()
    if draw.random() < 0.7:
        name, content = ("ModelInfer", changed_bytes(draw, content))
    try:
        channel.unary_unary(f"/{SERVICE}/{name}")(content, timeout=HANG)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_requests_cost_nothing_but_themselves(server: Running, count: int) -> None:
    draw = random.Random(count)
    before = server.resident()
    statuses: dict[bytes, int] = {}
    codes: set[grpc.StatusCode] = set()
    with grpc.insecure_channel(server.grpc) as channel:
        for number in range(count):
            kind = number % (len(KINDS) + 1)
            if kind == len(KINDS):
                codes.add(hostile_call(draw, channel))
                continue
            # What waits for bytes that do not come ends here, not after ten seconds.
            shut = kind >= _MAY_WAIT
            for status in _STATUS.findall(server.raw(KINDS[kind](draw), shut=shut)):
                statuses[status] = statuses.get(status, 0) + 1
    assert all(status < b"500" or status == b"503" for status in statuses), statuses
    assert statuses.keys() >= {b"200", b"400", b"404"}
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert codes <= {
        grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
    }, codes  # fmt: skip
    assert server.alive()
    assert server.ask("POST", "/v2/models/m/infer", *infer_body(tensor()))[0] == 200
    assert server.resident() - before < 50 << 20
    assert not [row for row in server.log() if row["level"] == "ERROR"]


def test_half_a_request_and_nobody_behind_it_is_no_request(server: Running) -> None:
    body, headers = infer_body(tensor())
    whole = http_message(b"/v2/models/m/infer", body, headers, len(body))
    host, port = server.http.rsplit(":", 1)
    for cut in range(0, len(whole), 701):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(whole[:cut])
    assert server.alive()


def test_garbage_at_the_door_of_grpc_stops_nobody(server: Running) -> None:
    host, port = server.grpc.rsplit(":", 1)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    draw = random.Random(1)
    for start in (b"", preface, b"GET / HTTP/1.1\r\n\r\n"):
        for _ in range(20):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(start + draw.randbytes(draw.randint(1, 2000)))
    with grpc.insecure_channel(server.grpc) as channel:
        live = channel.unary_unary(f"/{SERVICE}/ServerLive")
        assert live(b"", timeout=HANG)
