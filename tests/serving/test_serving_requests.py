"""What ``hgnetv2 serve`` answers: the engine's own numbers, or what is wrong with the request."""

from __future__ import annotations

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_cases import (
    CLASSES,
    SIDE,
    Running,
    form,
    infer_body,
    logits_of,
    picture,
    running,
    tensor,
)

from hang_guard import HANG, wait_until
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.serving.http_app import PAGE
from hgnetv2_pipeline.serving.rest import routes

INFER = "/v2/models/m/infer"


def as_json(images: np.ndarray, **changes: Any) -> bytes:
    entry = {
        "name": "images", "datatype": "FP32", "shape": list(images.shape),
        "data": images.ravel().tolist(), **changes,
    }  # fmt: skip
    return json.dumps({"id": "7", "inputs": [entry]}).encode()


@pytest.mark.parametrize("count", [1, 2, 16])
def test_binary_tensors_get_the_bare_engines_bits(
    server: Running, engine: OrtEngine, count: int
) -> None:
    images = tensor(count, seed=count)
    status, headers, content = server.ask("POST", INFER, *infer_body(images))
    assert status == 200, content
    assert np.array_equal(logits_of(headers, content), engine.logits(images))


def test_json_tensors_get_the_same_bits(server: Running, engine: OrtEngine) -> None:
    images = tensor(2)
    said = server.json("POST", "/v2/models/m/versions/1/infer", as_json(images))
    assert said["id"] == "7" and said["model_name"] == "m" and said["model_version"] == "1"
    (output,) = said["outputs"]
    found = np.array(output["data"], np.float32).reshape(output["shape"])
    assert output["name"] == "logits" and np.array_equal(found, engine.logits(images))


def test_the_classification_extension_ranks_the_classes(server: Running, engine: OrtEngine) -> None:
    images = tensor(2)
    wish = [{"name": "logits", "parameters": {"classification": 2}}]
    asked = json.loads(as_json(images)) | {"outputs": wish}
    (output,) = server.json("POST", INFER, json.dumps(asked).encode())["outputs"]
    best = np.argsort(-engine.logits(images), axis=1)[:, :2]
    cells = [cell.split(":", 2) for cell in output["data"]]
    assert output["shape"] == [2, 2] and output["datatype"] == "BYTES"
    assert [int(number) for _, number, _ in cells] == best.ravel().tolist()
    assert [name for *_, name in cells] == [CLASSES[number] for number in best.ravel()]


def test_classify_answers_as_predict_does(server: Running, engine: OrtEngine) -> None:
    content = picture(3)
    (expected,) = engine.predict(content, topk=3)
    said = server.json("POST", "/v1/classify?topk=3", content)
    (row,) = said["results"]
    assert (row["class_ids"], row["scores"]) == (expected["class_ids"], expected["scores"])
    assert row["label_names"] == expected["label_names"] and said["model"] == "m"


def test_a_form_of_pictures_gets_a_row_each_and_a_bad_one_its_reason(
    server: Running, engine: OrtEngine
) -> None:
    files = {"a.png": picture(1), "b.txt": b"no picture", "ü.jpg": picture(2, "JPEG")}
    body, headers = form(files)
    rows = server.json("POST", "/v1/classify?model=other&embedding=true", body, **headers)[
        "results"
    ]
    assert [row["file_name"] for row in rows] == list(files)
    assert "not an image" in rows[1]["error"] and not rows[1]["class_ids"]
    images = np.stack([engine.preprocess(files[name]) for name in ("a.png", "ü.jpg")])
    logits, embeddings = engine.logits_and_embeddings(images)
    for row, own, embedding in zip(rows[::2], logits, embeddings, strict=True):
        assert row["class_ids"][0] == own.argmax()
        assert np.array_equal(np.array(row["embedding"], np.float32), embedding)


def test_metadata_index_and_statistics_say_what_is_there(server: Running) -> None:
    said = server.json("GET", "/v2/models/m")
    assert said["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}]
    assert [output["name"] for output in said["outputs"]] == ["logits", "embedding"]
    assert said["versions"] == ["1"]
    assert {row["name"] for row in server.json("POST", "/v2/repository/index")} == {"m", "other"}
    before = server.json("GET", "/v2/models/m/stats")["model_stats"][0]
    server.ask("POST", INFER, *infer_body(tensor(3)))
    after = server.json("GET", "/v2/models/m/versions/1/stats")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["execution_count"] == before["execution_count"] + 1
    success = after["inference_stats"]["success"]
    assert success["count"] > before["inference_stats"]["success"]["count"] and success["ns"] > 0
    (of_three,) = [row for row in after["batch_stats"] if row["batch_size"] == 3]
    assert of_three["compute_infer"]["count"] >= 1


def test_metrics_count_requests_images_and_models(server: Running) -> None:
    server.ask("POST", INFER, *infer_body(tensor()))
    text = server.ask("GET", "/metrics")[2].decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['hgnetv2_requests_total{door="infer",status="200"}']) >= 1
    assert float(values['hgnetv2_images_total{model="m",version="1"}']) >= 1
    assert any(key.startswith('hgnetv2_model{engine="ort"') for key in values)


