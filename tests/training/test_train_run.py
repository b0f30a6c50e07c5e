"""A whole run: what it writes, that it repeats, and that an interruption changes nothing."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from train_recipes import ADAMW, SSLD, make_job

from hang_guard import HANG, wait_until
from hgnetv2_pipeline.data.index import read_index
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError, WeightsError
from hgnetv2_pipeline.input.loader import normalise
from hgnetv2_pipeline.training import run
from hgnetv2_pipeline.training.checkpoint import load_checkpoint
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.matched_head import build_matched
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.training.state import COLUMNS
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.load import read_metadata, save_weights

Job = Callable[..., RunSpec]
# Everything that has state: momentum, averaged weights, evaluations on the way, both best weights;
# and what draws random numbers in a step.
FULL: dict[str, Any] = {
    "ema_decay": 0.5,
    "eval_every": 1.0,
    "clip_norm": 1.0,
    "steps": 7,
    "optimizer": ADAMW,
    "erasing": 0.5,
    "mix": {"mixup": 0.2, "cutmix": 1.0, "probability": 0.5, "switch": 0.5},
}

QUICK: dict[str, Any] = {"lr": 0.03, "optimizer": ADAMW, "batch_size": 20}


def outputs(folder: Path) -> dict[str, bytes]:
    names = ("student.safetensors", "history.csv", "result.json", "quarantine.csv")
    return {name: (folder / name).read_bytes() for name in names}


def tensors(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        flat: dict[str, Any] = {}
        for key, inner in value.items():
            flat |= tensors(inner, f"{prefix}/{key}")
        return flat
    return {prefix: value}


def assert_same_state(one: Path, other: Path) -> None:
    """Newest checkpoints hold the same bits: model, EMA, optimiser, best weights, history."""
    folders = [max((path / "checkpoints").glob("step=*")) for path in (one, other)]
    assert folders[0].name == folders[1].name
    for file in folders[0].glob("*.pt"):
        first, second = (
            tensors(torch.load(folder / file.name, weights_only=True)) for folder in folders
        )
        assert first.keys() == second.keys()
        for key, value in first.items():
            same = (
                torch.equal(value, second[key]) if torch.is_tensor(value) else value == second[key]
            )
            assert same or (value != value and second[key] != second[key]), (file.name, key)


@pytest.fixture(scope="module")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of ``FULL``."""
    spec = make_job(pictures, tmp_path_factory.mktemp("straight"), "run", **FULL)
    train_run(spec)
    torch.save(torch.get_rng_state(), spec.out / "rng")
    return spec.out


def test_run_learns_and_writes_what_the_contract_names(job: Job) -> None:
    spec = job("run", steps=60, eval_every=30.0, **QUICK)
    rows: list[dict[str, Any]] = []
    result = train_run(spec, rows.append)
    assert result.metrics["val"]["top1"] == 1.0
    assert result.metrics["val"]["n"] == 10
    assert result.metrics["images_seen"] == 60 * 20
    assert [result.metrics[k] for k in ("n_listed", "n_used", "n_quarantined")] == [21, 21, 0]

    metadata = read_metadata(result.student)
    assert metadata["format"] == "hgnetv2_pipeline/1"
    assert (metadata["variant"], metadata["stage"], metadata["num_classes"]) == (
        "nano",
        "train",
        "2",
    )
    assert json.loads(metadata["classes"]) == ["red", "blue"]
    assert json.loads(metadata["preprocess"])["crop"] == 32
    assert json.loads(metadata["inputs"]) == {"train": "00000000"}

    history = pd.read_csv(spec.out / "history.csv")
    assert list(history.columns) == list(COLUMNS)
    assert history["step"].tolist() == [row["step"] for row in rows]
    assert history["step"].tolist() == [10, 20, 30, 32, 40, 50, 60]
    assert history.loc[history["val_top1"].notna(), "step"].tolist() == [32, 60]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history.loc[history["val_loss"].notna(), "step"].tolist() == [32, 60]
    network, info = build_from(str(spec.out), num_classes=2, root=spec.root)
    assert info["classes"] == ["red", "blue"]
    val, how = read_index(spec.val), Preprocess.from_dict(json.loads(metadata["preprocess"]))
    images = torch.stack(
        [torch.tensor(how.image(spec.val_root / path)).permute(2, 0, 1) for path in val["path"]]
    )
    with torch.inference_mode():
        logits = network.eval()(normalise(images, how.mean, how.std)).double()
    labels = torch.tensor(val["label"].tolist())
    wanted = torch.nn.functional.cross_entropy(logits, labels).item()
    assert result.metrics["val"]["loss"] == pytest.approx(wanted, rel=1e-4)
    assert result.metrics["val"]["loss"] in history["val_loss"].tolist()
    assert sum(p.numel() for p in network.parameters()) == result.metrics["parameters"]


