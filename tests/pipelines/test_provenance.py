"""What a result was made from is in its record: other weights or limits make it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hgnetv2_pipeline.durable import read_json, sha256_file
from hgnetv2_pipeline.pipelines.evaluation.nodes import evaluate
from hgnetv2_pipeline.pipelines.train_teacher.nodes import train_teacher
from hgnetv2_pipeline.project import models
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import EvaluationParams, TeacherParams
from hgnetv2_pipeline.project.results import Result, ResultSpec, Reuse
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching import teacher as teacher_record
from run_params import parameters
from tiny_project import identity, run_of

PARAMS = parameters("sample")


@pytest.fixture
def who(tmp_path: Path) -> Identity:
    found = identity(tmp_path)
    lists = found.folder("lists")
    lists.mkdir(parents=True)
    (lists / "class_map.txt").write_text("0 red\n1 green\n")
    (lists / "index_val.parquet").write_text("the images of val")
    (found.folder("train")).mkdir(parents=True)
    (found.folder("train") / "student.safetensors").write_bytes(b"weights")
    return found


def _inference(folder: Path, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "inference.pdmodel").write_bytes(b"the graph")
    (folder / "inference.pdiparams").write_bytes(content)


MEMBERS = {
    "a weight file": "weights/mine.safetensors",
    "Paddle's weight file": "weights/mine.pdparams",
    "an unpacked inference model": "weights/infer",
    "a run": "train/b0/seed=0",
    "a zoo name": "b4.ssld_stage2",
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_new_weights_of_a_ready_teacher_make_what_learns_from_it_again(
    who: Identity, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Though they answer val as well as the old ones did."""
    member = MEMBERS[kind]
    (who.project / "weights").mkdir()
    zoo = who.project / "weights" / "zoo.pdparams"
    monkeypatch.setattr("hgnetv2_pipeline.weights.zoo.provide", lambda *a, **k: zoo)
    monkeypatch.setattr("hgnetv2_pipeline.weights.zoo.weights_file", lambda *a: zoo)

    def same(run: Run, candidates: Iterable[str], *_: Any) -> Any:
        """Five right answers of eight, whoever is asked."""
        labels = np.zeros(8, np.int64)
        return {name: np.eye(2)[[0] * 5 + [1] * 3] for name in candidates}, labels

    monkeypatch.setattr(teacher_record, "teacher_answers", same)
    files = {
        "a run": who.folder("train") / "student.safetensors",
        "a zoo name": zoo,
    }
    file = files.get(kind, who.project / member)

    def learnt() -> tuple[dict[str, Any], bool]:
        teacher = TeacherParams.model_validate(
            {**PARAMS["train_teacher"], "source": [member], "probes": []}
        )
        folder = train_teacher(run_of(who), teacher, who.folder("lists"))
        student = Reuse(who.project).produce(
            ResultSpec(
                folder=who.project / "data" / "student",
                pipeline="ssld_stage1",
                inputs={"teacher": folder / "teacher.json"},
                outputs=["x"],
            ),
            lambda aside: (aside / "x").write_text("x"),
        )
        return read_json(folder / "teacher.json"), student.reused

    hashes, reused = [], []
    for content in (b"old", b"old", b"new"):
        if kind == "an unpacked inference model":
            _inference(file, content)
        else:
            file.write_bytes(content)
        record, stands = learnt()
        assert list(record["sha256"]) == [member]
        hashes.append(record["sha256"][member])
        reused.append(stands)
    assert reused == [False, True, False]
    assert hashes[0] == hashes[1] != hashes[2]
    if kind != "an unpacked inference model":
        assert hashes[2] == sha256_file(file)


@dataclasses.dataclass
class _Found:
    metrics: dict[str, Any]
    rows: pd.DataFrame


@pytest.mark.parametrize(
    ("change", "engine", "again"),
    [
        ({"max_bad": 0.0}, "torch", True),
        ({"max_bad": 0.0}, "ort", True),
        ({"device": "cuda"}, "torch", True),
        ({"device": "cuda"}, "ort", False),
        ({"batch_size": 3}, "torch", False),
        ({"workers": 2}, "torch", False),
    ],
)
def test_what_changes_a_figure_or_refuses_it_measures_again(
    who: Identity,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    engine: str,
    again: bool,
) -> None:
    counts = {"top1": 0.5, "top1_count": 1, "n_listed": 2}
    measured = []

    def measuring(*arguments: Any, **named: Any) -> _Found:
        measured.append(named)
        return _Found(counts, pd.DataFrame({"key": ["a"]}))

    monkeypatch.setattr(models, "evaluate", measuring)
    who.folder("export").mkdir(parents=True)
    (who.folder("export") / "model.onnx").write_bytes(b"graph")

    def run(device: str = "cpu", **changes: Any) -> None:
        params = EvaluationParams.model_validate(
            {**PARAMS["evaluation"], "max_bad": 0.5, "engine": engine, **changes}
        )
        run = run_of(who, device=device)
        evaluate(run, params, "val", who.folder("lists"), who.folder("train"))

    run()
    run()
    assert len(measured) == 1
    run(**change)
    assert len(measured) == 1 + again


def test_an_export_that_was_asked_for_is_timed_and_not_set_aside(who: Identity) -> None:
    """A model beside which another is timed may have been exported in its own right."""
    from hgnetv2_pipeline.project.deployment.latency_sweep import Sweep
    from hgnetv2_pipeline.project.params import LatencyParams

    sweep = Sweep(
        run_of(who.model_copy(update={"model": "train/b0/seed=1"}), device="auto"),
        LatencyParams.model_validate(PARAMS["latency"]),
        size=32,
    )
    folder = who.folder("export")
    made = Reuse(who.project).produce(
        ResultSpec(
            folder=folder,
            name="export",
            pipeline="export",
            outputs=["model.onnx", "manifest.json"],
        ),
        lambda aside: [(aside / name).write_text("{}") for name in ("model.onnx", "manifest.json")],
    )
    assert isinstance(made, Result)
    before = sorted(folder.parent.rglob("*"))
    assert sweep._exported("train/b0/seed=0") == folder / "model.onnx"
    assert sorted(folder.parent.rglob("*")) == before
