"""Published weights from the download to a model of one's own, by the commands of the README.

The files are stand-ins: PaddleClas's format and names, filled by formula, served on loopback.
"""

from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.weights import imagenet
from hgnetv2_pipeline.weights.formula import formula_state
from hgnetv2_pipeline.weights.load import load_weights, read_metadata
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams
from hgnetv2_pipeline.weights.zoo import ZOO, ZooEntry
from own_tree import write_classes
from project_copies import ROOT, copy_project, run_here

STAGE1 = ZOO["b0.ssld_stage1"]
CLASSES = ("Äpfel", "birnen")


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a folder that holds a stand-in for B0's stage-1 weights."""
    folder = tmp_path_factory.mktemp("bucket")
    write_pdparams(folder / STAGE1.filename, formula_state(create_model("b0")))
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with the environment ``mine``: two classes, no pool."""
    from kedro.framework.startup import bootstrap_project

    from hgnetv2_pipeline.commands.init import write_environment

    folder = copy_project(tmp_path_factory.mktemp("official") / "project")
    write_classes(folder / "images", CLASSES)
    write_environment(
        folder, "mine", labelled=folder / "images", pool=None, test=None, variant="b0"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        bootstrap_project(folder)
        yield folder


def test_fine_tuning_fetches_imports_and_starts_from_the_published_stage_1(
    project: Path, served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, bucket = served
    url = f"{address}/{STAGE1.filename}"
    monkeypatch.setitem(ZOO, STAGE1.name, dataclasses.replace(STAGE1, url=url))
    short = "finetune.epochs=2,finetune.threads=1,finetune.lr=1e-9,finetune.input.resized=32"
    said = run_here("--env", "mine", "--pipeline", "finetune", "--params", short)
    assert said == (0, ""), said

    fetched = project / "weights" / STAGE1.filename
    assert fetched.read_bytes() == (bucket / STAGE1.filename).read_bytes()
    assert (project / "weights" / f"{fetched.name}.sha256").read_text().split() == [
        sha256_file(fetched),
        fetched.name,
    ]
    models = project / "data" / "06_models" / "mine"
    imported = models / "import_weights" / "b0" / "ssld_stage1" / "student.safetensors"
    known = read_metadata(imported)
    assert (known["variant"], known["stage"], known["source"]) == ("b0", "ssld_stage1", url)
    assert json.loads(known["classes"]) == imagenet.imagenet_classes()
    assert json.loads(known["preprocess"])["resize_short"] == 236
    assert json.loads(known["inputs"]) == {fetched.name: sha256_file(fetched)}

    tuned = models / "finetune" / "b0" / "seed=0"
    manifest = json.loads((tuned / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"]["init"] == sha256_file(imported)
    model, start = create_model("b0", 2), create_model("b0")
    load_weights(model, tuned / "student.safetensors")
    load_weights(start, imported)
    # At so small a rate the network is still the published one; only its head is new.
    drift = (model.last_conv.weight - start.last_conv.weight).abs().max()
    assert 0 < drift < 1e-6
    assert json.loads(read_metadata(tuned / "student.safetensors")["classes"]) == sorted(CLASSES)

    copied = project / "data" / "03_primary" / "mine" / "resized" / "mine-index_train-32"
    assert sorted(path.name for path in copied.iterdir()) == [
        "index.parquet", "shard=00000.bin", "shard=00000.json",
    ]  # fmt: skip

    before = imported.stat().st_mtime_ns
    monkeypatch.undo()  # what is here is not asked for again, nor converted again
    again = run_here("--env", "mine", "--pipeline", "import_weights", "--params", "download=false")
    assert again == (0, ""), again
    assert imported.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("ssld_stage9", "published: ssld_stage1, ssld_stage2, ssld_stage2_inference"),
        ("nowhere/my.pdparams", "there is no weight file at .*nowhere/my.pdparams"),
        ("images/birnen", "no fc.weight|no weight file|published"),
        ("ssld_stage2", "put PPHGNetV2_B0_ssld_pretrained.pdparams into .*weights .from https"),
    ],
)
def test_weights_that_are_not_there_are_named(project: Path, weights: str, said: str) -> None:
    code, line = run_here(
        "--env", "mine", "--pipeline", "import_weights", "--params",
        f"weights={weights},download=false",
    )  # fmt: skip
    assert code == 4
    assert re.search(said, line), line


# Row W05 of docs/reliability.md.
def test_a_wrong_hash_is_refused(project: Path, served: tuple[str, Path]) -> None:
    path = served[1] / STAGE1.filename
    code, line = run_here(
        "--env", "mine", "--pipeline", "import_weights", "--params",
        f"weights={path},import_weights.sha256={'f' * 64}",
    )  # fmt: skip
    assert code == 4
    assert f"has SHA-256 {sha256_file(path)}, not fff" in line


@pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)
def test_dvc_knows_where_every_published_file_comes_from(entry: ZooEntry) -> None:
    known = yaml.safe_load((ROOT / "weights" / f"{entry.filename}.dvc").read_text())
    assert known["frozen"] is True
    assert [dependency["path"] for dependency in known["deps"]] == [entry.url]
    assert [out["path"] for out in known["outs"]] == [entry.filename]


@pytest.mark.slow
def test_dvc_fetches_what_such_a_file_names(served: tuple[str, Path], tmp_path: Path) -> None:
    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)

    dvc("init", "--no-scm", "-q")
    text = (ROOT / "weights" / f"{STAGE1.filename}.dvc").read_text()
    (tmp_path / f"{STAGE1.filename}.dvc").write_text(
        text.replace(STAGE1.url, f"{served[0]}/{STAGE1.filename}")
    )
    dvc("update", f"{STAGE1.filename}.dvc")
    assert sha256_file(tmp_path / STAGE1.filename) == sha256_file(served[1] / STAGE1.filename)


NAMES, IDS = imagenet.imagenet_classes(), imagenet.synsets()
NUMBERS = [str(label) for label in range(1000)]


@pytest.mark.parametrize(
    ("known", "given", "fits"),
    [
        (None, ["a", "b"], True),
        (["a", "b"], ["a", "b"], True),
        (["a", "b"], ["b", "a"], False),
        (NAMES, IDS, True),
        (NAMES, NUMBERS, True),
        (IDS, [f"{i} {n}" for i, n in zip(IDS, NAMES, strict=True)], True),
        (NAMES, [*NAMES[1:], NAMES[0]], False),
        (NAMES, [f"mine {label}" for label in range(1000)], False),
        (NUMBERS, NAMES, False),
        (NAMES, IDS[:999], False),
    ],
)
def test_classes_agree_only_in_the_same_order(
    known: list[str] | None, given: list[str], fits: bool
) -> None:
    assert imagenet.agree(known, given) is fits
