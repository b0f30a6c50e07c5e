"""The embedded sample from raw digits to the report: one shared run of ``kedro run``.

Figures are floors set well below what is measured (docs/results/sample.md); they hold the claim
that the chain works, not the exact numbers of one machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hang_guard import HANG
from hgnetv2_pipeline.devices import count_gpus
from project_copies import SampleRun, kedro, quiet_environment

pytestmark = pytest.mark.sample


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def trainings(text: str) -> int:
    """How many trainings a run's log shows: each prints its parameter groups once."""
    return text.count("parameter groups")


@pytest.fixture(scope="module")
def arms(sample_run: SampleRun) -> dict[str, list[float]]:
    table = read(sample_run.data("08_reporting/sample/comparison/b0/seed=0/comparison.json"))
    found: dict[str, list[float]] = {}
    for row in table["rows"]:
        assert (row["split"], row["n"]) == ("test", 400)
        found.setdefault(row["arm"], []).append(100 * row["top1_count"] / row["n"])
    return found


def test_stage_1_gains_at_least_3_points_over_supervised(arms: dict[str, list[float]]) -> None:
    # One seed of stage 1 and two of supervised training; beside the slow tests, two of each.
    assert (len(arms["stage1"]), len(arms["supervised"])) in ((1, 2), (2, 2))
    assert np.mean(arms["stage1"]) - np.mean(arms["supervised"]) >= 3.0
    assert min(arms["stage1"]) > max(arms["supervised"])


@pytest.mark.parametrize(
    ("folder", "samples"),
    [
        ("05_model_input/sample/mixed", "train_mined"),
        pytest.param(
            "06_models/sample/comparison/b0/seed=0", "train_unmined", marks=pytest.mark.slow
        ),
    ],
)
def test_the_teacher_answered_every_image_of_a_list_once(
    sample_run: SampleRun, folder: str, samples: str
) -> None:
    store = sample_run.data(folder) / "teacher_logits"
    listed = pd.read_parquet(sample_run.data(folder) / f"{samples}.parquet")
    assert read(store / "store.json")["views"] == 1
    assert pd.read_parquet(store / "images.parquet")["key"].tolist() == listed["key"].tolist()


@pytest.mark.slow
def test_stage_1_beats_supervised_at_equal_steps(arms: dict[str, list[float]]) -> None:
    assert np.mean(arms["stage1"]) > np.mean(arms["supervised_equal_steps"])


def test_mining_keeps_distractors_out_and_validation_copies_too(sample_run: SampleRun) -> None:
    audit = read(sample_run.data("08_reporting/sample/mining/mixed/audit.json"))
    assert audit["selected"] == 600
    assert audit["purity"]["distractor_share"] <= 0.08
    for kind, fate in audit["planted"]["kinds"].items():
        assert fate["remove"] == fate["planted"] == 20, kind
    assert audit["planted"]["clean_lost_share"] <= 0.01
    assert audit["pool_listed"] == audit["scored"] + audit["quarantined"] == 1317


def test_hidden_images_tell_how_pure_the_list_is_among_those_of_a_class(
    sample_run: SampleRun,
) -> None:
    folder = sample_run.data("08_reporting/sample/mining/mixed")
    audit = read(folder / "audit.json")
    found, truth = audit["estimate"], audit["purity"]
    assert found["set"] == "val" and found["probes"] > 300
    assert found["low"] - 0.02 <= truth["accuracy"] <= found["high"] + 0.02
    # An upper bound of the whole list, which holds images of no class as well.
    assert found["high"] >= truth["right"] / truth["known"]
    page = (folder / "mining_report.html").read_text(encoding="utf-8")
    assert "Not shown" not in page and "upper bound" in page


def test_listed_is_used_plus_quarantined_plus_refused(sample_run: SampleRun) -> None:
    counts = re.findall(
        r"'n_listed': (\d+), 'n_used': (\d+), 'n_quarantined': (\d+), 'n_refused': (\d+)",
        sample_run.output,
    )
    assert len(counts) >= 3
    for listed, used, quarantined, refused in counts:
        assert int(listed) == int(used) + int(quarantined) + int(refused)


