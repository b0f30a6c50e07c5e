"""The node that looks into wrong answers: what it writes, for which engines, and when again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hgnetv2_pipeline.pipelines.evaluation.nodes import analyse_errors, evaluate
from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw
from hgnetv2_pipeline.project import evaluation
from hgnetv2_pipeline.project.params import EvaluationParams
from run_params import parameters as run_parameters
from tiny_project import identity, parameters, picture, run_of

MODEL = "scratch:b0"


class Project:
    """Thirty pictures of three classes and a network that was taught nothing."""

    def __init__(self, project: Path) -> None:
        for place in range(30):
            picture(project / "images" / "abc"[place % 3] / f"{place}.png", place)
        self.who = identity(project).model_copy(update={"model": MODEL})
        self.run = run_of(self.who)
        data = parameters(
            split={"val": 0.4, "test": 0.0, "group_pattern": None, "groups": None,
                   "near_duplicates": True},
        )  # fmt: skip
        self.lists = make_lists(self.run, data, provide_raw(self.run, data))

    def analysed(self, **changes: Any) -> tuple[Path, dict[str, Any]]:
        params = EvaluationParams.model_validate(run_parameters()["evaluation"] | changes)
        measured = evaluate(self.run, params, "val", self.lists)[0]
        folder = analyse_errors(self.run, params, "val", self.lists, measured) / "val-torch-fp32"
        return folder, json.loads((folder / "analysis.json").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


def test_every_mistake_has_its_pictures_and_a_training_image(project: Project) -> None:
    folder, analysis = project.analysed(workers=0)
    rows = pd.read_parquet(project.who.folder("evaluation") / "val-torch-fp32.parquet")
    wrong = rows[~rows["correct"]].sort_values("top1_prob", ascending=False)
    assert [each["key"] for each in analysis["mistakes"]] == wrong["key"].tolist()
    assert analysis["wrong"] == len(wrong) > 0
    train = pd.read_parquet(project.lists / "index_train.parquet").set_index("key")
    # The nearest is sought among all training images of the classes that were said or true.
    involved = {label for each in wrong[["label", "pred"]].to_numpy() for label in each}
    assert analysis["compared"] == int(train["label"].isin(involved).sum())
    for mistake in analysis["mistakes"]:
        assert mistake["nearest"]["key"] in train.index
        assert set(mistake["files"]) == {"picture", "map", "nearest"}
        for file in mistake["files"].values():
            assert (folder / "mistakes" / file).is_file()
    assert analysis["map"] == {"method": "Grad-CAM", "layer": "stages.3", "rows": 7, "columns": 7}
    assert sum(analysis["reliability"]["images"]) == len(rows)
    assert sum(analysis["reliability"]["right"]) == int(rows["correct"].sum())
    table = pd.read_csv(folder / "mistakes.csv")
    assert table["image"].tolist() == wrong["key"].tolist()


def test_it_is_made_once_and_again_only_where_it_would_be_another(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.analysed(workers=0)
    made = []
    monkeypatch.setattr(evaluation, "write_error_analysis", lambda *given: made.append(given))
    project.analysed(workers=0)
    assert not made


def test_an_exported_model_is_analysed_without_maps(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An engine gives logits alone: pictures and curves are there, what needs more is not."""
    _, analysis = project.analysed(workers=0)
    params = EvaluationParams.model_validate(
        run_parameters()["evaluation"] | {"engine": "ort", "workers": 0}
    )
    monkeypatch.setattr(evaluation, "_explainer", lambda *_: pytest.fail("the network was asked"))
    measured = project.who.folder("evaluation") / "val-torch-fp32.json"
    known = evaluation.Lists(project.lists)
    evaluation.write_error_analysis(tmp_path, project.run, params, "val", known, measured)
    found = json.loads((tmp_path / "analysis.json").read_text())
    assert found["map"] is None and found["compared"] == 0
    assert found["risk_coverage"] == analysis["risk_coverage"]
    assert {name for each in found["mistakes"] for name in each["files"]} == {"picture"}


def test_a_model_without_a_mistake_is_not_asked_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.analysed(workers=0)
    measured = project.who.folder("evaluation") / "val-torch-fp32.json"
    rows = pd.read_parquet(measured.with_suffix(".parquet"))
    rows["correct"] = True
    rows.to_parquet(tmp_path / "val-torch-fp32.parquet")
    (tmp_path / "val-torch-fp32.json").write_text(measured.read_text())
    monkeypatch.setattr(evaluation, "_explainer", lambda *_: pytest.fail("the network was asked"))
    params = EvaluationParams.model_validate(run_parameters()["evaluation"])
    known, out = evaluation.Lists(project.lists), tmp_path / "out"
    out.mkdir()
    evaluation.write_error_analysis(
        out, project.run, params, "val", known, tmp_path / "val-torch-fp32.json"
    )
    found = json.loads((out / "analysis.json").read_text())
    assert (found["wrong"], found["mistakes"], found["compared"]) == (0, [], 0)
    assert found["risk_coverage"]["points"][-1] == [1.0, 0.0]
    assert (out / "mistakes.csv").read_text().count("\n") == 1, "the head alone"
    assert list((out / "mistakes").iterdir()) == []
