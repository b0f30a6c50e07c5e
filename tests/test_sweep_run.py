"""A sweep of labelled images by the real programs: trained, exported, judged, timed, and reused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hgnetv2_pipeline.__main__ import main
from hgnetv2_pipeline.commands.init import write_environment
from hgnetv2_pipeline.durable import read_json
from own_tree import write_classes
from project_copies import copy_project

SHORT = (
    "training.epochs=null,training.steps=3,training.warmup_epochs=0,training.workers=0,"
    "training.eval_every=null,latency.runs=20,latency.warmup=2,evaluation.workers=0,mlflow=false"
)


@pytest.mark.slow
def test_a_sweep_of_two_sizes_and_precisions_and_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path / "project")
    write_classes(tmp_path / "labelled", ["cat", "dog"], per_class=20)
    write_environment(
        project, "mine", labelled=tmp_path / "labelled", pool=None, test=None, variant="b0"
    )
    monkeypatch.chdir(project)
    given = f"variants=b0,size=32+48,precision=fp32+int8,budget_ms=1000,{SHORT}"
    command = ["--env", "mine", "--pipeline", "sweep", "--params", given]
    main(command)
    folder = project / "data" / "08_reporting" / "mine" / "sweep" / "seed=0"
    table = read_json(folder / "sweep.json")
    names = [f"b0 at {size} px {kind}" for size in (32, 48) for kind in ("fp32", "int8")]
    assert [row["name"] for row in table["rows"]] == names
    assert {row["state"] for row in table["rows"]} <= {"measured", "refused"}
    assert table["used"] in names and len(pd.read_csv(folder / "sweep.csv")) == 4
    models = project / "data" / "06_models" / "mine" / "train" / "b0"
    before = {path: path.stat().st_mtime_ns for path in models.glob("*/student.safetensors")}
    assert {path.parent.name for path in before} == {"seed=0", "seed=0-48px"}
    main(command)
    assert {
        path: path.stat().st_mtime_ns for path in models.glob("*/student.safetensors")
    } == before
    assert read_json(folder / "sweep.json") == table