def test_the_sums_are_in_mlflow_for_every_step(sample_run: SampleRun) -> None:
    [file] = sample_run.project.glob("mlartifacts/*/artifacts/images.json")
    sums = json.loads(file.read_text(encoding="utf-8"))
    assert sums.keys() >= {
        "ingestion.summary", "mining.audit", "ssld_stage1.run", "ssld_stage2.run",
        "evaluation.metrics",
    }  # fmt: skip
    for name, counts in sums.items():
        parts = ("n_used", "n_quarantined", "n_refused")
        assert counts["n_listed"] == sum(counts[part] for part in parts), name


def test_mlflow_has_a_run_for_every_training_and_measurement(sample_run: SampleRun) -> None:
    with closing(sqlite3.connect(sample_run.project / "mlflow.db")) as connection:
        states = dict(connection.execute("select name, status from runs"))
        children = connection.execute("select count(*) from tags where key='mlflow.parentRunId'")
        assert children.fetchone() == (len(states) - 1,)
    assert set(states.values()) == {"FINISHED"}
    parts = {name.partition(", seed")[0] for name in states}
    assert parts >= {
        "sample b0 seed=0", "teacher member 0", "teacher member 1", "SSLD stage 1, mined",
        "SSLD stage 2", "evaluation of best/b0/seed=0 on test",
        "export of best/b0/seed=0", "latency of best/b0/seed=0",
    }  # fmt: skip


def test_the_export_is_a_model_of_mlflow_that_answers_as_ours(sample_run: SampleRun) -> None:
    import mlflow
    import pandas as pd

    from hgnetv2_pipeline.deployment.engines.ladder import load_engine

    (folder,) = sample_run.project.glob("mlartifacts/models/*/artifacts")
    pictures = sorted(sample_run.data("01_raw/sample").rglob("*.png"))[::400]
    given = pd.DataFrame({"image": [path.read_bytes() for path in pictures]})
    answers = mlflow.pyfunc.load_model(str(folder)).predict(given)
    (export,) = sample_run.data("07_model_output/sample/best/b0").glob("*/model.onnx")
    with load_engine(export, "ort") as engine:
        for record, row in zip(engine.predict(pictures), answers.to_dict("records"), strict=True):
            assert row == {**{name: record[name] for name in list(row)[:3]}, "error": ""}  # type: ignore[literal-required]


def test_the_exported_model_answers_as_torch_does_on_every_test_image(
    sample_run: SampleRun,
) -> None:
    from hgnetv2_pipeline.data.index import read_index
    from hgnetv2_pipeline.deployment.engines.ladder import load_engine

    folder = sample_run.data("07_model_output/sample/best/b0/seed=0")
    assert read(folder / "manifest.json")["parity_error"] <= 5e-5
    engine = load_engine(folder / "model.onnx", engine="ort", threads=1)
    import pandas as pd

    rows = pd.read_parquet(
        sample_run.data("08_reporting/sample/evaluation/best/b0/seed=0/"
                        "test-torch-fp32.parquet")
    ).set_index("key")  # fmt: skip
    test = read_index(sample_run.data("02_intermediate/sample/index_test.parquet"))
    raw = sample_run.data("01_raw/sample")
    images = np.stack([engine.preprocess(raw / path) for path in test["path"]])
    predicted = engine.logits(images).argmax(axis=1)
    assert (predicted == rows.loc[test["key"], "pred"].to_numpy()).all()


def test_a_wrong_answer_is_found_with_its_picture_and_why(sample_run: SampleRun) -> None:
    import pandas as pd

    evaluated = sample_run.data("08_reporting/sample/evaluation/best/b0/seed=0")
    rows = pd.read_parquet(evaluated / "test-torch-fp32.parquet").set_index("key")
    folder = sample_run.data("08_reporting/sample/error_analysis/best/b0/seed=0/test-torch-fp32")
    table = pd.read_csv(folder / "mistakes.csv")
    wrong = rows[~rows["correct"]]["top1_prob"].sort_values(ascending=False)
    assert table["probability"].tolist() == pytest.approx(wrong[: len(table)].tolist(), abs=1e-6)
    assert len(table) == min(24, len(wrong))
    raw = sample_run.data("01_raw/sample")
    for row in table.to_dict("records"):
        assert (raw / row["file"]).is_file() and (raw / row["nearest_file"]).is_file()
        assert all((folder / "mistakes" / name).is_file() for name in row["pictures"].split())
        assert row["true"] != row["answer"]
    page = sample_run.data("08_reporting/sample/report/report.html").read_text(encoding="utf-8")
    chapter = page[page.index('<section id="mistakes">') : page.index('<section id="published">')]
    assert chapter.count("<image ") == 3 * len(table)
    assert "mistakes.csv" in chapter


