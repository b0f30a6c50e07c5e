"""What MLflow is told of a training besides its metrics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hgnetv2_pipeline.datasets import ResultFolder
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.project import mlflow_hooks, results
from hgnetv2_pipeline.project.mlflow_hooks import MLflowHooks
from hgnetv2_pipeline.project.tracking import Tracker


def test_forced_resume_becomes_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tags = tmp_path / "run", dict[str, str]()
    run.mkdir()
    write_json(run / "manifest.json", {"inputs": {}, "outputs": {}})
    forced = [{"step": 3, "changed": ["training.lr: 0.5 there, 0.25 now", "seed: 0 there, 1 now"]}]
    write_json(run / "result.json", {"n_listed": 5, "forced_resumes": forced})
    server = SimpleNamespace(
        set_tag=tags.__setitem__, set_tags=tags.update, log_metrics=lambda *_, **__: None
    )
    tracker = Tracker()
    tracker.prepare(tmp_path, name="x", params={}, tags={}, enabled=True)
    monkeypatch.setattr(tracker, "_mlflow", lambda: server)
    monkeypatch.setattr(mlflow_hooks, "tracker", tracker)
    monkeypatch.setattr(results, "_made", {run})
    told = MLflowHooks()
    told._catalog = SimpleNamespace(get=lambda name: ResultFolder(filepath=str(run)))
    told.after_node_run({"ssld_stage1.run": run})
    assert tags["ssld_stage1.run.forced_at_step_3"] == (
        "training.lr: 0.5 there, 0.25 now; seed: 0 there, 1 now"
    )