WRONG: dict[str, tuple[str, bytes, dict[str, str], int, tuple[str, ...]]] = {
    "no JSON": (INFER, b"{", {}, 400, ("JSON",)),
    "deep JSON": (INFER, b"[" * 100_000, {}, 400, ("nested",)),
    "another kind of JSON": (INFER, b"[]", {}, 400, ("object",)),
    "no inputs": (INFER, b"{}", {}, 400, ("images", "none")),
    "inputs that are none": (INFER, b'{"inputs": 3}', {}, 400, ("inputs",)),
    "parameters that are none": (INFER, b'{"inputs": [{"parameters": 1}]}', {}, 400, ("param",)),
    "a wrong name": (INFER, as_json(tensor(), name="x"), {}, 400, ("images", "'x'")),
    "a wrong type": (INFER, as_json(tensor(), datatype="INT8"), {}, 400, ("FP32", "INT8")),
    "a wrong shape": (INFER, as_json(tensor(side=31)), {}, 400, ("[-1,3,32,32]", "[1,3,31,31]")),
    "a shape of booleans": (INFER, as_json(tensor(), shape=[True, 3, 32, 32]), {}, 400, ("got",)),
    "no image": (INFER, as_json(tensor(0)), {}, 400, ("1 to 16",)),
    "17 images": (INFER, as_json(tensor(17), data=[]), {}, 400, ("1 to 16", "17")),
    "few numbers": (INFER, as_json(tensor(), data=[1, 2]), {}, 400, ("3072", "2")),
    "ragged numbers": (INFER, as_json(tensor(), data=[[1], [2, 3]]), {}, 400, ("numbers",)),
    "text for numbers": (INFER, as_json(tensor(), data=["x"]), {}, 400, ("numbers",)),
    "no data": (INFER, as_json(tensor(), data=None), {}, 400, ("no numbers",)),
    "numbers as text": (INFER, as_json(tensor(), data=["1"] * 3072), {}, 400, ("no numbers",)),
    "truth for numbers": (INFER, as_json(tensor(), data=[True] * 3072), {}, 400, ("no numbers",)),
    "shared memory": (
        INFER,
        as_json(tensor(), parameters={"shared_memory_region": "x"}),
        {},
        400,
        ("shared",),
    ),
    "an output twice": (
        INFER,
        as_json(tensor())[:-1]
        + b',"outputs":'
        + json.dumps([{"name": "logits"}] * 2).encode()
        + b"}",
        {},
        400,
        ("twice",),
    ),
    "too large a number": (INFER, as_json(tensor(), data=[1e300] * 3072), {}, 400, ("large",)),
    "a wrong head length": (INFER, b"{}", {"Inference-Header-Content-Length": "9"}, 400, ("9",)),
    "few bytes": (INFER, infer_body(tensor())[0][:-4], infer_body(tensor())[1], 400, ("behind",)),
    "no such model": ("/v2/models/passwd/infer", b"{}", {}, 404, ("no model",)),
    "a path for a name": ("/v2/models/..%2F..%2Fetc/infer", b"{}", {}, 404, ("Not Found",)),
    "no such version": ("/v2/models/m/versions/7/infer", b"{}", {}, 404, ("no version",)),
    "no such path": ("/v3", b"", {}, 404, ("Not Found",)),
    "a wrong method": ("/metrics", b"", {}, 405, ("Not Allowed",)),
    "an empty picture": ("/v1/classify", b"", {}, 400, ("empty",)),
    "no picture": ("/v1/classify", b"hello", {}, 400, ("not an image",)),
    "a path": ("/v1/classify", b"file:///etc/passwd", {}, 400, ("not an image",)),
    "half a picture": ("/v1/classify", picture()[:-20], {}, 400, ("end",)),
    "a wrong kind": ("/v1/classify", b"{}", {"Content-Type": "application/json"}, 415, ("json",)),
    "packed": (INFER, b"{}", {"Content-Encoding": "gzip"}, 415, ("Content-Encoding",)),
    "a misspelt parameter": (
        "/v1/classify?topk=1&treshold=0.5",
        picture(),
        {},
        400,
        ("'treshold'", "did you mean 'threshold'", "model, version, topk, threshold, embedding"),
    ),
    "topk 0": ("/v1/classify?topk=0", picture(), {}, 400, ("topk",)),
    "topk x": ("/v1/classify?topk=x", picture(), {}, 400, ("topk",)),
    "threshold NaN": ("/v1/classify?threshold=nan", picture(), {}, 400, ("threshold",)),
    "embedding x": ("/v1/classify?embedding=x", picture(), {}, 400, ("embedding",)),
    "17 pictures": ("/v1/classify", *form({f"{i}": b"x" for i in range(17)}), 400, ("16",)),
    "a broken form": ("/v1/classify", b"x", form({})[1], 400, ("form",)),
    "a form that is cut off": (
        "/v1/classify",
        form({"a": picture(), "b": picture()})[0][:-3],
        form({"a": picture(), "b": picture()})[1],
        400,
        ("cut off",),
    ),
    "a form without files": ("/v1/classify", *form({}), 400, ("no file",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_s03_s04_s09_what_is_wrong_is_refused_with_what_was_expected(
    server: Running, case: str
) -> None:
    path, body, headers, expected, words = WRONG[case]
    status, found, content = server.ask("POST", path, body, headers)
    assert status == expected, content
    said = json.loads(content)["error"]
    assert all(word in said for word in words), said
    if path == INFER and "x-request-id" in found:  # the log says why
        wait_until(lambda: any(row.get("request") == found["x-request-id"] for row in server.log()),
                   "its line is written")  # fmt: skip
        (line,) = [row for row in server.log() if row.get("request") == found["x-request-id"]]
        assert line["reason"][:40] == said[:40]
    assert "x-request-id" in found or status == 415  # refused before it reached the application


UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAA\r\n"
)


@pytest.mark.parametrize("pieces", [1, 2, 9])
def test_who_would_rather_speak_http_2_is_answered_in_http_1(server: Running, pieces: int) -> None:
    """As Java's client asks. The parser took the body for the other protocol's, and the memory that
    was waiting for it was answered, with what another client's picture had left there.
    """
    image = picture()
    usual = server.ask("POST", "/v1/classify", image)
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE
    whole = head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(image) + image
    host, port = server.http.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=HANG) as connection:
        size = -(-len(whole) // pieces)
        for start in range(0, len(whole), size):
            connection.sendall(whole[start : start + size])
            time.sleep(0.05)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.read()) == (200, usual[2])
    assert b"200 OK" in server.raw(
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE + b"Connection: close\r\n\r\n"
    )
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert b"Content-Length" in server.raw(chunked) and server.alive()


def test_a_body_that_never_comes_is_not_answered(exported: Path, tmp_path: Path) -> None:
    image = picture(size=(400, 400))
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE
    with running(tmp_path, f"m={exported}", limits={"read_seconds": 1.0}) as server:
        assert server.ask("POST", "/v1/classify", image)[0] == 200
        answer = server.raw(head + b"Content-Length: %d\r\n\r\n" % len(image))
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_two_hosts_are_one_too_many(server: Running) -> None:
    lines = b"GET /v2 HTTP/1.1\r\nHost: evil\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert server.raw(lines).startswith(b"HTTP/1.1 400 ")


def test_a_picture_with_more_pixels_than_may_be_is_refused_by_its_header(server: Running) -> None:
    from PIL import Image

    file = server.log_file.parent / "large.png"
    Image.new("1", (10_000, 5_001)).save(file)
    status, _, content = server.ask("POST", "/v1/classify", file.read_bytes())
    assert status == 400 and b"pixels" in content


def test_s01_a_body_over_the_limit_is_refused_before_it_is_read(server: Running) -> None:
    before = server.resident()
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
    announced = server.raw(head + b"Content-Length: 10000000000\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413 ") and b"10,485,760" in announced
    piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    chunked = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 20)
    assert chunked.startswith(b"HTTP/1.1 413 ")
    tiny = b"1;" + b"x" * 4000 + b"\r\na\r\n"
    framing = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + tiny * 6000)
    assert framing.startswith(b"HTTP/1.1 413 ")
    assert server.resident() - before < 64 << 20 and server.alive()


