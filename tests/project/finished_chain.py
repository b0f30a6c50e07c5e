"""The files of a finished run of SSLD, tiny, as MLflow's hooks meet them; nothing was trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from hgnetv2_pipeline.datasets import CurveFile, JsonFile, JsonTable, PageFile, ResultFolder
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
from hgnetv2_pipeline.project.experiment.mlflow_hooks import MLflowHooks
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.reporting.comparison import ARMS
from project_copies import ROOT

IMAGES = {"train": 4, "val": 200, "pool": 9}
RIGHT = {"stage1": 150, "stage2": 160, "supervised": 120, "supervised_equal_steps": 130}
ONNX = "e" * 64


def _sha(word: str) -> str:
    return (word.encode().hex() + "0" * 64)[:64]


def _manifest(file: Path, outputs: list[str], inputs: dict[str, str], **params: Any) -> None:
    write_json(
        file,
        {
            "format": "hgnetv2_pipeline/manifest/1",
            "pipeline": "any",
            "fingerprint": _sha(file.parent.name),
            "inputs": inputs,
            "params": params,
            "outputs": {name: _sha(name) for name in outputs},
        },
    )


def _index(file: Path, rows: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"key": [f"{n:03d}" for n in range(rows)]}).to_parquet(file)


def write_training(folder: Path, seed: int, **result: Any) -> None:
    """A finished training of two evaluations."""
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text(
        "epoch,step,loss,lr,val_top1\n1.0,10,0.9,0.1,0.5\n2.0,20,0.8,0.05,0.75\n"
    )
    counts = {"n_listed": 5, "n_used": 4, "n_quarantined": 1, "n_refused": 0}
    val = {"top1": 0.75, "top1_count": 150, "n": 200}
    write_json(
        folder / "result.json",
        {"seed": seed, "steps": 20, "images_seen": 80, "val": val, **counts, **result},
    )
    segment = {"images": 80, "training": 4.0, "evaluating": 1.0}
    write_json(folder / "timing.json", {"segments": [segment]})
    _manifest(
        folder / "manifest.json", ["history.csv", "result.json"],
        {"train": _sha("index_train.parquet"), "val": _sha("index_val.parquet")},
        variant="b0", seed=seed, device="auto", config={"lr": 0.3, "image_size": 32},
    )  # fmt: skip


def write_evaluation(identity: Identity, right: int, images: str = "val") -> Path:
    """An evaluation whose first ``right`` answers are right; its metrics."""
    folder = identity.folder("evaluation")
    folder.mkdir(parents=True, exist_ok=True)
    n = IMAGES["val"]
    file = folder / "val-torch-fp32.json"
    write_json(
        file,
        {"model": identity.model, "split": "val", "engine": "torch", "precision": "fp32",
         "top1": right / n, "top1_count": right, "n": n, "ece": 0.03, "n_listed": n, "n_used": n,
         "n_quarantined": 0, "n_refused": 0, "confusion": [[1]]},
    )  # fmt: skip
    keys = [f"{number:03d}" for number in range(n)]
    answers = pd.DataFrame({"key": keys, "correct": np.arange(n) < right})
    answers.to_parquet(file.with_suffix(".parquet"))
    _manifest(file.with_suffix(".manifest.json"), [], {"split": _sha(images)}, split="val")
    return file


class FinishedChain:
    """Files and hooks of one command in ``project``."""

    def __init__(self, project: Path, **params: Any) -> None:
        self.project = project
        self.loader = ProjectConfigLoader(
            str(ROOT / "conf"), runtime_params=params, project=project, **LOADER_ARGUMENTS
        )
        self.identity = self.loader.identity
        self.datasets: dict[str, Any] = {}

    def write(self) -> None:
        """All that the chain leaves behind."""
        at = self.identity.folder
        for name, rows in IMAGES.items():
            _index(at("lists") / f"index_{name}.parquet", rows)
        _manifest(at("lists") / "manifest.json", [f"index_{n}.parquet" for n in IMAGES], {})
        _index(at("mining") / "train_mined.parquet", 7)
        _manifest(at("mining") / "mined.manifest.json", ["train_mined.parquet"], {})
        for member in (0, 1):
            write_training(at("train_teacher") / f"member={member}", seed=member)
        val = {"top1_count": 170, "n": 200}
        write_json(at("train_teacher") / "teacher.json", {"val": val})
        forced = [{"step": 3, "changed": ["training.lr: 0.5 there, 0.25 now", "seed: 0, 1 now"]}]
        write_training(at("ssld_stage1"), seed=0, forced_resumes=forced)
        write_training(at("ssld_stage2"), seed=0)
        write_training(at("comparison") / "supervised,seed=2", seed=2)
        rows = [
            {"arm": arm, "label": ARMS[arm], "seed": 0, "steps": 20, "images_seen": 80, "run": arm,
             "split": "val", "top1_count": count, "n": 200}
            for arm, count in RIGHT.items()
        ]  # fmt: skip
        at("comparison_report").mkdir(parents=True)
        write_json(at("comparison_report") / "comparison.json", {"rows": rows, "pairs": []})
        write_evaluation(self.identity, RIGHT["stage2"])
        for name in ("export", "latency", "report"):
            at(name).mkdir(parents=True, exist_ok=True)
        (at("export") / "model.onnx").write_bytes(b"0" * 1000)
        (at("export") / "MODEL_CARD.md").write_text("# a card")
        write_json(
            at("export") / "manifest.json",
            {"model": self.identity.model, "files": {"model.onnx": ONNX}, "params": 5, "macs": 6,
             "parity_error": 1e-6, "variant": "b0", "image_size": 32, "opset": 18},
        )  # fmt: skip
        times = {"rows": [{}], "ort-fp32-bs1.p50_ms": 1.5, "ort-fp32-bs1.mean_ms": 2.5}
        write_json(at("latency") / "latency.json", times)
        (at("report") / "report.html").write_text("<p>")

    @property
    def catalog(self) -> dict[str, Any]:
        """The datasets of the chain by name, as the catalog has them."""
        at = self.identity.folder
        folder = at("comparison")
        table = at("comparison_report") / "comparison.json"
        return {
            "train_teacher.teacher": JsonFile(str(at("train_teacher")), shows="teacher.json"),
            "ssld_stage1.run": CurveFile(str(at("ssld_stage1")), shows="history.csv"),
            "ssld_stage2.run": CurveFile(str(at("ssld_stage2")), shows="history.csv"),
            "comparison.arms": ResultFolder(str(folder)),
            "comparison.table": JsonTable(str(table), rows="rows", columns=["arm"]),
            "evaluation.metrics": JsonFile(str(at("evaluation") / "val-torch-fp32.json")),
            "export.bundle": JsonFile(str(at("export")), shows="manifest.json"),
            "latency.summary": JsonFile(str(at("latency") / "latency.json")),
            "reporting.html": PageFile(str(at("report") / "report.html")),
        }

    def hooks(self) -> MLflowHooks:
        """Hooks of a command that runs all of it, as far as its first node."""
        told = MLflowHooks()
        told.after_context_created(SimpleNamespace(config_loader=self.loader))
        inputs = {"params:this_run", "params:ssld_stage1", "params:ssld_stage2"}
        pipeline = SimpleNamespace(inputs=lambda: inputs)
        told.before_pipeline_run({}, pipeline, self.catalog)
        return told

    def work(self, told: MLflowHooks, *names: str) -> None:
        """The nodes that end with the results ``names``, all where none is named."""
        for name, dataset in self.catalog.items():
            if name in (names or self.catalog):
                told.after_node_run({name: dataset.path})

    def paths(self) -> set[Path]:
        """What this process made, where it made all."""
        return {dataset.path for dataset in self.catalog.values()}
