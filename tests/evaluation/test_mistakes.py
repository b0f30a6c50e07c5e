"""The surest wrong answers, where their evidence is, and the training image that is nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.scan.folders import scan_list
from hgnetv2_pipeline.evaluation.activation_maps import grad_cam, overlay
from hgnetv2_pipeline.evaluation.mistake_files import (
    SHEET,
    mistake_records,
    write_mistake_pictures,
    write_mistake_table,
)
from hgnetv2_pipeline.evaluation.mistakes import (
    Explainer,
    SeenImages,
    confident_mistakes,
    nearest_images,
)
from hgnetv2_pipeline.models.create import create_model


def test_the_surest_wrong_answers_come_first_and_right_ones_never() -> None:
    rows = pd.DataFrame(
        {
            "key": ["a", "b", "c", "d"], "label": [0, 1, 2, 0], "pred": [1, 1, 0, 2],
            "top1_prob": [0.6, 0.99, 0.9, 0.6], "correct": [False, True, False, False],
        }
    )  # fmt: skip
    found = confident_mistakes(rows)
    assert found["key"].tolist() == ["c", "a", "d"]
    assert found["labels"].tolist() == [[2], [0], [0]]
    assert found["about"].tolist() == [0, 1, 2]
    assert found["said"].all()
    assert confident_mistakes(rows, 1)["key"].tolist() == ["c"]
    assert confident_mistakes(rows[rows["correct"]]).empty


def test_of_several_labels_each_image_is_shown_for_its_worst_class() -> None:
    rows = pd.DataFrame(
        {
            "key": ["a", "b", "c"],
            "labels": [[0], [1, 2], []],
            "pred": [[0, 1], [1], []],
            "probs": [[0.9, 0.7, 0.1], [0.3, 0.8, 0.05], [0.1, 0.1, 0.1]],
            "correct": [False, False, True],
        }
    )
    found = confident_mistakes(rows)
    assert found["key"].tolist() == ["b", "a"]
    assert found["about"].tolist() == [2, 1], "class 2 of b was missed, class 1 of a was added"
    assert found["said"].tolist() == [False, True]
    assert found["sure"].tolist() == pytest.approx([0.95, 0.7])


class Pooled(nn.Module):
    """Logits are linear in the mean of the feature map, which is the image itself."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.trunk = nn.Identity()
        self.feature_info = [{"module": "trunk"}]
        self.weights = torch.tensor(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x * 1).mean((2, 3)) @ self.weights.T


def test_an_activation_map_is_grad_cam_as_computed_by_hand() -> None:
    """The gradient of a mean is the same everywhere: the map is the weighted sum of channels."""
    images = torch.rand(2, 3, 4, 5)
    weights = [[1.0, -2.0, 0.5], [-1.0, 2.0, 0.0]]
    found = grad_cam(Pooled(weights), images, [1, 0])
    assert found is not None and found.layer == "trunk"
    for image, chosen, one in zip(images, (1, 0), found.maps, strict=True):
        expected = np.einsum("c,chw->hw", np.array(weights[chosen]), image.numpy()).clip(0)
        np.testing.assert_allclose(one, expected / expected.max(), atol=1e-6)
    assert found.summary() == {"method": "Grad-CAM", "layer": "trunk", "rows": 4, "columns": 5}


def test_where_nothing_speaks_for_a_class_the_map_is_empty() -> None:
    found = grad_cam(Pooled([[-1.0, -1.0, -1.0]]), torch.rand(1, 3, 4, 4), [0])
    assert found is not None and not found.maps.any()


@pytest.mark.parametrize(
    ("size", "layer", "shape"),
    [(32, "stages.1", (4, 4)), (64, "stages.2", (4, 4)), ((128, 192), "stages.3", (4, 6))],
    ids=str,
)
def test_the_map_is_the_deepest_that_is_no_blot(
    size: int | tuple[int, int], layer: str, shape: tuple[int, int]
) -> None:
    network = create_model("b0", 3)
    height, width = (size, size) if isinstance(size, int) else size
    found = grad_cam(network, torch.rand(2, 3, height, width), [0, 2])
    assert found is not None
    assert (found.layer, found.maps.shape) == (layer, (2, *shape))
    assert 0 <= found.maps.min() <= found.maps.max() <= 1
    assert network.training, "the network's own state is put back"
    assert all(not module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("name", "mapped"), [("resnet10t", True), ("mobilenetv3_small_050", True),
                         ("vit_tiny_patch16_224", False)]
)  # fmt: skip
def test_networks_of_timm_are_explained_as_far_as_they_can_be(
    name: str, mapped: bool, folder: tuple[pd.DataFrame, Path]
) -> None:
    network = timm.create_model(name, num_classes=4)
    explainer = Explainer(network, Preprocess(), device="cpu", workers=0)
    seen = explainer.look(*folder, 3, views=True)
    assert seen.embeddings is not None
    assert seen.embeddings.shape == (3, network.head_hidden_size)
    assert (explainer.maps(seen.views, [3, 0, 1]) is not None) == mapped


