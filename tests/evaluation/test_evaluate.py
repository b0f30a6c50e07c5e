"""Evaluation of a module and of an engine: the same answer, and every listed image counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import nn

from hgnetv2_pipeline.data.lists.multi_label import label_matrix
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.scan.folders import scan_list
from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.evaluation.evaluate import Evaluation, evaluate_samples, predict_logits
from hgnetv2_pipeline.input.loader import eval_batches

PREPROCESS = Preprocess(resize_short=40, crop=32)
ACCOUNT = ("n_listed", "n_used", "n_quarantined", "n_refused")
NAMES = {"model_name": "m", "split": "val", "engine": "torch", "precision": "fp32", "inputs": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    root = tmp_path_factory.mktemp("val")
    rng = np.random.default_rng(0)
    for index in range(11):
        pixels = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index:02d}.png")
    (root / "list.txt").write_text("".join(f"{i:02d}.png {i % 3}\n" for i in range(11)))
    return scan_list(root / "list.txt", root).samples, root


class Means(nn.Module):
    """Logits are the channels' means: has BN, so that train and eval mode differ."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x).mean((2, 3)) * 10


def engine(images: np.ndarray) -> np.ndarray:
    assert images.dtype == np.float32
    assert images.shape[1:] == (3, 32, 32)
    return images.mean((2, 3)) * 10 / np.sqrt(1 + 1e-5)


def evaluated(model: Any, samples: pd.DataFrame, root: Path, **changes: Any) -> Evaluation:
    settings: dict[str, Any] = {"batch_size": 4, "workers": 0, "classes": ["r", "g", "b"]}
    return evaluate_samples(
        model, samples, root, preprocess=PREPROCESS, **NAMES, **(settings | changes)
    )


def test_an_evaluation_of_before_is_told_with_what_it_has(caplog: pytest.LogCaptureFixture) -> None:
    from hgnetv2_pipeline.project.evaluation import log_metrics

    before = {"top1": 0.5, "top1_count": 3, "n_listed": 6}
    with caplog.at_level("INFO"):
        log_metrics("m", "val", before)
        log_metrics("m", "val", before | {"balanced_accuracy": 0.25, "f1_macro": 0.4})
    assert [record.message for record in caplog.records] == [
        "m on val: top-1 50.00 % (3 of 6)",
        "m on val: top-1 50.00 % (3 of 6), balanced 25.00 %, F1 macro 0.4000",
    ]


def test_module_and_engine_agree_with_each_image_on_its_own(
    folder: tuple[pd.DataFrame, Path],
) -> None:
    samples, root = folder
    model = Means().train()
    module, plain = evaluated(model, samples, root), evaluated(engine, samples, root)
    own = np.stack([engine(PREPROCESS(root / key)[None])[0] for key in samples["key"]])
    assert module.rows["key"].tolist() == samples["key"].tolist()
    assert module.rows["pred"].tolist() == plain.rows["pred"].tolist() == own.argmax(1).tolist()
    np.testing.assert_allclose(module.rows["top1_prob"], plain.rows["top1_prob"], atol=1e-5)
    assert model.training, "the module's own state is put back"
    assert float(model.bn.running_mean.abs().max()) == 0.0, "evaluation moves no statistics"


def test_counts_come_before_ratios(folder: tuple[pd.DataFrame, Path]) -> None:
    samples, root = folder
    found = evaluated(engine, samples, root)
    right = int(found.rows["correct"].sum())
    assert found.metrics["top1_count"] == right
    assert found.metrics["top1"] == right / 11
    assert [found.metrics[k] for k in ACCOUNT] == [11, 11, 0, 0]
    assert found.metrics["top5_count"] is None
    low, high = found.metrics["top1_interval"]
    assert low < right / 11 < high


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_batch_size_changes_nothing(folder: tuple[pd.DataFrame, Path], batch_size: int) -> None:
    samples, root = folder
    one, other = (
        evaluated(engine, samples, root, batch_size=size).metrics for size in (3, batch_size)
    )
    assert one == other


def test_padded_batches_give_each_image_once(folder: tuple[pd.DataFrame, Path]) -> None:
    samples, root = folder
    batches = eval_batches(
        samples,
        root,
        preprocess=PREPROCESS,
        batch_size=4,
        workers=0,
        ledger=Ledger(11, 0.0),
        pad=True,
    )
    keys, logits = predict_logits(engine, batches, preprocess=PREPROCESS)
    assert keys == samples["key"].tolist()
    assert logits.shape == (11, 3)
    assert logits.dtype == np.float32