def test_a_head_over_the_limit_is_refused(server: Running) -> None:
    many = b"".join(b"x%d: y\r\n" % number for number in range(100_000))
    for head in (many, b"x: " + b"y" * (1 << 20)):
        answer = server.raw(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + head)
        assert answer.startswith(b"HTTP/1.1 431 ")
    assert server.alive()


def test_s02_slow_clients_are_closed_and_stop_nobody(exported: Path, tmp_path: Path) -> None:
    import socket

    with running(tmp_path, f"m={exported}", limits={"read_seconds": 0.5}) as server:
        host, port = server.http.rsplit(":", 1)
        begun = [b"", b"GET /v2 HT", b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"]
        begun.append(begun[-1] + b"Content-Length: 9\r\n\r\nxx")
        slow = [socket.create_connection((host, int(port))) for _ in range(50)]
        for place, connection in enumerate(slow):
            connection.sendall(begun[place % len(begun)])
        assert server.ask("POST", INFER, *infer_body(tensor()))[0] == 200
        for connection in slow:
            connection.settimeout(600)
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert server.alive()


def test_s05_a_full_queue_refuses_with_retry_after_and_answers_what_it_took(
    exported: Path, engine: OrtEngine, tmp_path: Path
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    images = tensor(16)
    expected = engine.logits(images)
    with running(tmp_path, f"m={exported}", waiting=16) as server:

        def ask(_: int) -> int:
            status, headers, content = server.ask("POST", INFER, *infer_body(images))
            if status == 200:
                assert np.array_equal(logits_of(headers, content), expected)
            else:
                assert headers["retry-after"] == "1" and b"again" in content
            return status

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(ask, range(64)))
        assert set(found) == {200, 503}
        said = server.json("GET", "/v2/models/m/stats")["model_stats"][0]
        assert said["inference_stats"]["success"]["count"] == found.count(200)


def test_requests_become_batches_where_that_is_asked_for(
    exported: Path, engine: OrtEngine, tmp_path: Path
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with running(tmp_path, f"m={exported}", batch_size=8, delay=0.2, waiting=64) as server:

        def ask(seed: int) -> None:
            images = tensor(1 + seed % 3, seed=seed)
            status, headers, content = server.ask("POST", INFER, *infer_body(images))
            assert status == 200
            # In a batch kernels may sum in another order.
            assert np.allclose(logits_of(headers, content), engine.logits(images), atol=1e-5)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(24)))
        said = server.json("GET", "/v2/models/m/stats")["model_stats"][0]
    assert said["inference_count"] == sum(1 + seed % 3 for seed in range(24))
    assert said["execution_count"] < 24 and max(b["batch_size"] for b in said["batch_stats"]) <= 8


