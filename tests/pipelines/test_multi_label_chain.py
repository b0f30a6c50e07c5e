"""Several labels per image, from one list to predictions: every stage says the same mAP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score, f1_score

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.data.lists.multi_label import label_matrix
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.evaluation import metrics
from hgnetv2_pipeline.hooks import ProjectHooks
from hgnetv2_pipeline.pipeline_registry import register_pipelines
from hgnetv2_pipeline.pipelines.best.nodes import choose_best
from hgnetv2_pipeline.pipelines.evaluation.nodes import analyse_errors, evaluate
from hgnetv2_pipeline.pipelines.export.nodes import export
from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw, report_lists
from hgnetv2_pipeline.pipelines.prediction.nodes import predict
from hgnetv2_pipeline.pipelines.training.nodes import make_trainer
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import (
    BestParams,
    ComparisonParams,
    EvaluationParams,
    ExportParams,
    PredictionParams,
    TeacherLogitsParams,
    TeacherParams,
)
from hgnetv2_pipeline.training.config import TrainConfig
from hgnetv2_pipeline.variants import VARIANTS, Variant
from multi_label_pictures import CLASSES, draw
from run_params import loader
from run_params import parameters as run_parameters
from tiny_project import identity, parameters, run_of

ASYMMETRIC = {"gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05}
# The kinds of layers of B0 at a fraction of its time.
SMALL = Variant((16, 16), (16, 16, 16, 16), (32, 32, 64, 64), (1, 1, 1, 1), 1, lab=True)
QUICK = {
    "steps": 80, "batch_size": 25, "lr": 0.01, "threads": 1,
    "augment": {"name": "none"},
}  # fmt: skip


class Chain:
    """A project on 200 squares, trained, evaluated, exported; parameters as a user's would be."""

    def __init__(self, project: Path) -> None:
        draw(project / "images", "train", 200, seed=1)
        self.who = identity(project)
        self.params = run_parameters(recipe="multi_label", train=QUICK)
        data = parameters(
            layout="multi_label",
            split={"val": 0.25, "test": 0.0, "group_pattern": None, "groups": None,
                   "near_duplicates": True},
        )  # fmt: skip
        self.told = run_of(self.who)
        raw = provide_raw(self.told, data)
        self.lists = make_lists(self.told, data, raw)
        self.summary = json.loads(report_lists(self.told, raw, self.lists)[0].read_text())
        config = TrainConfig.model_validate(self.params["train"])
        logits = self.given(TeacherLogitsParams, "teacher_logits")
        self.run = make_trainer("train")(self.told, config, logits, self.lists)
        self.truth = label_matrix(Lists(self.lists).frame("val"))

    def given(self, kind: Any, name: str, **changes: Any) -> Any:
        return kind.model_validate(self.params[name] | changes)

    def evaluated(self, **changes: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        params = self.given(EvaluationParams, "evaluation", **changes)
        _, found, rows, _ = evaluate(self.told, params, "val", self.lists, self.run)
        return json.loads(found.read_text()), pd.read_parquet(rows)

    def exported(self, **changes: Any) -> Path:
        gate = {"images": None, "max_drop": {"fp16": 1.0, "int8": 20.0, "bf16": 5.0}}
        params = self.given(ExportParams, "export", gate=gate, **changes)
        return export(self.told, params, self.lists, self.run)[0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "b0", SMALL)
        yield Chain(tmp_path_factory.mktemp("project"))


def test_one_list_becomes_a_model_far_above_chance_and_map_is_scikit_learns(chain: Chain) -> None:
    assert [chain.summary["sets"][name]["n_images"] for name in ("train", "val")] == [150, 50]
    found, rows = chain.evaluated()
    probabilities = np.stack(rows["probs"].to_list())
    expected = average_precision_score(chain.truth, probabilities, average=None)
    aps = [row["ap"] for row in found["per_class"]]
    np.testing.assert_allclose(aps, expected, rtol=0, atol=1e-9)
    assert found["map"] == pytest.approx(expected.mean(), abs=1e-9)
    chance = chain.truth.mean(axis=0).mean()
    assert found["map"] > chance + 0.5, (found["map"], chance)
    history = pd.read_csv(chain.run / "history.csv")
    assert history["val_map"].max() == pytest.approx(found["map"], abs=1e-6)
    assert "val_top1" not in history and "top1" not in json.dumps(found)

    # The thresholds in the weights are those used, and are the best on val.
    least = [row["threshold"] for row in found["per_class"]]
    assert least == json.loads((chain.run / "result.json").read_text())["val"]["thresholds"]
    told = probabilities >= least
    assert found["f1_macro"] == pytest.approx(f1_score(chain.truth, told, average="macro"))
    assert found["f1_macro"] > f1_score(chain.truth, probabilities >= 0.9, average="macro")


def test_the_errors_are_those_of_the_rows(chain: Chain) -> None:
    found, rows = chain.evaluated()
    params = chain.given(EvaluationParams, "evaluation")
    measured = chain.who.folder("evaluation")
    folder = analyse_errors(chain.told, params, "val", chain.lists, measured) / "val-torch-fp32"
    analysis = json.loads((folder / "analysis.json").read_text())
    assert analysis["wrong"] == 50 - found["exact_count"] == int((~rows["correct"]).sum())
    whole = analysis["threshold_curves"][0]
    scores = np.stack(rows["probs"].to_list())
    expected = average_precision_score(chain.truth.ravel(), scores.ravel())
    assert whole["ap"] == pytest.approx(expected, abs=1e-9)
    labels = {key: list(names) for key, names in zip(rows["key"], rows["labels"], strict=True)}
    for mistake in analysis["mistakes"]:
        true = [CLASSES[label] for label in labels[mistake["key"]]]
        assert mistake["true"] == true
        assert (mistake["about"] in true) is not mistake["said"], "the answer was wrong"
        assert mistake["nearest"]["path"].startswith("images/")
        for file in mistake["files"].values():
            assert (folder / "mistakes" / file).is_file()
    assert len(analysis["mistakes"]) == min(24, analysis["wrong"]) > 0


def test_the_exported_model_and_its_lower_precisions_say_the_same(chain: Chain) -> None:
    found, _ = chain.evaluated()
    folder = chain.exported(precisions=["fp32", "fp16", "int8"], softmax=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["task"] == "multi_label"
    assert json.loads(manifest["thresholds"]) == [row["threshold"] for row in found["per_class"]]
    counts = ("true_positives", "false_positives", "false_negatives", "exact_count")
    for precision, near in (("fp32", 1e-9), ("fp16", 0.01), ("int8", 0.2)):
        same, _ = chain.evaluated(engine="ort", precision=precision)
        assert same["map"] == pytest.approx(found["map"], abs=near)
        assert [row["threshold"] for row in same["per_class"]] == (
            [row["threshold"] for row in found["per_class"]]
        )
        if precision == "fp32":
            assert [same[name] for name in counts] == [found[name] for name in counts]
        else:
            gate = manifest["precisions"][precision]
            assert gate["map_fp32"] == pytest.approx(found["map"], abs=1e-4)
            assert gate["map"] == pytest.approx(same["map"], abs=1e-4)

    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    np.testing.assert_allclose(probabilities, metrics.sigmoid(logits), atol=1e-6)


def test_predictions_are_the_classes_above_their_thresholds_from_torch_and_onnx(
    chain: Chain,
) -> None:
    found, rows = chain.evaluated()
    folder = chain.exported(precisions=["fp32"])
    params = chain.given(PredictionParams, "prediction", engine="ort")
    images = (chain.who.folder("raw") / rows["key"]).astype(str).tolist()
    answers, _ = predict(chain.told, params, images, chain.lists, folder)
    told = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [sorted(row["class_ids"]) for row in told] == [list(ids) for ids in rows["pred"]]
    for row, probabilities in zip(told, rows["probs"], strict=True):
        assert row["label_names"] == [CLASSES[at] for at in row["class_ids"]]
        np.testing.assert_allclose(row["scores"], probabilities[row["class_ids"]], atol=1e-5)
    csv = answers.with_suffix(".csv").read_text().splitlines()
    assert csv[0].endswith("label_3") and len(csv) == 51

    def typed(*options: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(main, ["predict", "--format", "jsonl", *options, *images[:9]])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    model = str(folder / "model.onnx")
    exact, torch = typed("--model", model), typed("--model", str(chain.run), "--engine", "torch")
    assert [row["class_ids"] for row in exact] == [row["class_ids"] for row in torch]
    assert [row["class_ids"] for row in exact] == [row["class_ids"] for row in told[:9]]
    assert all(len(row["class_ids"]) == 3 for row in typed("--model", model, "--threshold", "0"))
    every = load_engine(chain.run, "torch").card
    assert every.multi_label and every.thresholds == load_engine(folder, "ort").card.thresholds


def test_the_best_of_several_labels_is_chosen_by_map_and_is_a_model_like_another(
    chain: Chain,
) -> None:
    """Fine-tuned for a step that ruins it: the training that it started from is used."""
    ruined = {"steps": 1, "lr": 0.1, "warmup_epochs": 0, "init": "train/b0/seed=0"}
    config = TrainConfig.model_validate(chain.params["train"] | ruined)
    logits = chain.given(TeacherLogitsParams, "teacher_logits")
    make_trainer("finetune")(chain.told, config, logits, chain.lists)
    folder = choose_best(
        chain.told,
        chain.given(BestParams, "best"),
        chain.given(EvaluationParams, "evaluation"),
        chain.given(ComparisonParams, "comparison"),
        chain.given(TeacherParams, "train_teacher"),
        chain.lists,
    )
    choice = json.loads((folder / "choice.json").read_text())
    assert choice["used"] == "train/b0/seed=0" and choice["metric"] == "map"
    found = {each["run"]: each["value"] for each in choice["candidates"]}
    assert found["train/b0/seed=0"] == chain.evaluated()[0]["map"] > found["finetune/b0/seed=0"]
    student = "student.safetensors"
    assert (folder / student).read_bytes() == (chain.run / student).read_bytes()
    best = chain.who.model_copy(update={"model": choice["model"]})
    params = chain.given(ExportParams, "export")
    card = json.loads((export(run_of(best), params, chain.lists)[0] / "manifest.json").read_text())
    assert (card["task"], card["chosen_run"]) == ("multi_label", "train/b0/seed=0")


def test_a_model_of_several_labels_is_not_measured_on_lists_of_one(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lists, "multi_label", False)
    with pytest.raises(WeightsError, match="is a multi_label model, the lists of mine are single"):
        evaluate(
            run_of(chain.who, redo=["evaluation"]), chain.given(EvaluationParams, "evaluation"),
            "val", chain.lists, chain.run,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["mining", "ssld_stage1", "ssld_stage2", "comparison"])
def test_ssld_is_refused_before_its_first_node(name: str) -> None:
    hooks = ProjectHooks()
    hooks._params = loader(recipe="multi_label")["parameters"]
    with pytest.raises(ParameterError, match=r"--pipeline train or finetune with --params recipe"):
        hooks.before_pipeline_run({"pipeline_names": [name]}, register_pipelines()[name], {})
    hooks.before_pipeline_run({"pipeline_names": ["train"]}, register_pipelines()["train"], {})


def test_a_loss_that_does_not_fit_the_layout_is_told_before_ingestion() -> None:
    hooks, train = ProjectHooks(), register_pipelines()["train"]
    hooks._params = loader(data={"layout": "multi_label", "pool": []})["parameters"]
    with pytest.raises(ParameterError, match=r"train.loss.name label_smoothing do not fit.*recipe"):
        hooks.before_pipeline_run({"pipeline_names": ["train"]}, train, {})
    hooks._params = loader(recipe="multi_label", data={"layout": "folders"})["parameters"]
    with pytest.raises(ParameterError, match=r"one label per image needs label_smoothing"):
        hooks.before_pipeline_run({"pipeline_names": ["train"]}, train, {})


@pytest.mark.parametrize("env", ["sample", "imagenet"])
def test_the_recipe_sets_layout_loss_and_optimiser_below_the_command_line(env: str) -> None:
    given = run_parameters(env, recipe="multi_label", finetune={"lr": 0.5})
    assert given["data"]["layout"] == "multi_label"
    for name in ("train", "finetune"):
        assert given[name]["loss"]["name"] == "bce"
        assert (given[name]["optimizer"]["name"], given[name]["lr_batch"]) == ("adamw", None)
    assert given["finetune"]["lr"] == 0.5
    typed = {"loss": {"name": "asymmetric", "asymmetric": ASYMMETRIC}}
    loss = run_parameters(env, recipe="multi_label", train=typed)["train"]["loss"]
    assert (loss["name"], loss["asymmetric"]) == ("asymmetric", ASYMMETRIC)


def test_preprocessing_of_the_run_travels_with_it(chain: Chain) -> None:
    card = load_engine(chain.run, "torch").card
    assert card.preprocess == Preprocess(resize_short=32, crop=32)
