"""Random erasing: which share of images, which rectangles, and the same ones for the same seed."""

from __future__ import annotations

import torch

from hgnetv2_pipeline.training.erasing import random_erasing


def boxes(probability: float, count: int = 400, side: int = 40) -> tuple[torch.Tensor, int]:
    """Mask [N, H, W] of changed pixels of constant images, and how many images changed."""
    torch.manual_seed(7)
    images = torch.full((count, 3, side, side), 9.0)
    changed = (random_erasing(images, probability) != 9.0).all(dim=1)
    assert (images == 9.0).all()
    return changed, int(changed.flatten(1).any(dim=1).sum())


def test_none_all_or_the_share_asked_for() -> None:
    assert boxes(0.0)[1] == 0
    assert boxes(1.0)[1] == 400
    assert 70 <= boxes(0.25)[1] <= 130


def test_one_rectangle_of_2_to_33_percent_with_aspect_below_10_to_3() -> None:
    changed, _ = boxes(1.0)
    for mask in changed:
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        h, w = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert int(mask.sum()) == h * w  # whole, so one rectangle
        assert 0.015 * 1600 <= h * w <= 0.36 * 1600
        assert 0.25 <= h / w <= 4.0


def test_every_edge_can_be_reached_and_the_noise_is_standard_normal() -> None:
    changed, _ = boxes(1.0)
    reached = changed.any(dim=0)
    assert all(edge.any() for edge in (reached[0], reached[-1], reached[:, 0], reached[:, -1]))
    torch.manual_seed(7)
    noise = random_erasing(torch.full((400, 3, 40, 40), 9.0), 1.0)
    values = noise[noise != 9.0]
    assert abs(float(values.mean())) < 0.01 and abs(float(values.std()) - 1) < 0.01


def test_the_seed_decides() -> None:
    images = torch.zeros(8, 3, 32, 32)
    torch.manual_seed(1)
    first = random_erasing(images, 0.5)
    torch.manual_seed(1)
    assert torch.equal(first, random_erasing(images, 0.5))