def test_s08_a_foreign_host_is_refused_and_no_other_page_may_read(server: Running) -> None:
    status, headers, content = server.ask("GET", "/v2", None, {"Host": "evil.example:8000"})
    assert status == 400 and b"unknown host" in content
    for host in ("localhost", "127.0.0.1:1", "[::1]:8000"):
        assert server.ask("GET", "/v2", None, {"Host": host})[0] == 200
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = server.ask("OPTIONS", "/v1/classify", None, preflight)
    assert status == 405 and not any(name.startswith("access-control") for name in headers)


def test_s11_log_lines_cannot_be_forged_and_bear_the_request_id(server: Running) -> None:
    asked = {"X-Request-Id": "mine-1"}
    assert server.ask("GET", "/v2/%0A%7B%22forged%22%3A1%7D", None, asked)[1]["x-request-id"] == (
        "mine-1"
    )
    odd = server.ask("GET", "/v2", None, {"X-Request-Id": "a b"})[1]["x-request-id"]
    assert odd != "a b"
    wait_until(lambda: any(r.get("request") == odd for r in server.log()), "its line is there")
    (line,) = [row for row in server.log() if row.get("request") == "mine-1"]
    assert line["status"] == "404" and "forged" in line["path"] and "\\n" in line["path"]


def test_the_page_is_ours_alone_and_the_document_lists_every_route(server: Running) -> None:
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "css")):
        status, headers, content = server.ask("GET", path)
        assert status == 200 and kind in headers["content-type"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"http://" not in content and b"https://" not in content
    assert b"<script>" not in (PAGE / "index.html").read_bytes()
    document = server.json("GET", "/openapi.json")
    listed = {(place, method.upper()) for place, item in document["paths"].items()
              for method in item if method != "parameters"}  # fmt: skip
    ours = {(route.path, method) for route in routes() for method in route.methods or ()}
    ours |= {("/v1/classify", "POST"), ("/metrics", "GET")}
    assert listed == {entry for entry in ours if entry[1] != "HEAD"}