def test_the_overlay_is_grey_without_evidence_and_orange_with_it() -> None:
    view = np.full((2, 4, 3), 100, np.uint8)
    assert (overlay(view, np.zeros((1, 1), np.float32)) == 100).all()
    full = overlay(view, np.ones((1, 2), np.float32))
    assert full[0, 0].tolist() == [round(0.25 * 100 + 0.75 * each) for each in (255, 120, 0)]
    assert full.shape == view.shape


def test_the_nearest_image_is_never_the_image_itself() -> None:
    rows = np.array([[1, 0], [0, 1]], np.float32)
    ours = SeenImages(["a", "b"], np.zeros((2, 1, 1, 3), np.uint8), rows)
    others = SeenImages(["a", "x", "y"], ours.views, np.array([[1, 0], [0.6, 0.8], [0, -1]], "f4"))
    found = nearest_images(ours, others)
    assert [each and each[0] for each in found] == ["x", "x"]
    assert [each and each[1] for each in found] == pytest.approx([0.6, 0.8])
    alone = SeenImages(["a"], ours.views, rows[:1])
    assert nearest_images(alone, alone) == [None]
    assert nearest_images(ours, SeenImages([], ours.views, None)) == [None, None]


@pytest.fixture
def folder(tmp_path: Path) -> tuple[pd.DataFrame, Path]:
    """Images of odd shapes: oblong, tiny, and one that cannot be read any more."""
    rng = np.random.default_rng(0)
    for name, size in (("wide", (20, 300, 3)), ("tiny", (5, 4, 3)), ("gone", (40, 40, 3))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_text("wide.png 0\ntiny.png 1\ngone.png 0\n")
    frame = scan_list(tmp_path / "list.txt", tmp_path).samples
    return frame.set_index("key", drop=False), tmp_path


def explained(samples: pd.DataFrame, root: Path) -> tuple[Any, Any]:
    explainer = Explainer(
        create_model("b0", 3), Preprocess(resize_short=64, crop=64), device="cpu", workers=0
    )
    seen = explainer.look(samples, root, 2, views=True)
    return seen, explainer.maps(seen.views, [0] * len(seen.keys))


def test_a_look_gives_pixels_and_embeddings_of_length_one(
    folder: tuple[pd.DataFrame, Path],
) -> None:
    samples, root = folder
    (root / "gone.png").unlink()
    seen, maps = explained(samples, root)
    assert seen.keys == ["tiny.png", "wide.png"]
    assert seen.views.shape == (2, 64, 64, 3) and maps.maps.shape == (2, 4, 4)
    np.testing.assert_allclose(np.linalg.norm(seen.embeddings, axis=1), 1, atol=1e-5)
    own = Preprocess(resize_short=64, crop=64).image((root / "tiny.png").read_bytes())
    assert (seen.views[0] == own).all()


def test_pictures_and_table_name_each_other_and_keep_their_shapes(
    folder: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    samples, root = folder
    seen, maps = explained(samples, root)
    (root / "gone.png").unlink()
    mistakes = pd.DataFrame(
        {
            "key": ["wide.png", "tiny.png", "gone.png"], "labels": [[0], [1], [0]],
            "about": [1, 0, 2], "said": [True, True, False], "score": [0.9, 0.8, 0.3],
        }
    )  # fmt: skip
    near = [("tiny.png", 0.5), None, ("wide.png", 0.25)]
    records = mistake_records(mistakes, ["=cat", "dog", "gnu"], samples, samples, near)
    out = tmp_path / "out"
    digest = write_mistake_pictures(out, records, samples, samples, root, (seen, maps))
    assert [sorted(record["files"]) for record in records] == [
        ["map", "nearest", "picture"], ["map", "picture"], ["map", "nearest"],
    ]  # fmt: skip
    named = {file for record in records for file in record["files"].values()}
    assert named | {SHEET} == {path.name for path in out.iterdir()}
    sizes = {}
    for name in ("01-picture.jpg", "02-picture.jpg", "01-map.jpg"):
        with Image.open(out / name) as picture:
            sizes[name] = picture.size
    assert sizes == {
        "01-picture.jpg": (112, 7), "02-picture.jpg": (4, 5), "01-map.jpg": (64, 64)
    }  # fmt: skip
    write_mistake_table(tmp_path / "t.csv", records)
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert table["true"].tolist() == ["'=cat", "dog", "'=cat"]
    assert table["answer"].tolist() == ["dog", "'=cat", "not gnu"]
    assert table["nearest_class"].tolist() == ["dog", "", "'=cat"]
    again = tmp_path / "again"
    assert write_mistake_pictures(again, records, samples, samples, root, (seen, maps)) == digest
