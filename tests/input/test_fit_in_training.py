"""Training views of squashed, padded and oblong images: all of them is there, undistorted to the
same degree as in the evaluation view."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.deferred_view import on_device
from hgnetv2_pipeline.input.device_views import DeviceInput
from hgnetv2_pipeline.input.fast_augment import evaluation_view
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.teacher_logits import describe_view
from image_files import blotches, encoded

RED = [200, 10, 20]
VIEWS = {
    "squash": {"image_size": 48, "fit": "squash"},
    "squash oblong": {"image_size": [32, 64], "fit": "squash"},
    "pad": {"image_size": 48, "fit": "pad", "pad_colour": RED},
    "pad oblong": {"image_size": [32, 64], "fit": "pad", "pad_colour": RED},
    "crop oblong": {"image_size": [32, 96]},
}
# PaddleClas's crop rounds down, and so is a pixel short of the whole image now and then.
WHOLE = {
    "name": "published", "box": "torchvision", "scale": [1, 1], "ratio": [1, 1], "mirror": 0,
    "randaugment": None,
}  # fmt: skip
SHAPES = [(150, 50), (40, 120), (97, 31)]


def preprocess_of(view: dict[str, Any]) -> Preprocess:
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in view.items()}
    size = values.pop("image_size")
    return Preprocess(crop=size, resize_short=min(np.atleast_1d(size).tolist()), **values)


def photo(width: int, height: int) -> npt.NDArray[np.uint8]:
    return np.asarray(blotches(1, (width, height)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", [case for case in VIEWS if case != "crop oblong"])
def test_the_largest_crop_is_the_evaluation_view(case: str, shape: tuple[int, int]) -> None:
    pixels, how = photo(*shape), preprocess_of(VIEWS[case])
    view: Any = make_augment(VIEWS[case] | WHOLE | {"box": "paddle"})
    (_, _, *size), _, _ = view.draw(shape, keyed_rng(0, 0, "a"))
    assert np.abs(np.subtract(size, shape)).max() <= 1, "PaddleClas cuts fractions off"
    view = make_augment(VIEWS[case] | WHOLE)
    assert np.array_equal(view(LazyImage.of(pixels), keyed_rng(0, 0, "a")), how.cut(pixels))


def test_the_largest_crop_of_an_image_of_the_views_own_shape_is_the_evaluation_view() -> None:
    pixels, how = photo(150, 50), preprocess_of(VIEWS["crop oblong"])
    view = make_augment(VIEWS["crop oblong"] | WHOLE)
    assert np.array_equal(view(LazyImage.of(pixels), keyed_rng(0, 0, "a")), how.cut(pixels))


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_as_distorted_as_those_of_a_square_view(
    case: str, shape: tuple[int, int]
) -> None:
    view: Any = make_augment({"name": "published", "scale": [0.1, 0.2]} | VIEWS[case])
    how = preprocess_of(VIEWS[case])
    wide, high, _, _ = how.geometry(*shape)
    _, _, broad, tall = view.place(shape)
    for number in range(50):
        (_, _, w, h), _, _ = view.draw(shape, keyed_rng(number, 0, "a"))
        # How much wider than high a pixel becomes, against the evaluation view.
        stretch = (broad / w) / (tall / h) / ((wide / shape[0]) / (high / shape[1]))
        slack = 1 + 1.5 / min(w, h)  # a crop has whole pixels
        assert 3 / 4 / slack <= stretch <= 4 / 3 * slack


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("name", ["none", "affine"])
def test_other_augmentations_start_from_the_evaluation_view(case: str, name: str) -> None:
    still = {"degrees": 0, "scale": 0, "shift": 0} if name == "affine" else {}
    view, pixels = make_augment({"name": name, **still} | VIEWS[case]), photo(130, 70)
    seen = view(LazyImage.of(pixels), keyed_rng(0, 0, "a"))
    assert np.array_equal(seen, preprocess_of(VIEWS[case]).cut(pixels))


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_paths_show_the_same_within_two_levels(case: str, shape: tuple[int, int]) -> None:
    pixels, how = photo(*shape), preprocess_of(VIEWS[case])
    seen = evaluation_view(how, LazyImage.of(pixels)).astype(int)
    assert np.abs(seen - how.cut(pixels)).max() <= 2
    config = VIEWS[case] | {"name": "published", "randaugment": None}
    for number in range(5):
        exact, fast = (
            make_augment(config | {"fast": fast})(LazyImage.of(pixels), keyed_rng(number, 0, "a"))
            for fast in (False, True)
        )
        assert np.abs(exact.astype(int) - fast).max() <= 2


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_views_made_on_a_device_are_those_of_the_cpu(case: str, kind: str) -> None:
    view: Any = make_augment(VIEWS[case] | {"name": "published", "randaugment": None})
    deferred = on_device(view, "all", "cpu")
    files = [encoded(blotches(1, shape), kind) for shape in SHAPES]
    drawn = [deferred(LazyImage(file), keyed_rng(n, 0, "a")) for n, file in enumerate(files)]
    maker = DeviceInput(deferred, None)  # type: ignore[arg-type]
    images, faults = maker.pixels([torch.from_numpy(one.data.copy()) for one in drawn], drawn)
    assert images is not None and not faults
    for n, file in enumerate(files):
        exact = view(LazyImage(file), keyed_rng(n, 0, "a")).astype(int)
        assert np.abs(images[n].permute(1, 2, 0).numpy() - exact).max() <= 2


def test_stored_logits_of_before_are_known_by_the_same_description() -> None:
    for name in ("published", "affine", "none"):
        plain = make_augment({"name": name, "image_size": 32})
        assert not {"fit", "pad_colour"} & set(str(describe_view(plain, resized=None)).split("'"))
        assert describe_view(
            make_augment({"name": name, "image_size": 32, "fit": "pad"}), resized=None
        ) != describe_view(plain, resized=None)


@pytest.mark.parametrize("size", [0, 32.0, True, [32], [32, 0], "32"])
def test_a_size_that_cannot_be_is_refused(size: Any) -> None:
    with pytest.raises(ParameterError, match="image_size"):
        make_augment({"name": "none", "image_size": size})


def test_quarter_turns_are_for_square_views() -> None:
    turned = {"name": "published", "quarter_turns": True, "vertical_flip": 1.0}
    assert make_augment({**turned, "image_size": 32})
    with pytest.raises(ParameterError, match=r"32x64 pixels.*quarter_turns to false"):
        make_augment({**turned, "image_size": [32, 64]})
    # Upside down is half a turn and a mirror, which keep the shape.
    flipped = make_augment({"name": "published", "vertical_flip": 1.0, "image_size": [32, 64]})
    picture = LazyImage.of(np.zeros((40, 80, 3), np.uint8))
    assert flipped(picture, keyed_rng(0, 0, "a")).shape == (32, 64, 3)
