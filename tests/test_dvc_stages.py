"""What DVC stores of a stage, read from the committed dvc.yaml without running anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from project_copies import ROOT, quiet_environment

EXPORT = "data/07_model_output/sample/ssld_stage2/b0/seed=0"


def dvc(project: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=project, env=quiet_environment(), check=True, timeout=120)


def test_every_exported_precision_is_stored_and_what_is_no_result_is_not(tmp_path: Path) -> None:
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    results = {
        "model.onnx", "model.fp16.onnx", "model.int8.onnx", "labels.txt", "manifest.json",
        "export.manifest.json", "tensorrt-kit/run.py",
    }  # fmt: skip
    others = {
        "export.made_by.json", "archive/0123abcd/model.onnx", "plans/key/model.plan",
        "model.engine", "tensorrt-kit/results/a_card.json",
    }  # fmt: skip
    needed = {
        "data/02_intermediate/sample/index_train.parquet",
        "data/02_intermediate/sample/index_val.parquet",
        "data/06_models/sample/ssld_stage2/b0/seed=0/student.safetensors",
    }
    for name in needed | {f"{EXPORT}/{name}" for name in results | others}:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    dvc(tmp_path, "config", "core.analytics", "false")
    dvc(tmp_path, "commit", "--force", "--quiet", "export")
    (listing,) = (tmp_path / ".dvc" / "cache" / "files" / "md5").rglob("*.dir")
    stored = json.loads(listing.read_text(encoding="utf-8"))
    assert {entry["relpath"] for entry in stored} == results
