"""Networks with random weights, made quickly: fixtures for networks and for weight files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from hgnetv2_pipeline.models import create

Filled = Callable[..., torch.nn.Module]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more by threads that wait for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def filled() -> Filled:
    """``filled(variant, num_classes=3, dtype=float32)``: statistics and biases of both signs too.

    The same weights every time. Fresh weights would have zero means and LABs that do nothing.
    """

    def make(
        variant: str, num_classes: int = 3, dtype: torch.dtype = torch.float32
    ) -> torch.nn.Module:
        with torch.device("meta"):  # its own start would be overwritten at once
            model = create.create_model(variant, num_classes)
        model = model.to(dtype).to_empty(device="cpu").eval()
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.ndim == 4:
                    bound = math.sqrt(6 / math.prod(value.shape[1:]))
                    value.uniform_(-bound, bound, generator=draw)
                elif name.endswith(("running_var", "bn.weight", "scale")):
                    value.uniform_(0.5, 1.5, generator=draw)
                elif value.ndim:
                    value.uniform_(-0.3, 0.3, generator=draw)
                else:
                    value.zero_()
        return model

    return make