# Row I14 of docs/reliability.md.
def test_unreadable_image_fails_the_evaluation_or_counts_as_wrong(
    folder: tuple[pd.DataFrame, Path],
) -> None:
    samples, root = folder
    broken = samples.copy()
    broken.loc[2, "path"] = "gone.png"
    with pytest.raises(DataError, match="1 of 11 images cannot be used"):
        evaluated(engine, broken, root)
    found = evaluated(engine, broken, root, max_bad=0.1)
    assert [found.metrics[k] for k in ACCOUNT] == [11, 10, 1, 0]
    assert found.metrics["top1"] == found.metrics["top1_count"] / 11


def test_images_without_labels_or_no_images_are_refused(
    folder: tuple[pd.DataFrame, Path],
) -> None:
    samples, root = folder
    unlabelled = samples.assign(label=samples["label"].mask(samples.index == 3))
    with pytest.raises(DataError, match="1 of 11 images of split 'val' have no label"):
        evaluated(engine, unlabelled, root)
    with pytest.raises(DataError, match="lists no image"):
        evaluated(engine, samples.iloc[:0], root)


@pytest.fixture(scope="module")
def several(
    folder: tuple[pd.DataFrame, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pd.DataFrame, Path]:
    """The same eleven images, each in none to three of the three classes."""
    _, root = folder
    path = tmp_path_factory.mktemp("lists") / "several.txt"
    rows = [f"{i:02d}.png\t{i % 2},{int(i % 3 == 0)},{int(i > 6)}\n" for i in range(11)]
    path.write_text("".join(rows))
    return scan_list(path, root, multi_label=True).samples, root


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_map_of_several_labels_counts_every_image_once(
    several: tuple[pd.DataFrame, Path], batch_size: int
) -> None:
    samples, root = several
    truth = label_matrix(samples)
    model = Means()
    module = evaluated(model, samples, root, batch_size=batch_size)
    plain = evaluated(engine, samples, root, batch_size=batch_size)
    own = np.stack([engine(PREPROCESS(root / key)[None])[0] for key in samples["key"]])
    expected = average_precision_score(truth, own)
    for found in (module.metrics, plain.metrics):
        assert found["task"] == "multi_label" and "top1" not in found
        assert found["map"] == pytest.approx(expected, abs=1e-9)
        assert [found[k] for k in ACCOUNT] == [11, 11, 0, 0]
        assert found["true_positives"] + found["false_negatives"] == truth.sum()
    assert [list(row) for row in plain.rows["labels"]] == [list(np.flatnonzero(r)) for r in truth]


def test_thresholds_decide_what_is_told(several: tuple[pd.DataFrame, Path]) -> None:
    samples, root = several
    every = evaluated(engine, samples, root, thresholds=[0.0, 0.0, 0.0])
    assert every.metrics["true_positives"] == label_matrix(samples).sum()
    assert every.metrics["false_negatives"] == 0
    nothing = evaluated(engine, samples, root, thresholds=[1.0, 1.0, 1.0])
    assert nothing.metrics["true_positives"] == nothing.metrics["false_positives"] == 0
    assert nothing.metrics["map"] == every.metrics["map"]
    with pytest.raises(DataError, match="2 thresholds for 3 classes"):
        evaluated(engine, samples, root, thresholds=[0.5, 0.5])


def test_positives_of_an_unreadable_image_are_never_found(
    several: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    samples, root = several
    for key in samples["key"]:
        (tmp_path / key).symlink_to(root / key)
    (tmp_path / "07.png").unlink()
    (tmp_path / "07.png").write_bytes(b"no image")
    whole = evaluated(engine, samples, root).metrics
    found = evaluated(engine, samples, tmp_path, max_bad=0.2).metrics
    assert [found[k] for k in ACCOUNT] == [11, 10, 1, 0]
    assert [row["n"] for row in found["per_class"]] == [row["n"] for row in whole["per_class"]]
    assert found["map"] < whole["map"]
    with pytest.raises(DataError):
        evaluated(engine, samples, tmp_path, max_bad=0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_no_accuracy(value: float, folder: Any) -> None:
    """W08: the class of the first NaN would be counted as the answer."""
    samples, root = folder

    def broken(images: np.ndarray) -> np.ndarray:
        logits = engine(images)
        logits[0, 1] = value
        return logits

    with pytest.raises(WeightsError, match="NaN or infinite logits for 3 of 11 images of split"):
        evaluated(broken, samples, root)
