"""DVC orders and stores what Kedro made: after ``kedro run``, ``dvc repro`` trains nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hang_guard import HANG
from project_copies import ROOT, SampleRun, quiet_environment

pytestmark = pytest.mark.sample


def dvc(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=quiet_environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def project(sample_run: SampleRun) -> Path:
    # The copy of the project is no git repository.
    dvc(sample_run.project, "config", "--local", "core.no_scm", "true")
    return sample_run.project


def test_the_committed_lock_is_not_tied_to_a_machine(sample_run: SampleRun) -> None:
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))
    # Trained weights differ in their last bits between kinds of CPU; only what does not is kept.
    assert set(lock["stages"]) == {"ingestion", "import_weights"}
    text = json.dumps(lock)
    assert str(ROOT) not in text and str(Path.home()) not in text
    checked = 0
    for out in lock["stages"]["ingestion"]["outs"]:
        path = sample_run.project / out["path"]
        if path.is_file():
            found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            assert found == out["md5"], out["path"]
            checked += 1
    assert checked >= 8


def test_after_kedro_run_dvc_repro_trains_nothing_and_then_does_nothing(project: Path) -> None:
    first = dvc(project, "repro", "ssld_stage1")
    assert "Running stage 'ssld_stage1'" in first
    assert "reused: ssld_stage1" in first
    second = dvc(project, "repro", "ssld_stage1")
    assert "Running stage" not in second
    assert "up to date" in second
    made = ("ingestion", "train_teacher", "mining", "ssld_stage1")
    assert "up to date" in dvc(project, "status", *made)


def test_a_touched_file_and_a_comment_change_nothing(project: Path) -> None:
    image = next((project / "data/01_raw/sample/images/train").rglob("*.png"))
    os.utime(image)
    conf = project / "conf/sample/parameters.yml"
    conf.write_text(conf.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
    assert "Running stage" not in dvc(project, "repro", "ssld_stage1")


# Row C12 of docs/reliability.md.
@pytest.mark.slow
def test_a_run_stopped_by_sigterm_is_resumed_by_dvc_repro(project: Path) -> None:
    conf = project / "conf/sample/parameters.yml"
    text = conf.read_text(encoding="utf-8")
    conf.write_text(text.replace("train:\n  <<: *recipe", "train:\n  <<: *recipe\n  steps: 25"))
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", "--verbose", "--pipeline", "train"],
        cwd=project,
        env=quiet_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "step 10" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(HANG) == 75, rest[-3000:]
    printed = dvc(project, "repro", "--single-item", "train")
    assert "resumed after step" in printed
    assert (project / "data/06_models/sample/train/b0/seed=0/manifest.json").is_file()


def test_a_changed_pixel_of_an_image_reruns_what_depends_on_it(project: Path) -> None:
    image = next((project / "data/01_raw/sample/images/val").glob("*.png"))
    with Image.open(image) as opened:
        pixels = np.asarray(opened).copy()
    pixels[3, 3] ^= 1
    Image.fromarray(pixels).save(image, compress_level=0)
    before = (project / "data/02_intermediate/sample/manifest.json").read_text(encoding="utf-8")
    printed = dvc(project, "repro", "--single-item", "ingestion")
    assert "Running stage 'ingestion'" in printed
    after = (project / "data/02_intermediate/sample/manifest.json").read_text(encoding="utf-8")
    assert before != after
    status = dvc(project, "status", "train_teacher")
    assert "changed deps" in status
