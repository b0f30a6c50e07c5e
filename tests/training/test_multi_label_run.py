"""Training on images of several labels: chosen by mAP, thresholds kept, images counted once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from train_recipes import ADAMW, ASL, BCE, make_job

from hgnetv2_pipeline.data.index import write_index
from hgnetv2_pipeline.data.lists.multi_label import label_matrix
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError
from hgnetv2_pipeline.evaluation.evaluate import predict_logits
from hgnetv2_pipeline.evaluation.metrics import best_thresholds
from hgnetv2_pipeline.input.loader import eval_batches
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.run import _multi_label_score, train_run
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.load import read_state
from multi_label_pictures import CLASSES, draw, scan_multi_label

SPEC = {"num_classes": 3, "classes": CLASSES}
FAST = {"optimizer": ADAMW, "lr": 0.01, "batch_size": 16, "steps": 8, "eval_every": 2.0}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images to train on and 29 of val, with their indexes."""
    root = tmp_path_factory.mktemp("squares")
    for split, count, seed in (("train", 48, 1), ("val", 29, 2)):
        draw(root, split, count, seed=seed)
        write_index(root / f"{split}.parquet", scan_multi_label(root, split).samples)
    return root


@pytest.fixture
def squares_job(squares: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    def make(name: str, **changes: Any) -> RunSpec:
        spec = SPEC | changes.pop("spec", {})
        return make_job(squares, tmp_path, name, spec=spec, **{"loss": BCE, **FAST, **changes})

    return make


def val_logits(weights: Path, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """What ``weights`` answer to val, and the labels."""
    model, info = build_from(str(weights), num_classes=None, root=root)
    samples = scan_multi_label(root, "val").samples
    preprocess = Preprocess.from_dict(info["preprocess"])
    batches = eval_batches(
        samples, root, preprocess=preprocess, batch_size=7, workers=0, ledger=Ledger(29, 0.0)
    )
    _, logits = predict_logits(model, batches, preprocess=preprocess)
    return logits, label_matrix(samples)


def test_map_of_images_without_finite_logits_is_that_of_telling_them_last(squares: Path) -> None:
    samples = scan_multi_label(squares, "val").samples
    truth = label_matrix(samples)
    logits = np.random.default_rng(0).normal(0, 3, truth.shape).astype(np.float32)
    logits[[3, 8]] = [[np.nan, 1, 2], [np.inf, 1, 2]]
    found = _multi_label_score(logits, samples, World(0, 1, 0))
    told_last = np.where(np.isfinite(logits).all(1, keepdims=True), logits, -100)
    assert found.n == 29
    assert found.map == pytest.approx(average_precision_score(truth, told_last), abs=1e-12)
    assert found.loss is None, "of answers that are no numbers there is none"


@pytest.mark.parametrize("loss", [BCE, ASL], ids=["bce", "asymmetric"])
def test_weights_are_chosen_by_map_and_carry_their_thresholds(
    squares: Path, squares_job: Callable[..., RunSpec], loss: dict[str, Any]
) -> None:
    mix = {"mixup": 0.2, "cutmix": 1.0, "probability": 0.2, "switch": 0.5}
    result = train_run(squares_job("run", loss=loss, ema_decay=0.5, mix=mix, keep_best=1))
    rows = pd.read_csv(result.student.with_name("history.csv"))
    assert list(rows.columns[-4:]) == ["val_map", "val_f1_micro", "val_f1_macro", "val_map_ema"]
    best = rows[["val_map", "val_map_ema"]].max().max()
    assert result.metrics["val"]["map"] == best
    assert "top1" not in json.dumps(result.metrics)

    logits, truth = val_logits(result.student, squares)
    assert average_precision_score(truth, logits) == pytest.approx(best, abs=1e-4)
    wide, target = torch.from_numpy(logits).double(), torch.from_numpy(truth).double()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(wide, target).item() * 3
    assert result.metrics["val"]["loss"] == pytest.approx(wanted, rel=1e-3)
    assert rows["val_loss"].notna().any()
    metadata = read_state(result.student).metadata
    assert metadata["task"] == "multi_label"
    chosen = json.loads(metadata["thresholds"])
    (kept,) = (result.student.parent / "best").glob("*.safetensors")
    assert read_state(kept).metadata["thresholds"] == metadata["thresholds"]
    assert chosen == result.metrics["val"]["thresholds"]
    np.testing.assert_allclose(chosen, best_thresholds(logits, truth), atol=1e-3)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    squares_job: Callable[..., RunSpec], sigterm_in: Callable[[int], None]
) -> None:
    whole = train_run(squares_job("whole", eval_every=0.5))
    spec = squares_job("parts", eval_every=0.5)
    sigterm_in(5)
    with pytest.raises(Interrupted):
        train_run(spec)
    sigterm_in(-1)
    parts = train_run(spec)
    for name in ("student.safetensors", "history.csv", "result.json"):
        assert (spec.out / name).read_bytes() == (whole.student.parent / name).read_bytes()
    assert parts.metrics == whole.metrics


@pytest.mark.parametrize("size", [1, 2, 4, 32])
def test_every_image_of_val_counts_once_over_all_processes(squares: Path, size: int) -> None:
    """29 images divide into none of them; of 32 processes three have no image."""
    val = scan_multi_label(squares, "val").samples
    truth = label_matrix(val)
    logits = np.random.default_rng(0).normal(truth, 1).astype(np.float32)
    parts = [logits[rank::size] for rank in range(size)]
    parts = [part if len(part) else np.zeros((0, 0), np.float32) for part in parts]

    class Several(World):
        def gather(self, value: Any) -> list[Any]:
            assert value is parts[self.rank]
            return parts

    found = [_multi_label_score(parts[r], val, Several(r, size, r)) for r in range(size)]
    assert all(score == found[0] for score in found)
    assert found[0].n == 29
    assert found[0].map == pytest.approx(average_precision_score(truth, logits), abs=1e-12)
    assert found[0].thresholds == best_thresholds(logits, truth).tolist()


def test_the_positives_of_rare_classes_can_weigh_more(
    squares_job: Callable[..., RunSpec],
) -> None:
    plain = train_run(squares_job("plain", steps=2))
    weighed = train_run(squares_job("weighed", steps=2, class_balance="weights"))
    assert weighed.history[-1]["loss"] > plain.history[-1]["loss"]
    own = train_run(squares_job("own", steps=2, loss=BCE | {"class_weights": [9.0, 9.0, 9.0]}))
    assert own.history[-1]["loss"] > plain.history[-1]["loss"]


def test_loss_and_lists_must_agree(
    squares_job: Callable[..., RunSpec], job: Callable[..., RunSpec], squares: Path
) -> None:
    with pytest.raises(ParameterError, match=r"train.loss.name to bce.*recipe=multi_label"):
        train_run(job("one", spec=SPEC | {"train": squares / "train.parquet"}))
    with pytest.raises(ParameterError, match="set data.layout to multi_label"):
        train_run(job("two", loss=BCE))
    with pytest.raises(DataError, match="3 labels per image do not fit 2 classes"):
        train_run(squares_job("three", spec={"num_classes": 2, "classes": ["a", "b"]}))
    samples = scan_multi_label(squares, "val").samples
    empty = samples[label_matrix(samples).sum(axis=1) == 0]
    val = write_index(squares / "empty.parquet", empty)
    with pytest.raises(DataError, match="none of its images belongs to any class"):
        train_run(squares_job("four", spec={"val": val}))