def test_same_job_gives_the_same_bytes_and_another_seed_does_not(job: Job, straight: Path) -> None:
    train_run(job("again", **FULL))
    assert outputs(straight) == outputs(job("again").out)
    train_run(job("other", spec={"seed": 4}, **FULL))
    weights = [outputs(path)["student.safetensors"] for path in (straight, job("other").out)]
    assert weights[0] != weights[1]


# Row C09 of docs/reliability.md.
@pytest.mark.parametrize("stops", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_stopped_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    job: Job, straight: Path, stops: int, sigterm_in: Callable[[int], None]
) -> None:
    # Loader processes and the number of checkpoints may differ: they change no weight.
    workers = [0, 1, 2, 4] * stops
    for number in range(stops):
        stop_in = random.randrange(6)
        spec = job(f"stopped{number}", **FULL, workers=workers[number])
        sigterm_in(stop_in)
        with pytest.raises(Interrupted, match=f"stopped after step {stop_in + 1} of 7") as caught:
            train_run(spec)
        sigterm_in(-1)
        assert caught.value.exit_code == 75
        assert not (spec.out / "student.safetensors").exists()
        other = {"workers": workers[number + 1], "keep_checkpoints": 1, "keep_best": 1}
        train_run(job(spec.out.name, **FULL, **other))
        assert torch.equal(torch.get_rng_state(), torch.load(straight / "rng")), stop_in
        assert outputs(straight) == outputs(spec.out), stop_in
        assert_same_state(straight, spec.out)


def test_resume_from_every_step_after_another(
    job: Job, straight: Path, sigterm_in: Callable[[int], None]
) -> None:
    spec = job("stopped", **FULL)
    for step in range(6):
        sigterm_in(step)
        with pytest.raises(Interrupted):
            train_run(spec)
    train_run(spec)
    assert outputs(straight) == outputs(spec.out)