def test_the_server_answers_with_the_exported_model(sample_run: SampleRun, tmp_path: Path) -> None:
    """The command of section 3.4 in docs/seed_map.md."""
    with subprocess.Popen(
        [Path(sys.executable).with_name("hgnetv2"), "serve", "--port", "0", "--no-grpc",
         sample_run.data("07_model_output", "sample", "best", "b0", "seed=0")],
        stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[1]
            with urllib.request.urlopen(f"{address}/v2/models/b0/ready", timeout=60) as answer:  # noqa: S310 - ours
                assert answer.status == 200
        finally:
            server.terminate()
    assert server.returncode == 0


def test_the_report_is_whole_and_needs_no_network(sample_run: SampleRun) -> None:
    page = sample_run.data("08_reporting/sample/report/report.html").read_text(encoding="utf-8")
    for expected in ("EMBEDDED SAMPLE", "What SSLD gained", "What was mined", "Latency",
                     "timm:resnet18", "77.77", "Where each number came from"):  # fmt: skip
        assert expected in page, expected
    assert "not made yet" not in page
    fetched = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']+)""", page)
    assert all(not link.startswith(("http", "//")) for link in fetched), fetched
    assert "supervised only" in sample_run.output  # the final table on the terminal
    assert "EMBEDDED SAMPLE" in sample_run.output


def test_a_second_run_trains_nothing_and_changes_nothing(sample_run: SampleRun) -> None:
    def state() -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns
            for path in sample_run.data().rglob("*")
            if path.is_file() and ".hashes" not in path.name
        }

    before = state()
    done = kedro(sample_run.project, "run", PYTHONPROFILEIMPORTTIME="1")
    assert trainings(done.stdout) == 0
    assert state() == before
    lines = [line for line in done.stdout.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "kedro" in imported
    assert count_gpus() or not imported & {"torch", "timm", "onnx", "onnxruntime", "mlflow"}


def test_the_best_model_on_val_is_measured_exported_and_named_on_the_page(
    sample_run: SampleRun,
) -> None:
    choice = read(sample_run.data("06_models/sample/best/b0/seed=0/choice.json"))
    by_run = {each["run"]: each for each in choice["candidates"]}
    used, leader = by_run[choice["used"]], by_run[choice["leader"]]
    assert leader["right"] == max(each["right"] for each in by_run.values())
    assert used["behind"] <= used["error"]
    # What a training said of itself on val is what the choice found.
    for each in by_run.values():
        found = read(sample_run.data("06_models/sample", each["run"], "result.json"))
        assert abs(found["val"]["top1_count"] - each["right"]) <= 1  # rounding of one image
        assert (each["weights"], each["sha256"]) == (found["weights"], found["student_sha256"])
    bundle = read(sample_run.data("07_model_output/sample/best/b0/seed=0/manifest.json"))
    assert bundle["source_sha256"] == used["sha256"]
    page = sample_run.data("08_reporting/sample/report/report.html").read_text(encoding="utf-8")
    assert f"top-1 of {used['run']}, chosen on val" in page
    for reason in choice["reasons"]:
        assert reason in page and reason in sample_run.output
    for each in by_run.values():
        assert each["run"] in page
    assert used["command"].replace(used["run"], "CANDIDATE") in page


def test_a_stage_2_that_makes_it_worse_is_not_used_and_is_named(
    sample_run: SampleRun, tmp_path: Path
) -> None:
    """Same run, another stage 2: it alone is trained, the choice is made again, stage 1 ships."""
    project = tmp_path / "project"
    without = shutil.ignore_patterns("checkpoints", "mlflow.db*")  # no part of a result, and large
    shutil.copytree(sample_run.project, project, symlinks=True, ignore=without)
    models, best = project / "data/06_models/sample", "best/b0/seed=0"
    before = read(models / best / "choice.json")
    worse = "ssld_stage2.lr=0.05,ssld_stage2.steps=4,mlflow=false"
    done = kedro(project, "run", "--pipelines", "evaluation,export", "--params", worse)
    assert trainings(done.stdout) == 1
    choice = read(models / best / "choice.json")
    assert choice["used"] == "ssld_stage1/b0/seed=0"
    assert "SSLD stage 2 lowered top-1 on val by" in done.stdout
    assert "points against SSLD stage 1, mined, and is not used" in done.stdout
    weights = (models / best / "student.safetensors").read_bytes()
    assert weights == (models / choice["used"] / "student.safetensors").read_bytes()
    card = read(project / "data/07_model_output/sample" / best / "manifest.json")
    assert card["source_sha256"] == hashlib.sha256(weights).hexdigest()
    assert before in [read(path) for path in (models / "best/b0/archive").rglob("choice.json")]
    done = kedro(project, "run", "--pipeline", "export", "--params", f"model=null,{worse}")
    assert trainings(done.stdout) == 0
    assert (project / "data/07_model_output/sample/ssld_stage2/b0/seed=0/model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "ending", "lower", "allowed", "ratio"),
    [("executorch", ".pte", "int8", 1e-5, 0.3), ("ncnn", ".ncnn", "fp16", 1e-5, 0.51)],
)
def test_files_for_devices_answer_val_as_the_network_does(
    sample_run: SampleRun, target: str, ending: str, lower: str, allowed: float, ratio: float
) -> None:
    model = "ssld_stage2/b0/seed=0"
    more = f"export.target={target},export.precisions=fp32+{lower},model={model}"
    kedro(sample_run.project, "run", "--pipeline", "export", "--params", more)
    folder = sample_run.data("07_model_output/sample", model)
    exact = read(folder / f"model{ending}.json")
    rough = read(folder / f"model.{lower}{ending}.json")
    assert exact["parity_error"] <= allowed and exact["gate"]["same_answer"] == 500
    assert rough["gate"]["same_answer"] >= 495, "99 % of val"
    assert rough["size_bytes"] / exact["size_bytes"] <= ratio


@pytest.mark.slow
def test_a_run_beside_with_another_learning_rate_leaves_both_readable(
    sample_run: SampleRun,
) -> None:
    folder = sample_run.data("06_models/sample/finetune/b0/seed=0")
    short = "finetune.steps=2,mlflow=false"
    kedro(sample_run.project, "run", "--pipeline", "finetune", "--params", short)
    first = (folder / "student.safetensors").read_bytes()
    done = kedro(
        sample_run.project, "run", "--pipeline", "finetune", "--params",
        f"{short},finetune.lr=0.001",
    )  # fmt: skip
    assert "config.lr 0.0005 -> 0.001" in done.stdout
    archived = list((folder.parent / "archive").glob("*/seed=0/student.safetensors"))
    assert [path.read_bytes() for path in archived] == [first]
    assert (folder / "student.safetensors").read_bytes() != first


@pytest.mark.slow  # test_sample_run_with_dvc.py stops and resumes a run by default
def test_a_stopped_run_is_resumed_by_the_same_command(sample_run: SampleRun) -> None:
    """SIGTERM saves and exits 75; the same command goes on and gives the uninterrupted bytes."""
    command = ["run", "--pipeline", "train", "--params"]
    whole = "train.steps=30,mlflow=false,run=whole"
    kedro(sample_run.project, *command, whole)
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", *command, "train.steps=30,mlflow=false,run=cut", "-v"],
        cwd=sample_run.project,
        env=quiet_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "step 10" in line or "step 20" in line:
            process.send_signal(signal.SIGTERM)
            break
    seen += process.stdout.readlines()
    assert process.wait(HANG) == 75, "".join(seen)[-3000:]
    done = kedro(sample_run.project, *command, "train.steps=30,mlflow=false,run=cut")
    assert "resumed after step" in done.stdout
    runs = sample_run.data("06_models/sample/train/b0")
    digests = {
        name: (runs / name / "student.safetensors").read_bytes() for name in ("whole", "cut")
    }
    assert digests["whole"] == digests["cut"]
