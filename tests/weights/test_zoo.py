"""The published table, and downloads from a server on this machine that misbehaves on request."""

from __future__ import annotations

import dataclasses
import http.server
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hgnetv2_pipeline import durable
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights import zoo
from hgnetv2_pipeline.weights.paddle.pdparams import read_pdparams
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams
from hgnetv2_pipeline.weights.zoo import ZOO, ZooEntry, fetch


def test_the_table_has_every_published_file_once():
    assert len(ZOO) == 7 * 3 + 5
    assert len({entry.url for entry in ZOO.values()}) == len(ZOO)
    for name, entry in ZOO.items():
        assert entry.name == name == f"{entry.variant}.{entry.stage}"
        assert entry.variant in zoo.COSTS
        assert entry.filename.endswith((".pdparams", ".tar"))
        assert entry.preprocess == {"resize_short": entry.resize_short}
    assert {entry.variant for entry in ZOO.values()} == set(zoo.COSTS)


def test_a_row_reads_as_on_the_seed_page():
    b4 = ZOO["b4.ssld_stage2"]
    assert (b4.top1, b4.top5, b4.latency_v100_ms, b4.timm_top1) == (83.57, 96.72, 1.46, 83.70)
    first = ZOO["b4.ssld_stage1"]
    assert (first.top1, first.timm_top1) == (None, 82.89)
    bucket = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"
    assert b4.url == f"{bucket}/legendary_models/PPHGNetV2_B4_ssld_pretrained.pdparams"
    assert first.filename == "PPHGNetV2_B4_ssld_stage1_pretrained.pdparams"
    assert ZOO["b4.ssld_stage2_inference"].url == f"{bucket}/inference/PPHGNetV2_B4_ssld_infer.tar"
    assert ZOO["hgnet_small.ssld"].filename == "PPHGNet_small_ssld_pretrained.pdparams"


