"""Laying one picture on another, and what the block correlations then say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from hgnetv2_pipeline.mining.duplicates.alignment import alignments, rescale, warp
from hgnetv2_pipeline.mining.duplicates.compare import Evidence, Thresholds, compare
from hgnetv2_pipeline.mining.duplicates.grey_image import SIDE, GreyImage
from hgnetv2_pipeline.mining.duplicates.views import view_matrix

LIMITS = Thresholds()


def grey(seed: int) -> np.ndarray:
    """A random picture with shapes of many sizes, uint8 [160, 160]."""
    rng = np.random.default_rng(seed)
    out = np.zeros((160, 160))
    for cells in (3, 6, 12, 24, 48):
        coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        out += np.asarray(coarse.resize((160, 160), Image.Resampling.BICUBIC)) / cells**0.5
    out = (out - out.min()) / (out.max() - out.min())
    return (out * 255).astype(np.uint8)


def moved(picture: np.ndarray, move: np.ndarray, outside: int = 0) -> np.ndarray:
    """The picture seen through a move given for squares of 128 pixels."""
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        picture, rescale(move, 160 / SIDE), (160, 160), flags=how, borderValue=outside
    )


def corners(move: np.ndarray) -> np.ndarray:
    last = SIDE - 1.0
    return move @ np.array([[0, last, 0, last], [0, 0, last, last], [1, 1, 1, 1]])


MOVES = {
    "turn": view_matrix(6, SIDE) @ np.diag([1.0, 1.0, 1.0]),
    "cut": np.array([[0.82, 0.0, 14.0], [0.0, 0.82, 6.0]]),
    "grown and turned": np.array([[0.9, -0.08, 12.0], [0.08, 0.9, 2.0]]),
    "squeezed": np.array([[0.9, 0.0, 6.0], [0.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_move_is_found_from_a_view_near_it(name: str) -> None:
    move = MOVES[name]
    picture = grey(1)
    near = move.copy()
    near[:, 2] += 3.0
    near[:, :2] *= 1.03
    found = next(alignments(GreyImage(moved(picture, move)), GreyImage(picture), near))
    assert np.abs(corners(found) - corners(move)).max() < 1.0


def test_brightness_contrast_and_a_frame_do_not_draw_it_away() -> None:
    picture = grey(2)
    move = np.array([[1.12, 0.0, -7.6], [0.0, 1.12, -7.6]])
    copy = cv2.addWeighted(moved(picture, move, outside=255), 0.6, picture, 0.0, 40)
    found = list(alignments(GreyImage(copy), GreyImage(picture), view_matrix(4, SIDE)))
    assert min(np.abs(corners(one) - corners(move)).max() for one in found) < 1.2


def test_the_start_is_tried_last_and_far_moves_never() -> None:
    start = view_matrix(0, SIDE)
    moves = list(alignments(GreyImage(grey(3)), GreyImage(grey(4)), start))
    assert np.array_equal(moves[-1], start)
    for move in moves:
        assert 1 / 1.7 <= np.linalg.det(move[:, :2]) <= 1.7


def test_outside_a_picture_there_is_nothing_to_compare() -> None:
    _, mask = warp(GreyImage(grey(5)).squared, np.array([[1.0, 0.0, 64.0], [0.0, 1.0, 0.0]]))
    assert not mask[:, 64:].any() and mask[:, :60].all()


@pytest.mark.parametrize("view", [0, 1])
def test_a_copy_correlates_and_another_picture_does_not(view: int) -> None:
    picture = grey(6)
    copy = picture[:, ::-1] if view else picture
    text = np.ascontiguousarray(copy // 2 + 60)
    cv2.putText(text, "2024", (20, 80), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2)
    same = compare(GreyImage(text), GreyImage(picture), view, LIMITS)
    assert same.decision(LIMITS) == "remove"
    other = compare(GreyImage(text), GreyImage(grey(7)), view, LIMITS)
    assert other.decision(LIMITS) == "keep"


def test_smooth_shading_alone_makes_nothing_alike() -> None:
    ramp = np.add.outer(np.arange(160), np.arange(160)) * 0.8
    rng = np.random.default_rng(8)
    first, second = (
        (ramp + cv2.GaussianBlur(rng.normal(0, 30, (160, 160)), (0, 0), 3)).clip(0, 255)
        for _ in range(2)
    )
    found = compare(
        GreyImage(first.astype(np.uint8)), GreyImage(second.astype(np.uint8)), 0, LIMITS
    )
    assert found.correlation > LIMITS.correlation and found.decision(LIMITS) == "review"


def test_flat_pictures_cannot_be_compared() -> None:
    flat = GreyImage(np.full((160, 160), 200, np.uint8))
    assert compare(flat, flat, 0, LIMITS) == Evidence()


@pytest.mark.parametrize(
    ("evidence", "decision"),
    [
        (Evidence(inliers=20), "remove"),
        (Evidence(inliers=12), "review"),
        (Evidence(correlation=0.8, high_pass=0.3), "remove"),
        (Evidence(correlation=1.0, high_pass=0.29), "review"),
        (Evidence(correlation=0.7, high_pass=0.8), "remove"),
        (Evidence(correlation=0.7, high_pass=0.79), "review"),
        (Evidence(correlation=0.69, high_pass=1.0), "keep"),
        (Evidence(correlation=0.99, high_pass=0.97, small=True), "remove"),
        (Evidence(inliers=99, correlation=0.98, high_pass=1.0, small=True), "keep"),
    ],
)
def test_the_limits_decide(evidence: Evidence, decision: str) -> None:
    assert evidence.decision(LIMITS) == decision
