"""A sweep makes its runs as the chain would, keeps failures apart and makes nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hgnetv2_pipeline.data import classmap, index
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.deployment.export.bundle import bundle_files
from hgnetv2_pipeline.deployment.export.gate import ExportError
from hgnetv2_pipeline.durable import read_json, write_json, write_text
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError
from hgnetv2_pipeline.pipelines.sweep.nodes import sweep
from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader
from hgnetv2_pipeline.project.node_selection import chain_of
from hgnetv2_pipeline.project.params import LatencyParams
from hgnetv2_pipeline.project.planning import chain
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.sweep import making
from hgnetv2_pipeline.project.sweep.making import SweepFailedError
from hgnetv2_pipeline.project.sweep.runs import LABELLED_ONLY, SSLD, SweepRun, list_runs
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.plan import Plan
from run_params import loader
from tiny_project import picture

IMAGES, MS = 40, {"b0": 1.0, "b1": 2.0, "b2": 4.0}
RIGHT = {"b0": 20, "b1": 38, "b2": 39}


def runs_of(project: Path, stages: Sequence[str] = LABELLED_ONLY, **given: Any) -> list[SweepRun]:
    return list_runs(loader_of(project, **given), stages)


def loader_of(project: Path, **given: Any) -> ProjectConfigLoader:
    found = loader("sample", **given)
    found.project = project
    return found


class Made:
    """A sweep whose trainings, exports, answers and times are written by hand, and counted."""

    def __init__(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.calls = project, list[str]()
        self.failing: dict[str, Exception] = {}
        self.refused: set[str] = set()
        lists = loader_of(project).identity.folder("lists")
        raw = loader_of(project).identity.folder("raw")
        for number in range(4):
            picture(raw / ("no", "yes")[number % 2] / f"{number}.png", number)
        samples = folders.scan_folder_tree(raw).samples
        for name in ("train", "val"):
            index.write_index(lists / f"index_{name}.parquet", samples)
        classmap.write_class_map(lists / "class_map.txt", ["no", "yes"])
        monkeypatch.setattr("hgnetv2_pipeline.project.training.runs.train_side_by_side", self.train)
        monkeypatch.setattr(making, "write_export", self.export)
        monkeypatch.setattr(making, "write_evaluation", self.answer)
        monkeypatch.setattr(
            "hgnetv2_pipeline.deployment.engines.ladder.load_engine", lambda path, **_: Engine(path)
        )
        monkeypatch.setattr("hgnetv2_pipeline.deployment.timing.latency.compare_latency", self.time)

    def train(self, run: Run, specs: Sequence[RunSpec], **_: Any) -> None:
        for spec in specs:
            self.calls.append(f"train {spec.variant} {spec.config.image_size}")
            if spec.variant in self.failing:
                raise self.failing[spec.variant]
            for name in ("student.safetensors", "history.csv"):
                write_text(spec.out / name, f"{spec.variant} {spec.config.image_size}")
            write_json(spec.out / "result.json", {"steps": 1})

    def export(self, aside: Path, *, run: Run, params: Any, lists: Any) -> None:
        self.calls.append(f"export {run.identity.variant}")
        for precision in params.precisions:
            if precision in self.refused:
                raise ExportError(f"the {precision} export fails its gate", precision=precision)
        for name in bundle_files(params.precisions):
            write_text(aside / name, f"{run.identity.model} {name}")

    def answer(self, aside: Path, run: Run, params: Any, split: str, lists: Any) -> None:
        self.calls.append(f"answer {run.identity.variant} {params.precision}")
        right = np.arange(IMAGES) < RIGHT[run.identity.variant]
        name = f"{split}-{params.engine}-{params.precision}"
        count = int(right.sum())
        counts = {"top1": count / IMAGES, "top1_count": count, "n_listed": IMAGES, "classes": []}
        write_json(aside / f"{name}.json", counts)
        rows = pd.DataFrame({"key": [f"{n:02d}" for n in range(IMAGES)], "correct": right})
        rows.to_parquet(aside / f"{name}.parquet", index=False)

    def time(self, engines: dict[str, Engine], **_: Any) -> dict[str, Any]:
        self.calls.append(f"time {len(engines)}")
        rows = [{"label": name, "p50_ms": MS[name[:2]], "n_timed": 40} for name in engines]
        return {"rows": rows}

    def sweep(self, budget: float | None = None, **given: Any) -> dict[str, Any]:
        own = loader_of(self.project, **given)["parameters"]
        self.calls.clear()
        folder, table, page = sweep(
            Run.model_validate(own["this_run"]),
            runs_of(self.project, **given),
            budget,
            LatencyParams.model_validate(own["latency"]),
            Path(loader_of(self.project).identity.folder("lists")),
        )
        assert page.is_file() and (folder / "pareto.svg").is_file()
        return read_json(table)


class Engine:
    def __init__(self, path: Path) -> None:
        assert path.is_file()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(tmp_path, monkeypatch)


def test_every_variant_is_made_once_and_the_budget_decides(made: Made) -> None:
    found = made.sweep(variants=["b0", "b1", "b2"], budget=3.0)
    assert made.calls == [
        f"{what} {variant}{more}"
        for variant in ("b0", "b1", "b2")
        for what, more in (("train", " 32"), ("export", ""), ("answer", " fp32"))
    ] + ["time 3"]
    assert (found["used"], found["leader"]) == ("b1 at 32 px fp32",) * 2
    # Another budget is another recommendation, of the same measurements.
    assert made.sweep(variants=["b0", "b1", "b2"])["used"] == "b1 at 32 px fp32"  # level with b2
    assert made.calls == []
    none = made.sweep(variants=["b0", "b1", "b2"], budget=0.5)
    assert (none["used"], none["fastest"]) == (None, "b0 at 32 px fp32")
    # One more variant trains that alone; all are timed again, side by side.
    made.sweep(variants=["b0", "b1"])
    assert made.calls == ["time 2"]


def test_a_variant_that_fails_is_named_and_the_others_are_not_lost(made: Made) -> None:
    made.failing = {"b1": DataError("its loss is not finite")}
    with pytest.raises(SweepFailedError, match="b1 at 32 px failed: its loss is not finite"):
        made.sweep(variants=["b0", "b1", "b2"])
    identity = loader_of(made.project).identity
    found = read_json(identity.folder("sweep") / "sweep.json")
    assert [row["state"] for row in found["rows"]] == ["measured", "failed", "measured"]
    assert found["used"] == "b2 at 32 px fp32"
    made.failing = {}
    assert made.sweep(variants=["b0", "b1", "b2"])["used"] == "b1 at 32 px fp32"
    assert [call for call in made.calls if "train" in call] == ["train b1 32"]


def test_where_all_fail_the_error_is_that_of_the_last(made: Made) -> None:
    made.failing = {"b0": DataError("one"), "b1": DataError("two")}
    with pytest.raises(DataError, match="two"):
        made.sweep(variants=["b0", "b1"])


def test_a_sweep_that_is_stopped_goes_on_with_what_is_missing(made: Made) -> None:
    made.failing = {"b1": Interrupted("stopped")}
    with pytest.raises(Interrupted):
        made.sweep(variants=["b0", "b1"])
    assert made.calls[-1] == "train b1 32"
    made.failing = {}
    made.sweep(variants=["b0", "b1"])
    assert made.calls[0] == "train b1 32"


def test_a_precision_that_its_gate_refuses_is_a_row_and_no_failure(made: Made) -> None:
    made.refused = {"int8"}
    found = made.sweep(variants=["b0", "b1"], precision=["fp32", "fp16", "int8"])
    states = {row["name"]: row["state"] for row in found["rows"]}
    assert states == {
        f"{variant} at 32 px {name}": "refused" if name == "int8" else "measured"
        for variant in ("b0", "b1")
        for name in ("fp32", "fp16", "int8")
    }


def test_other_sizes_are_runs_of_their_own_with_the_same_share_cropped(tmp_path: Path) -> None:
    wide: dict[str, Any] = {stage: {"resize_short": 40} for stage in SSLD}
    wide["teacher_logits"] = {"source": "online"}  # stored answers are of one size
    runs = runs_of(tmp_path, SSLD, variants=["b0", "b3"], size=[32, 64], seed=3, **wide)
    assert [each.name for each in runs] == [
        f"{variant} at {size} px" for variant in ("b0", "b3") for size in (32, 64)
    ]
    assert [each.run.identity.model for each in runs] == [
        f"ssld_stage2/{variant}/seed=3{more}" for variant in ("b0", "b3") for more in ("", "-64px")
    ]
    for each, resize in zip(runs, (40, 80) * 2, strict=True):
        for stage in SSLD:
            assert each.params[stage]["resize_short"] == resize
        # The teacher is one for all of them, and so is what was mined.
        assert each.params["train_teacher"] == runs[0].params["train_teacher"]
        start = f"ssld_stage1/{each.run.identity.variant}/{each.run.identity.run}"
        assert each.params["finetune"]["init"] == start


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"variants": ["b0", "b9"]}, "unknown variant 'b9'"),
        ({"variants": ["b0", "B0"]}, "names something twice"),
        ({"variants": []}, "variants"),
        ({"size": [16]}, "16 is no side of a square input"),
        ({"precision": ["fp64"]}, "precision"),
        ({"precision": ["bf16"]}, "ort runs no bf16 file"),
        ({"latency": {"engines": ["torch"]}}, "which torch does not run"),
        ({"budget_ms": 0}, "budget_ms"),
        ({"size": [64], "teacher_logits": {"source": "stored"}}, "stored for 32 pixels"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParameterError, match=said):
        runs_of(tmp_path, SSLD, **given)


@pytest.mark.parametrize(
    ("pipelines", "given", "said"),
    [
        (["sweep"], {"variant": "b0"}, "a sweep takes no variant"),
        (["sweep"], {"model": "train/b0/seed=0"}, "a sweep takes no model"),
        ([], {"variants": "b0+b1"}, "variants is a parameter of sweep: add --pipeline sweep"),
        (["latency"], {"budget_ms": 5}, "budget_ms is a parameter of sweep"),
    ],
)
def test_parameters_that_would_change_nothing_are_refused(
    pipelines: list[str], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParameterError, match=said):
        chain_of({"pipelines": pipelines, "params": given}, None)


def test_the_plan_counts_what_is_shared_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(4, 64, 10, 10.0, 0.25, 10**8, 10**12, 2 * 10**9)
    monkeypatch.setattr("hgnetv2_pipeline.training.plan.plan_run", lambda *_, **__: plan)
    made.sweep(variants=["b0"])
    text = chain.plan_sweep(runs_of(made.project, variants=["b0", "b1"]))
    rows = {line.split("  ")[0]: " ".join(line.split()) for line in text.splitlines()}
    assert rows["b0 at 32 px, train"].endswith("finished")
    assert "to do" in rows["b1 at 32 px, train"] and "train_teacher" not in text
    assert rows["all that is timed"].split()[4] == "10"