def test_stop_during_an_evaluation_evaluates_after_the_resume(
    job: Job, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job("stopped", **FULL)
    whole = run.eval_batches

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in whole(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(run, "eval_batches", interrupted)
    with pytest.raises(Interrupted, match="stopped after step 3 of 7"):
        train_run(spec)
    assert not (spec.out / "history.csv").exists()
    monkeypatch.setattr(run, "eval_batches", whole)
    train_run(spec)
    assert outputs(straight) == outputs(spec.out)


def test_finished_run_is_finished_again_with_the_same_bytes(job: Job) -> None:
    spec = job("run", steps=2)
    train_run(spec)
    before = outputs(spec.out)
    (spec.out / "student.safetensors").unlink()
    train_run(spec)
    assert outputs(spec.out) == before


# Row C08 of docs/reliability.md.
def test_changed_recipe_is_not_resumed(job: Job) -> None:
    train_run(job("run", steps=2))
    with pytest.raises(ParameterError, match=r"training\.lr 0\.01 -> 0\.02"):
        train_run(job("run", steps=2, lr=0.02))


def test_sigterm_of_the_process_exits_75_and_the_next_process_resumes(
    job: Job, sigterm_in: Callable[[int], None]
) -> None:
    spec = job("run", steps=4000, workers=2)
    file = spec.out.with_suffix(".json")
    file.write_text(spec.model_dump_json())
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from train_recipes import NANO; "
        "from hgnetv2_pipeline.models import VARIANTS; VARIANTS['nano'] = NANO; "
        "from hgnetv2_pipeline.training.launch import main; sys.exit(main(sys.argv[1:2]))"
    )
    command = [sys.executable, "-c", program, str(file), str(Path(__file__).parent)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    history = spec.out / "history.csv"
    wait_until(lambda: history.exists() or child.poll() is not None, "the run has begun")
    os.killpg(child.pid, signal.SIGTERM)  # loader processes get it too, as a job's end sends it
    _, log = child.communicate(timeout=HANG)
    assert child.returncode == 75, log
    assert "Traceback" not in log
    steps = [int(path.name[5:]) for path in (spec.out / "checkpoints").glob("step=*")]
    assert len(steps) == 1
    assert 0 < steps[0] < 4000
    sigterm_in(steps[0])
    with pytest.raises(Interrupted):
        train_run(spec)
    timing = json.loads((spec.out / "timing.json").read_text())
    assert [segment["from_step"] for segment in timing["segments"]] == [0, steps[0]]
    assert {segment["processor"] for segment in timing["segments"]} == {"CPU"}
    assert all(segment["processor_seconds"] > 0 for segment in timing["segments"])


@pytest.mark.slow
def test_student_learns_from_an_ensemble_without_labels(job: Job, pictures: Path) -> None:
    for seed in (0, 1):
        train_run(job(f"teacher{seed}", steps=40, **QUICK, spec={"seed": seed}))
    unlabelled = pd.read_parquet(pictures / "train.parquet").assign(label=pd.NA)
    unlabelled["label"] = unlabelled["label"].astype("Int64")
    path = job("x").root / "pool.parquet"
    unlabelled.to_parquet(path)
    teacher = {"members": ["teacher0", "teacher1"], "bn": "eval"}
    # At 40 steps some seeds have not learnt it yet, with plain layers as often as with fused ones.
    spec = job("student", steps=80, **QUICK, loss=SSLD, spec={"teacher": teacher, "train": path})
    result = train_run(spec)
    assert result.metrics["val"]["top1"] == 1.0
    agreement = [row["teacher_agreement"] for row in result.history]
    assert agreement[-1] is not None
    assert agreement[-1] > 0.9
    assert all(row["train_top1"] is None for row in result.history)
    assert set(result.metrics["sources"]) == {"teacher 0", "teacher 1"}
    with pytest.raises(DataError, match="21 images have no label"):
        train_run(job("plain", spec={"train": path}))


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_mixed_precision_trains_with_a_teacher_too(job: Job, bn: str) -> None:
    train_run(job("teacher", steps=2))
    teacher = {"teacher": {"members": ["teacher"], "bn": bn}}
    result = train_run(job("student", steps=3, amp="bf16", loss=SSLD, spec=teacher))
    assert result.metrics["steps_not_applied"] == []
    [folder] = (job("student").out / "checkpoints").glob("step=*")
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert {v.dtype for v in weights.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("device", "amp", "workers"),
    [
        ("cpu", "bf16", 0),
        pytest.param("cuda", "bf16", 2, marks=pytest.mark.gpu),
        pytest.param("cuda", "fp16", 2, marks=pytest.mark.gpu),
    ],
)
def test_mixed_precision_in_parts_stops_and_goes_on(
    job: Job, sigterm_in: Callable[[int], None], device: str, amp: str, workers: int
) -> None:
    changes = FULL | {"amp": amp, "workers": workers, "accumulate": 2, "spec": {"device": device}}
    sigterm_in(3)
    with pytest.raises(Interrupted, match="stopped after step 4 of 7"):
        train_run(job("run", **changes))
    sigterm_in(-1)
    result = train_run(job("run", **changes))
    assert (result.metrics["steps"], result.metrics["steps_not_applied"]) == (7, [])
    assert all(math.isfinite(row["loss"] or 0.0) for row in result.history)
    [newest] = (job("run").out / "checkpoints").glob("step=*7")
    scale = torch.load(newest / "progress.pt", weights_only=True)["scaler"].get("scale")
    assert (scale is None) == (amp != "fp16")


def test_unreadable_image_is_left_out_named_and_counted(
    job: Job, pictures: Path, tmp_path: Path
) -> None:
    broken = pd.read_parquet(pictures / "train.parquet")
    broken.loc[4, "path"] = "train/gone.png"
    broken.to_parquet(tmp_path / "broken.parquet")
    train = {"train": tmp_path / "broken.parquet"}
    result = train_run(job("tolerant", spec=train, max_bad=0.1))
    assert [result.metrics[k] for k in ("n_listed", "n_used", "n_quarantined")] == [21, 20, 1]
    quarantine = pd.read_csv(tmp_path / "tolerant" / "quarantine.csv")
    assert quarantine["key"].tolist() == [broken.loc[4, "key"]]
    with pytest.raises(DataError, match="1 of 21 images cannot be used"):
        train_run(job("strict", spec=train))


def test_unreadable_val_image_stops_the_run(job: Job, pictures: Path, tmp_path: Path) -> None:
    broken = pd.read_parquet(pictures / "val.parquet")
    broken.loc[4, "path"] = "val/gone.png"
    broken.to_parquet(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match="1 of 10 images cannot be used"):
        train_run(job("run", spec={"val": tmp_path / "broken.parquet"}, max_bad=1.0))


def test_val_images_without_finite_logits_are_wrong_and_end_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run.predict_logits

    def overflowing(*args: Any, **kwargs: Any) -> Any:
        keys, logits = whole(*args, **kwargs)
        logits[:] = [[int(key[4:6]) % 2 == label for label in (0, 1)] for key in keys]
        logits[:2] = [[math.inf, 0], [math.nan, 0]]
        return keys, logits

    monkeypatch.setattr(run, "predict_logits", overflowing)
    found = train_run(job("run", steps=1)).metrics["val"]
    assert (found["n"], found["top1_count"]) == (10, 8)
    assert "2 of 10 val images got NaN or inf" in caplog.text


def test_a_device_that_no_machine_has_makes_no_job(job: Job) -> None:
    with pytest.raises(ValidationError, match="tpu9"):
        job("bad", spec={"device": "tpu9"})


@pytest.mark.parametrize(
    ("changes", "spec", "error", "message"),
    [
        ({"init": "nowhere/run"}, {}, WeightsError, "nowhere/run"),
        ({"amp": "fp16"}, {}, ParameterError, "'fp16' needs a GPU"),
        ({}, {"num_classes": 1, "classes": ["red"]}, DataError, "do not fit 1 classes"),
        ({"warmup_epochs": 9.0}, {}, ParameterError, "the whole run has 6"),
    ],
)
def test_job_that_cannot_run_is_refused_before_anything_is_written(
    job: Job,
    changes: dict[str, Any],
    spec: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    bad = job("bad", spec=spec, **changes)
    with pytest.raises(error, match=message):
        train_run(bad)
    assert [path.name for path in bad.out.rglob("*") if path.is_file()] == []


def test_a_list_of_one_class_is_refused(job: Job, pictures: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        frame = pd.read_parquet(pictures / f"{split}.parquet").assign(label=0)
        frame.astype({"label": "Int64"}).to_parquet(tmp_path / f"{split}.parquet")
    one = {split: tmp_path / f"{split}.parquet" for split in ("train", "val")}
    with pytest.raises(DataError, match="has one class, 'red': there is nothing to distinguish"):
        train_run(job("run", spec={**one, "num_classes": 1, "classes": ["red"]}))


# Row W07 of docs/reliability.md.
def test_init_of_other_classes_is_refused_unless_the_head_starts_afresh(job: Job) -> None:
    train_run(job("first", steps=2))
    cats = {"classes": ["cat", "dog"]}
    with pytest.raises(
        WeightsError, match=r"other classes \(red, blue\) than the data \(cat, dog\)"
    ):
        train_run(job("second", steps=2, init="first", spec=cats))
    result = train_run(job("third", steps=2, init="first", head="reinit", spec=cats))
    assert "init" in result.metrics["sources"]
    wrong = {"variant": "b1", **cats}
    with pytest.raises(WeightsError, match="is a nano, but variant is 'b1'"):
        train_run(job("fourth", steps=2, init="first", head="reinit", spec=wrong))


def test_a_matched_head_keeps_the_rows_of_classes_of_the_same_name(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    spec = job("first", steps=2)
    train_run(spec)
    learnt, _ = build_from("first", num_classes=2, root=spec.root)
    names = ["green", "blue", "red"]
    found, info, head = build_matched("first", classes=names, root=spec.root)
    for row, same in ((1, 1), (2, 0)):  # blue and red were 1 and 0
        assert torch.equal(found.fc.weight[row], learnt.fc.weight[same])
        assert torch.equal(found.fc.bias[row], learnt.fc.bias[same])
    bound = (6 / (learnt.fc.in_features + 3)) ** 0.5  # of Xavier's uniform numbers
    assert 0.9 * bound < found.fc.weight[0].abs().max() <= bound and found.fc.bias[0] == 0
    rest = {key: value for key, value in found.state_dict().items() if "fc." not in key}
    assert all(torch.equal(value, learnt.state_dict()[key]) for key, value in rest.items())
    assert (head.kept, head.new, head.dropped) == (("blue", "red"), ("green",), ())
    assert info["num_classes"] == 3

    # Of the same classes in another order nothing is lost: the first answers are as good.
    turned = {"classes": ["blue", "red"], "num_classes": 2}
    with caplog.at_level("INFO"):
        result = train_run(job("turned", steps=2, init="first", head="match", spec=turned))
    assert result.metrics["head"] == {"kept": ["blue", "red"], "new": [], "dropped": []}
    assert "head: match keeps the rows of 2 classes (blue, red), starts no class" in caplog.text
    with pytest.raises(WeightsError, match=r"knows 2 classes \(red, blue\), none of them among"):
        train_run(
            job("none", steps=2, init="first", head="match", spec={"classes": ["cat", "dog"]})
        )
    metadata = read_metadata(spec.out / "student.safetensors")
    del metadata["classes"]
    save_weights(spec.root / "nameless.safetensors", learnt, metadata)
    with pytest.raises(WeightsError, match="does not say which classes its rows are of"):
        train_run(job("nameless", steps=2, init="nameless.safetensors", head="match"))


def test_checkpoint_of_a_finished_run_holds_everything(straight: Path) -> None:
    [newest] = (straight / "checkpoints").glob("step=*")
    manifest = json.loads((newest / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {
        f"{name}.pt" for name in ("model", "optimizer", "ema", "best", "progress", "ledger")
    }
    loaded = load_checkpoint(straight / "checkpoints", identity=manifest["identity"])
    assert loaded is not None
    assert loaded["progress"]["step"] == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": [32, 64], "fit": "squash"}, {"crop": [32, 64], "fit": "squash"}),
        ({"image_size": [64, 32], "augment": {"name": "published"}}, {"crop": [64, 32]}),
        (
            {"fit": "pad", "augment": {"name": "affine"}},
            {"crop": 32, "fit": "pad", "pad_colour": [124, 116, 104]},
        ),
    ],
)
def test_a_run_trains_and_evaluates_what_its_weights_say(
    job: Job, changes: dict[str, Any], said: dict[str, Any]
) -> None:
    made = train_run(job("fit", steps=2, eval_every=None, **{"resize_short": 64, **changes}))
    preprocess = json.loads(read_metadata(made.student)["preprocess"])
    assert {name: preprocess[name] for name in said} == said
    assert ("fit" in preprocess) == ("fit" in said)
