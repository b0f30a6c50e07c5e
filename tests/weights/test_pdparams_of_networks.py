"""All ten networks through Paddle's files in three protocols, bit for bit."""

from __future__ import annotations

import math
import os
import zlib

import numpy as np
import pytest
import torch

from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS
from hgnetv2_pipeline.weights.load import from_paddle, load_state, paddle_shapes
from hgnetv2_pipeline.weights.paddle.pdparams import read_pdparams
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams

CLASSES = 7
LARGE = ("b5", "b6", "hgnet_base")
ALL = [
    pytest.param(name, marks=pytest.mark.slow if name in LARGE else ())
    for name in (*VARIANTS, *HGNET_SIZES)
]
DRAWN = np.random.RandomState(11).normal(size=65_537).astype(np.float32)  # prime: rows differ
PRUNED = np.where(np.arange(len(DRAWN)) % 8, np.float32(0), DRAWN)  # quicker in protocol 2


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch) -> None:
    """Gigabytes are written here only to be read again at once."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def empty(variant: str) -> torch.nn.Module:
    with torch.device("meta"):  # fresh weights would be overwritten at once
        model = create.create_model(variant, CLASSES)
    return model.to_empty(device="cpu").eval()


def quick_values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A formula as ``formula_tensor``, much quicker: one draw, begun elsewhere for each name."""
    drawn = PRUNED if len(shape) > 1 else DRAWN
    values = np.resize(np.roll(drawn, zlib.crc32(key.encode()) % len(drawn)), shape)
    if key.endswith("_variance"):
        return np.abs(values) + np.float32(0.5)
    if len(shape) == 4:
        values *= np.float32(math.sqrt(2 * 8 / math.prod(shape[1:])))
    return values


def bits(value: np.ndarray | torch.Tensor) -> np.ndarray:
    return np.asarray(value).view(np.uint32)


@pytest.mark.parametrize("variant", ALL)
def test_a_network_through_a_file_of_any_protocol_is_the_network_itself(variant, tmp_path):
    direct = empty(variant)
    state = {key: quick_values(key, shape) for key, shape in paddle_shapes(direct).items()}
    load_state(direct, from_paddle(state), source="formula")
    assert all(value.any() for value in state.values())
    path = tmp_path / "w.pdparams"
    for protocol in (2, 3, 4):
        write_pdparams(path, state, protocol)
        read = read_pdparams(path)
        assert list(read) == list(state)
        assert all(np.array_equal(bits(read[key]), bits(value)) for key, value in state.items())
    through = empty(variant)
    load_state(through, from_paddle(read), source=str(path))
    image = torch.from_numpy(np.random.RandomState(1).normal(size=(1, 3, 32, 32)).astype("f4"))
    with torch.inference_mode():
        expected, found = direct(image), through(image)
    assert torch.isfinite(expected).all()
    assert expected.abs().max() > 1e-3
    assert np.array_equal(bits(expected), bits(found))
