"""Training's key ``input.device``: what it is refused with, and what it asks for."""

from __future__ import annotations

import pytest
import torch
from train_recipes import recipe, values

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.input.deferred_view import DeviceOperations, DeviceView
from hgnetv2_pipeline.training.config import TrainConfig
from hgnetv2_pipeline.training.prepare import training_view

ON = {"augment": {"name": "published"}, "input": {"fast": False, "device": "all", "resized": None}}


def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"input\.device is all, but the run is on the CPU"):
        training_view(recipe(**ON), torch.device("cpu"))


def test_with_a_gpu_the_view_is_made_there() -> None:
    view = training_view(recipe(**ON), torch.device("cuda", 1))
    assert isinstance(view, DeviceView)
    assert view.device == torch.device("cuda", 1)


def test_its_operations_alone_are_left_to_the_gpu() -> None:
    fast = {"fast": True, "device": "randaugment", "resized": None}
    view = training_view(recipe(**(ON | {"input": fast})), torch.device("cuda", 1))
    assert isinstance(view, DeviceOperations)
    assert view.device == torch.device("cuda", 1)
    assert view.view.fast


def test_switched_off_the_view_is_made_by_the_workers() -> None:
    view = training_view(recipe(augment={"name": "published"}), torch.device("cuda", 1))
    assert not isinstance(view, DeviceView)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"augment": {"name": "affine"}}, "knows augmentation 'published'"),
        ({"input": {"fast": True, "device": "all", "resized": None}}, "set input.fast to"),
        ({"input": {"fast": True, "device": "both", "resized": None}}, "'randaugment' or 'all'"),
    ],
)
def test_recipes_that_it_cannot_serve_are_refused(changes: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainConfig.model_validate(values(**{**ON, **changes}))
