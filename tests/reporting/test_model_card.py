"""The model card: its head is read by the hub's own parser, and it claims what was measured."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from synthetic_inputs import CLASSES, HOSTILE, N, evaluation
from test_multi_label_report import result as several_labels

from hgnetv2_pipeline.intervals import wilson_interval
from hgnetv2_pipeline.reporting.chapters.model_card import CardInputs, TrainingFiles, model_card
from hgnetv2_pipeline.reporting.inputs import ReportInputs

RUN, FIRST = "ssld_stage2/b0/seed=0", "ssld_stage1/b0/seed=0"
NOTHING = {"license": None, "data_license": None, "contact": None, "notes": None}
LISTS = {"a" * 64: "train", "b" * 64: "val", "c" * 64: "test"}
GATE = {
    "precision": "int8", "images": "all of val", "n": 500, "top1_fp32": 430, "top1": 428,
    "drop_points": 0.4, "same_answer": 490, "rms_error": 0.04, "relative_error": 0.2,
    "limits": {"rms_error": 0.5, "drop_points": 1.0},
}  # fmt: skip


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def training(folder: Path, run: str, train: str) -> TrainingFiles:
    config = {"lr": 0.01, "augment": {"name": "affine"}}
    recipe = {
        "pipeline": run.split("/")[0],
        "inputs": {"train": train, "val": "b" * 64, "teacher": "d" * 64},
        "params": {"variant": "b0", "seed": 123456, "config": config},
    }
    known = {"steps": 30, "best_step": 20, "images_seen": 1920, "weights": "ema",
             "n_listed": 40, "val": {"n": 500, "top1_count": 430}}  # fmt: skip
    return TrainingFiles(
        run,
        write(folder / run / "manifest.json", recipe),
        write(folder / run / "result.json", known),
        "kedro run --pipeline train" if run == RUN else "",
    )


def write_files(folder: Path, *results: dict[str, Any], **manifest: Any) -> CardInputs:
    export = write(
        folder / "07_model_output" / RUN / "manifest.json",
        {
            "model": RUN, "variant": "b0", "precision": "fp32", "image_size": 32, "params": 5,
            "macs": 7, "parity_error": 4.2e-6, "source_sha256": "e" * 64,
            "files": {"model.onnx": "f" * 64}, "precisions": {"int8": GATE}, **manifest,
        },
    )  # fmt: skip
    labels = "".join(f"{name}\n" for name in CLASSES)
    export.with_name("labels.txt").write_text(labels, encoding="utf-8")
    teacher = {
        "members": ["zoo/b4"],
        "val": {"n": 500, "top1_count": 451, "split": "val"},
    }
    return CardInputs(
        report=ReportInputs(
            dataset="mine",
            root=folder,
            exports=(export,),
            revision="abc",
            versions={"torch": "2"},
            own={"teacher": write(folder / "teacher.json", teacher)},
        ),
        evaluations={
            write(folder / f"{place}.json", value): "c" * 64 for place, value in enumerate(results)
        },
        latencies=[],
        trainings=[training(folder, RUN, "a" * 64), training(folder, FIRST, "9" * 64)],
        teachers=[],
        lists=LISTS,
        stated=NOTHING,
    )


def parts(text: str) -> tuple[dict[str, Any], str]:
    """The YAML of the head, and the Markdown below it."""
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    assert found, text[:200]
    return yaml.safe_load(found[1]), found[2]


def test_the_hub_reads_the_head(tmp_path: Path) -> None:
    results = [
        evaluation(RUN, 600, split="val"),
        evaluation(RUN, 630, split="test", engine="torch"),
    ]
    said = NOTHING | {"license": "apache-2.0"}
    text = model_card(dataclasses.replace(write_files(tmp_path, *results), stated=said))
    data = ModelCard(text).data
    assert (data.library_name, data.license) == ("hgnetv2_pipeline", "apache-2.0")
    assert {"onnx", "image-classification", "pp-hgnetv2-b0"} <= set(data.tags)
    assert data.model_name == RUN and data.metrics == ["accuracy"]
    found = {
        (one.task_type, one.dataset_name, one.dataset_split, one.metric_type): one.metric_value
        for one in data.eval_results
    }
    assert found == {
        ("image-classification", "mine", "test", "accuracy"): round(630 / N, 6),
        ("image-classification", "mine", "val", "accuracy"): round(600 / N, 6),
    }
    assert data.eval_results[0].dataset_split == "test"


def test_a_figure_has_its_interval_and_val_a_warning(tmp_path: Path) -> None:
    _, text = parts(model_card(write_files(tmp_path, evaluation(RUN, 600, engine="torch"))))
    low, high = wilson_interval(600, N)
    assert f"| {100 * 600 / N:.1f} | {100 * low:.1f} – {100 * high:.1f} |" in text
    assert "Figures on val are too good for that reason; there is none on a test set." in text


def test_what_nobody_measured_or_said_is_not_claimed(tmp_path: Path) -> None:
    inputs = dataclasses.replace(write_files(tmp_path), trainings=[])
    head, text = parts(model_card(inputs))
    assert head.keys() == {"library_name", "pipeline_tag", "tags"}
    assert "Not measured when this card was written. Made by: `kedro run --pipeline eval" in text
    for said in (
        "Domain: not stated", "Contact: not stated", "Licence of the model: not stated",
        "Licence of the images: not stated", "how they were trained is not known here",
        "Which images it was trained with is not known here",
    ):  # fmt: skip
        assert said in text
    assert "top-1" not in text.partition("## Files")[0]


def test_times_are_those_of_the_machine_they_were_measured_on(tmp_path: Path) -> None:
    _, text = parts(model_card(write_files(tmp_path)))
    said = text.partition("## Speed")[2].partition("## Files")[0]
    assert (
        "Not measured when this card was written; measure, then export with redo=export. Made by: "
        f"`kedro run --pipeline latency --params model={RUN}`" in said
    )
    row = {
        "model": RUN, "engine": "ort", "precision": "fp32", "batch_size": 1, "device": "EPYC",
        "threads": 1, "image_size": 32, "p50_ms": 0.4312, "mean_ms": 0.44, "p90_ms": 0.47,
        "p99_ms": 0.5, "load_average": 0.2, "processors": 2, "n_warmup": 20, "n_timed": 200,
    }  # fmt: skip
    timed = [write(tmp_path / "bs1.json", row), write(tmp_path / "cold.json", {"cold": []})]
    inputs = dataclasses.replace(write_files(tmp_path), latencies=timed)
    said = parts(model_card(inputs))[1].partition("## Speed")[2].partition("## Files")[0]
    assert "at 32 px on EPYC, 1 thread" in said and "| 0.431 |" in said
    assert "Load average before the measurements: 0.2 on 2 processors: not too busy." in said
    assert "Times of one machine; another has others" in said


def test_gates_lists_and_recipes_are_those_of_the_files(tmp_path: Path) -> None:
    _, text = parts(model_card(write_files(tmp_path, evaluation(RUN, 600, split="test"))))
    assert (
        "- model.int8.onnx on all of val: its logits are off from those of model.onnx by 0.040 of "
        "their standard deviation (root mean square; allowed 0.50); top-1 falls by 0.4 points "
        "(allowed 1.0); 490 of 500 answers are the same."
    ) in text
    assert f"| train | 40 | training of {RUN.replace('_', chr(92) + '_')} | {'a' * 64} |" in text
    assert f"| a list that is not here any more | 40 | training of {FIRST[:4]}" in text
    assert "Teacher: zoo/b4; top-1 on val 90.2 % (451 of 500, 95 % interval 87.3 to 92.5 %)" in text
    own, first = re.findall(r"## Recipe of `(.*?)`\n\n(.*?)\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert (own[0], first[0]) == (RUN, FIRST)
    assert own[1].startswith("Made by `kedro run --pipeline train`.") and "kedro" not in first[1]
    assert yaml.safe_load(own[2]) == {"lr": 0.01, "augment": {"name": "affine"}}


def test_several_labels_have_map_and_their_own_words(tmp_path: Path) -> None:
    one = several_labels(RUN)
    head, text = parts(model_card(write_files(tmp_path, one, task="multi_label")))
    assert head["metrics"] == ["mean_average_precision"] and "multi-label" in head["tags"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == one["map"]
    assert "any number of them" in text and "gets one of them all the same" not in text


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    said = NOTHING | {"notes": "<script>*x*</script>", "license": "a: b\n---", "contact": "a_b"}
    text = model_card(dataclasses.replace(write_files(tmp_path), stated=said))
    head, below = parts(text)
    assert head["license"] == "a: b\n---"
    assert "<script>" not in below and HOSTILE not in below and "<b>" not in below


def test_the_bytes_depend_on_the_files_alone(tmp_path: Path) -> None:
    one = evaluation(RUN, 600)
    first, second = (model_card(write_files(tmp_path / name, one)) for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("cut", ["", "[]"])
def test_a_damaged_manifest_is_an_error_of_one_line(tmp_path: Path, cut: str) -> None:
    inputs = write_files(tmp_path)
    inputs.report.exports[0].write_text(cut)
    with pytest.raises(ValueError, match=r"export manifest: .*/manifest.json cannot be read"):
        model_card(inputs)