def test_the_table_is_read_without_torch():
    code = "import sys, hgnetv2_pipeline.weights.zoo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- downloads ------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; ``mishaps`` are taken one a request."""

    content = b""
    etag = '"one"'
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mishaps: list[str] = []
        self.asked: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        mishap = server.mishaps.pop(0) if server.mishaps else ""
        if mishap.isdigit():
            self.send_error(int(mishap))
            return
        body, start = server.content, 0
        same = self.headers.get("If-Range") == server.etag
        if wanted and server.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        kind = "text/html; charset=utf-8" if mishap == "page" else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        self.wfile.write(body[: len(body) // 2] if mishap == "cut" else body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write_pdparams(tmp_path / "made", {"fc.bias": np.arange(50_000, dtype=np.float32)})
    with Server() as served:
        served.content = (tmp_path / "made").read_bytes()
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def entry(server: Server) -> ZooEntry:
    url = f"http://127.0.0.1:{server.server_port}/some/tiny.pdparams"
    return dataclasses.replace(ZOO["b0.ssld_stage1"], url=url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_appears_whole_with_its_hash_and_is_not_repeated(server, entry, folder):
    path = fetch(entry, folder)
    assert path == folder / "tiny.pdparams"
    assert path.read_bytes() == server.content
    assert names(folder) == ["tiny.pdparams", "tiny.pdparams.sha256"]
    digest = durable.sha256_file(path)
    assert (folder / "tiny.pdparams.sha256").read_text() == f"{digest}  tiny.pdparams\n"
    assert fetch(entry, folder) == path
    assert len(server.asked) == 1
    assert read_pdparams(path)["fc.bias"].shape == (50_000,)


def test_a_broken_connection_is_taken_up_where_it_broke(server, entry, folder):
    server.mishaps = ["cut", "503", "cut"]
    path = fetch(entry, folder, pause=0.001)
    assert path.read_bytes() == server.content
    half = len(server.content) // 2
    assert server.asked[:3] == [None, f"bytes={half}-", f"bytes={half}-"]
    assert len(server.asked) == 4
    assert names(folder) == ["tiny.pdparams", "tiny.pdparams.sha256"]


def test_a_later_call_continues_what_an_earlier_one_left(server, entry, folder):
    server.mishaps = ["cut"]
    with pytest.raises(WeightsError, match=r"in 1 attempts .*next call continues"):
        fetch(entry, folder, attempts=1)
    assert not (folder / "tiny.pdparams").exists()
    fetch(entry, folder)
    assert server.asked == [None, f"bytes={len(server.content) // 2}-"]
    assert (folder / "tiny.pdparams").read_bytes() == server.content


def test_a_file_that_changed_meanwhile_is_never_sewn_together(server, entry, folder):
    server.mishaps = ["cut"]
    with pytest.raises(WeightsError):
        fetch(entry, folder, attempts=1)
    server.etag, server.content = '"two"', b"\x80" + server.content[:-1][::-1]
    fetch(entry, folder)
    assert (folder / "tiny.pdparams").read_bytes() == server.content


def test_a_server_without_ranges_is_asked_from_the_start(server, entry, folder):
    server.ranges, server.mishaps = False, ["cut"]
    assert fetch(entry, folder, pause=0.001).read_bytes() == server.content


def test_a_leftover_longer_than_the_file_starts_over(server, entry, folder):
    folder.mkdir()
    (folder / ".tiny.pdparams.part").write_bytes(bytes(len(server.content) + 9))
    (folder / ".tiny.pdparams.part.tag").write_text(server.etag)
    assert fetch(entry, folder, pause=0.001).read_bytes() == server.content


@pytest.mark.parametrize("disguised", [False, True])
def test_a_web_page_is_not_weights(server, entry, folder, disguised):
    server.content = b"<html>log in first</html>"
    server.mishaps = [] if disguised else ["page"]
    with pytest.raises(WeightsError, match="web page"):
        fetch(entry, folder)
    assert names(folder) == []


def test_a_wrong_hash_is_refused_and_nothing_kept(entry, folder):
    with pytest.raises(WeightsError, match="expected 000"):
        fetch(dataclasses.replace(entry, sha256="0" * 64), folder)
    assert names(folder) == []


def test_a_file_damaged_later_or_replaced_at_the_source_is_noticed(server, entry, folder):
    path = fetch(entry, folder)
    path.write_bytes(server.content[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"tiny\.pdparams\.sha256"):
        fetch(entry, folder)
    path.unlink()
    server.content = server.content[:-1] + b"?"
    with pytest.raises(WeightsError, match="may be damaged or have been replaced"):
        fetch(entry, folder)


def test_a_file_put_there_by_hand_is_taken_and_recorded(server, entry, folder):
    folder.mkdir()
    (folder / "tiny.pdparams").write_bytes(server.content)
    fetch(entry, folder)
    assert server.asked == []
    assert names(folder) == ["tiny.pdparams", "tiny.pdparams.sha256"]
    (folder / "tiny.pdparams.sha256").unlink()
    (folder / "tiny.pdparams").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="no weight file"):
        fetch(entry, folder)


def test_a_missing_file_ends_at_once_and_a_silent_server_after_its_attempts(server, entry, folder):
    server.mishaps = ["404"]
    with pytest.raises(WeightsError, match="the server says 404"):
        fetch(entry, folder)
    assert len(server.asked) == 1
    server.mishaps = ["503", "500", "429"]
    with pytest.raises(WeightsError, match="could not be fetched in 3 attempts"):
        fetch(entry, folder, attempts=3, pause=0.001)
    with pytest.raises(WeightsError, match="is no web address"):
        fetch(dataclasses.replace(entry, url="file:///etc/passwd"), folder)


def test_an_archive_must_be_one(server, entry, folder):
    archive = dataclasses.replace(entry, url=entry.url.replace("pdparams", "tar"))
    with pytest.raises(WeightsError, match="no weight file"):
        fetch(archive, folder)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("inference.pdiparams"))
    server.content = data.getvalue()
    assert fetch(archive, folder).name == "tiny.tar"
