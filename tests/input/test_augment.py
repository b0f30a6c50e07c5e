"""Keyed random numbers and the training views; RandAugment's operations against timm's own."""

import hashlib
import importlib.util
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import hgnetv2_pipeline
from hgnetv2_pipeline.data import sample_rng
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.sample_rng import epoch_order, keyed_rng
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.input.augment import BOXES, make_augment
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.randaugment import INCREASING, PLAIN, parse_randaugment

FILL = (124, 116, 104)
PINNED_WORDS = [3034864893274833355, 13168484013995754953]
PINNED_ORDER = [1, 2, 4, 5, 0, 3]
PINNED_VIEWS = {
    "torchvision": "adb77cddf7da0889", "paddle": "ee90ef3350a945a8", "affine": "d5bc15c162cab399",
    "further": "067319a6ce85e418",
}  # fmt: skip
FURTHER = {
    "vertical_flip": 0.5, "quarter_turns": True, "rotation": 20, "jitter": 0.4, "grey": 0.3
}  # fmt: skip


@pytest.fixture(scope="module")
def timm_ops():
    """timm's module of operations alone: importing all of timm takes ten seconds."""
    package = importlib.util.find_spec("timm")
    path = Path(package.origin).parent / "data" / "auto_augment.py"
    spec = importlib.util.spec_from_file_location("timm_auto_augment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_keyed_numbers_are_a_pure_function_of_seed_epoch_and_key():
    first = keyed_rng(1, 2, "a/é.png").random(4)
    assert np.array_equal(first, keyed_rng(1, 2, "a/é.png").random(4))
    others = [(0, 2, "a/é.png"), (1, 3, "a/é.png"), (1, 2, "b"), (12, 2, "a"), (1, 22, "a")]
    for other in others:
        assert not np.array_equal(first, keyed_rng(*other).random(4))
    # Pinned: a new NumPy must not change the views of a run that is resumed.
    assert keyed_rng(0, 0, "key").bit_generator.random_raw(2).tolist() == PINNED_WORDS
    assert epoch_order(6, 0, 0).tolist() == PINNED_ORDER


def test_keyed_numbers_look_independent():
    draws = np.array(
        [keyed_rng(0, epoch, f"{n}").random(2) for epoch in range(4) for n in range(2500)]
    )
    assert abs(draws.mean() - 0.5) < 0.01 and abs(np.corrcoef(draws.T)[0, 1]) < 0.03
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert np.abs(counts / counts.mean() - 1).max() < 0.15


def test_a_keyed_generator_is_made_of_its_hash_alone(monkeypatch):
    """NumPy's own way to a generator draws from the system and mixes: most of what one costs."""

    def mixed(*given, **named):
        raise AssertionError("NumPy mixes what is a hash already")

    for owner, name in ((np.random, "SeedSequence"), (np.random.bit_generator, "SeedSequence")):
        monkeypatch.setattr(owner, name, mixed)
    asked = []
    answer = sample_rng._HashedState.generate_state
    monkeypatch.setattr(
        sample_rng._HashedState,
        "generate_state",
        lambda self, words, dtype: asked.append((words, dtype)) or answer(self, words, dtype),
    )
    keyed_rng(0, 3, "train/a/b.jpg").random()
    assert asked == [(3, np.uint64)]


def test_the_order_of_an_epoch_is_a_permutation():
    orders = [epoch_order(500, 3, epoch) for epoch in range(3)]
    for order in orders:
        assert order.dtype == np.int64 and sorted(order) == list(range(500))
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[2], epoch_order(500, 3, 2)) and len(epoch_order(0, 0, 0)) == 0


def test_the_operations_are_those_of_timm(timm_ops):
    assert sorted(INCREASING) == sorted(timm_ops._RAND_INCREASING_TRANSFORMS)
    assert sorted(PLAIN) == sorted(timm_ops._RAND_TRANSFORMS)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", [0.0, 3.3, 7.0, 10.0])
@pytest.mark.parametrize("name", sorted({*INCREASING, *PLAIN}))
def test_each_operation_gives_timms_pixels(timm_ops, photo, name, level, sign, monkeypatch):
    if (name, level) in (("Posterize", 0.0), ("PosterizeIncreasing", 10.0)):
        # No bit is kept; timm's call fails under Pillow 13, which refuses 0 bits.
        table = INCREASING if name in INCREASING else PLAIN
        assert not np.asarray(table[name](photo, level, sign, FILL)).any()
        return
    table = INCREASING if name in INCREASING else PLAIN
    # timm negates when its draw is above one half.
    monkeypatch.setattr(timm_ops.random, "random", lambda: 0.9 if sign < 0 else 0.1)
    to_args = timm_ops.LEVEL_TO_ARG[name]
    arguments = to_args(level, {}) if to_args else ()
    options = {"fillcolor": FILL, "resample": Image.BICUBIC}
    expected = timm_ops.NAME_TO_OP[name](photo, *arguments, **options)
    got = table[name](photo, level, sign, FILL)
    assert np.array_equal(np.asarray(got), np.asarray(expected))


def test_chances_and_levels_are_those_of_timm(timm_ops, photo):
    text = "rand-m7-mstd0.5-inc1"
    theirs = timm_ops.rand_augment_transform(text, {})
    ours = parse_randaugment(text, FILL)
    op = theirs.ops[0]
    assert (ours.magnitude, ours.layers, ours.probability) == (
        op.magnitude,
        theirs.num_layers,
        op.prob,
    )
    assert ours.magnitude_std == op.magnitude_std and ours.increasing
    untouched = sum(ours(photo, keyed_rng(0, 0, str(n))) is photo for n in range(2000))
    assert abs(untouched / 2000 - 0.25) < 0.03  # two operations, each left out with chance 1/2


def test_the_share_of_each_operation_is_even(photo, monkeypatch):
    seen = dict.fromkeys(INCREASING, 0)
    levels = []
    for name in INCREASING:

        def count(image, level, sign, fill, name=name):
            seen[name] += 1
            levels.append(level)
            return image

        monkeypatch.setitem(INCREASING, name, count)
    ours = parse_randaugment("rand-m7-mstd0.5-inc1", FILL)
    for n in range(6000):
        ours(photo, keyed_rng(5, 0, str(n)))
    expected = 6000 * 2 * 0.5 / len(INCREASING)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in seen.values())
    assert abs(np.mean(levels) - 7) < 0.05 and abs(np.std(levels) - 0.5) < 0.05


@pytest.mark.parametrize(
    "text", ["", "rand-m31", "augmix-m3", "rand-m7-x2", "rand-n1.5", "rand-inc2"]
)
def test_other_notations_are_refused(text):
    with pytest.raises(ParameterError, match="as timm does"):
        parse_randaugment(text, FILL)


VIEWS = [
    {"name": "published"},
    {"name": "published", "randaugment": None, "mirror": 0, "scale": [0.3, 0.6]},
    {"name": "published", "fast": True, "box": "torchvision"},
    {
        "name": "published",
        "vertical_flip": 0.5,
        "quarter_turns": True,
        "rotation": 30.0,
        "jitter": [0.4, 0.3, 0.2],
        "grey": 0.5,
    },
    {"name": "affine"},
    {"name": "affine", "mirror": 0.5, "fill": [9, 9, 9], "resize_short": 40},
    {"name": "none", "resize_short": 40},
]


def decoded(image: Image.Image) -> LazyImage:
    return LazyImage.of(np.asarray(image))


@pytest.mark.parametrize("config", VIEWS)
@pytest.mark.parametrize("size", [(100, 75), (32, 32), (1, 90)])
def test_a_view_is_a_pure_function_of_image_and_generator(photo, config, size):
    view = make_augment({**config, "image_size": 32})
    pixels = np.asarray(photo.resize(size)).copy()
    image, before = LazyImage.of(pixels), pixels.tobytes()
    state = np.random.get_state()[1].copy()
    first = view(image, keyed_rng(0, 1, "k"))
    copy = pickle.loads(pickle.dumps(view))  # noqa: S301 - our own bytes, as sent to a worker
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(copy(image, keyed_rng(0, 1, "k")), first)
    assert pixels.tobytes() == before and np.array_equal(np.random.get_state()[1], state)


def test_the_published_crop_is_cut_then_resized(photo):
    config = {"name": "published", "image_size": 24, "randaugment": None, "mirror": 0.0}
    got = make_augment(config)(decoded(photo), keyed_rng(0, 0, "x"))
    draw = BOXES["paddle"]
    left, top, w, h = draw(100, 75, (0.08, 1.0), (3 / 4, 4 / 3), keyed_rng(0, 0, "x"))
    expected = photo.crop((left, top, left + w, top + h)).resize((24, 24), Image.BICUBIC)
    assert np.array_equal(got, np.asarray(expected))
    flipped = make_augment({**config, "mirror": 1.0})(decoded(photo), keyed_rng(0, 0, "x"))
    assert np.array_equal(flipped, got[:, ::-1])


@pytest.mark.parametrize("kind", sorted(BOXES))
@pytest.mark.parametrize("size", [(100, 75), (500, 5), (5, 500), (1, 1)])
def test_crops_lie_inside_and_keep_to_area_and_ratio(size, kind):
    boxes = [
        BOXES[kind](*size, (0.08, 1.0), (3 / 4, 4 / 3), keyed_rng(0, 0, str(n))) for n in range(400)
    ]
    for left, top, w, h in boxes:
        assert left >= 0 and top >= 0 and w >= 1 and h >= 1
        assert left + w <= size[0] and top + h <= size[1]
    if size == (100, 75):
        areas = np.array([w * h for _, _, w, h in boxes]) / 7500
        ratios = np.array([w / h for _, _, w, h in boxes])
        assert areas.min() < 0.15 and areas.max() > 0.85
        assert ratios.min() > 0.70 and ratios.max() < 1.42


class Drawn:
    """Hands out stated numbers as a generator would."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


def paddle_operator(width, height, ratio, share, down, across):
    """PaddleClas's RandCropImage on stated draws (PaddleClas draws whole numbers for the place)."""
    a = math.sqrt(3 / 4 + (4 / 3 - 3 / 4) * ratio)
    bound = min((width / height) / a**2, (height / width) * a**2)
    lowest, highest = min(0.08, bound), min(1.0, bound)
    side = math.sqrt(width * height * (lowest + (highest - lowest) * share))
    w, h = int(side * a), int(side / a)
    return int(across * (width - w + 1)), int(down * (height - h + 1)), w, h


@pytest.mark.parametrize("size", [(500, 375), (300, 40), (41, 400)])
def test_paddles_crops_are_those_of_its_operator(size):
    rng = np.random.default_rng(0)
    for _ in range(200):
        ratio, share, across, down = rng.random(4)
        drawn = Drawn(ratio, share, across, down)
        got = BOXES["paddle"](*size, (0.08, 1.0), (3 / 4, 4 / 3), drawn)
        assert got == paddle_operator(*size, ratio, share, down, across)
        assert not drawn.numbers


def test_the_affine_view_turns_zooms_and_shifts_about_the_centre():
    image = Image.fromarray(np.pad(np.full((8, 8, 3), 255, np.uint8), ((12, 12), (12, 12), (0, 0))))
    still = {"name": "affine", "image_size": 32, "degrees": 0, "scale": 0, "shift": 0}
    plain = np.asarray(image)
    assert np.array_equal(make_augment(still)(decoded(image), keyed_rng(0, 0, "a")), plain)
    for key in "abcdef":
        shifted = make_augment({**still, "shift": 0.25})(decoded(image), keyed_rng(0, 0, key))
        y, x = (np.average(np.indices((32, 32))[i], weights=shifted[..., 0]) for i in (0, 1))
        assert abs(x - 15.5) <= 8.1 and abs(y - 15.5) <= 8.1 and (x, y) != (15.5, 15.5)
        for change in ({"degrees": 45}, {"scale": 0.5}):
            moved = make_augment({**still, **change})(decoded(image), keyed_rng(0, 0, key))
            y, x = (np.average(np.indices((32, 32))[i], weights=moved[..., 0]) for i in (0, 1))
            assert abs(x - 15.5) < 0.2 and abs(y - 15.5) < 0.2
        zoomed = make_augment({**still, "scale": 0.5})(decoded(image), keyed_rng(0, 0, key))
        assert 64 * 0.2 < zoomed[..., 0].sum() / 255 < 64 * 2.4


def test_affine_corners_take_the_fill(photo):
    config = {
        "name": "affine",
        "image_size": 32,
        "degrees": 45,
        "scale": 0,
        "shift": 0,
        "fill": [1, 2, 3],
    }
    views = [make_augment(config)(decoded(photo), keyed_rng(0, 0, str(n))) for n in range(8)]
    assert any(view[0, 0].tolist() == [1, 2, 3] for view in views)


def test_none_is_the_evaluation_view(photo):
    view = make_augment({"name": "none", "image_size": 32, "resize_short": 40})
    expected = Preprocess(resize_short=40, crop=32).image(photo)
    assert np.array_equal(view(decoded(photo), keyed_rng(0, 0, "a")), expected)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "publishd", "image_size": 32},
        {"image_size": 32},
        {"name": "affine"},
        {"name": "affine", "image_size": 0},
        {"name": "affine", "image_size": 32, "degres": 3},
        {"name": "affine", "image_size": 32, "shift": "x"},
        {"name": "affine", "image_size": 32, "fill": [1, 2, 300]},
        {"name": "published", "image_size": 32, "scale": [0.5, 0.1]},
        {"name": "published", "image_size": 32, "mirror": 2},
        {"name": "none", "image_size": 32, "resize_short": 16},
        {"name": "affine", "image_size": 32, "fast": True},
        {"name": "published", "image_size": 32, "fast": True, "interpolation": "lanczos"},
        {"name": "published", "image_size": 32, "box": "timm"},
        {"name": "published", "image_size": 32, "vertical_flip": 1.1},
        {"name": "published", "image_size": 32, "vertical_flip": True},
        {"name": "published", "image_size": 32, "quarter_turns": 1},
        {"name": "published", "image_size": 32, "rotation": 181},
        {"name": "published", "image_size": 32, "jitter": [0.4, 0.4]},
        {"name": "published", "image_size": 32, "jitter": "much"},
        {"name": "published", "image_size": 32, "grey": -0.1},
        {"name": "affine", "image_size": 32, "vertical_flip": 0.5},
    ],
)
def test_senseless_configurations_are_refused(config):
    with pytest.raises(ParameterError):
        make_augment(config)


def test_views_of_a_sample_are_pinned(photo):
    image = LazyImage.of(
        np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
    )
    digests = {}
    for name in PINNED_VIEWS:
        # The default crop of PaddleClas's recipes, and what it was before it was PaddleClas's.
        crop = {"box": name} if name == "torchvision" else {}
        own = {"name": name} if name == "affine" else {"name": "published", **crop}
        own |= FURTHER if name == "further" else {}
        view = make_augment({**own, "image_size": 32})
        pixels = b"".join(view(image, keyed_rng(0, 0, str(n))).tobytes() for n in range(4))
        digests[name] = hashlib.sha256(pixels).hexdigest()[:16]
    assert digests == PINNED_VIEWS


STILL = {"name": "published", "image_size": 24, "randaugment": None, "mirror": 0.0}


def changed(photo, key, **settings):
    """A view with ``settings``, and the one without them, of the same crop."""
    rngs = keyed_rng(0, 0, key), keyed_rng(0, 0, key)
    plain, more = make_augment(STILL), make_augment({**STILL, **settings})
    return more(decoded(photo), rngs[0]), plain(decoded(photo), rngs[1])


@pytest.mark.parametrize("fast", [False, True])
def test_upside_down_and_quarter_turns_are_numpys(photo, fast):
    upside, plain = changed(photo, "k", vertical_flip=1.0, fast=fast)
    assert np.abs(upside[::-1].astype(int) - plain).max() <= 2 * fast
    seen = []
    for n in range(120):
        turned, plain = changed(photo, str(n), quarter_turns=True, fast=fast)
        off = [np.abs(np.rot90(plain, k).astype(int) - turned).max() for k in range(4)]
        assert min(off) <= 2 * fast
        seen.append(int(np.argmin(off)))
    assert np.bincount(seen).min() >= 15, "each as often: 30 of 120 but for chance"
    # All eight ways to lay a square come up with both.
    flags = {"vertical_flip": 0.5, "quarter_turns": True, "mirror": 0.5, "fast": fast}
    ways = set()
    for n in range(90):
        view, plain = changed(photo, str(n), **flags)
        laid = [np.rot90(side, k) for side in (plain, plain[:, ::-1]) for k in range(4)]
        off = [np.abs(one.astype(int) - view).max() for one in laid]
        assert min(off) <= 2 * fast
        ways.add(int(np.argmin(off)))
    assert ways == set(range(8))


def test_rotation_is_pillows_and_within_its_degrees(photo):
    view = make_augment({**STILL, "rotation": 170.0, "fill": [1, 2, 3]})
    angles = []
    for n in range(60):
        _, flip, operations = view.draw((100, 75), keyed_rng(0, 0, str(n)))
        [(name, level, sign)] = operations
        assert (name, flip) == ("Rotate", False)
        angles.append(sign * level * 3)
        turned, plain = changed(photo, str(n), rotation=170.0, fill=[1, 2, 3])
        expected = Image.fromarray(plain).rotate(
            angles[-1], resample=Image.BICUBIC, fillcolor=(1, 2, 3)
        )
        assert np.array_equal(turned, np.asarray(expected))
    assert -170 <= min(angles) < -120 and 120 < max(angles) <= 170


def test_jitter_is_pillows_enhancers_and_grey_is_its_mode_l(photo):
    grey, plain = changed(photo, "k", grey=1.0)
    assert np.array_equal(grey, np.asarray(Image.fromarray(plain).convert("L").convert("RGB")))
    enhancers = {
        "Brightness": ImageEnhance.Brightness, "Contrast": ImageEnhance.Contrast,
        "Color": ImageEnhance.Color,
    }  # fmt: skip
    settings = {"jitter": [0.4, 0.3, 0.2]}
    view = make_augment({**STILL, **settings})
    orders, factors = set(), {name: [] for name in enhancers}
    for n in range(60):
        drawn, _, operations = view.draw((100, 75), keyed_rng(0, 0, str(n)))
        got, plain = changed(photo, str(n), **settings)
        image = Image.fromarray(plain)
        for name, level, _ in operations:
            factors[name].append(level / 10 * 1.8 + 0.1)
            image = enhancers[name](image).enhance(factors[name][-1])
        assert np.array_equal(got, np.asarray(image))
        orders.add(tuple(name for name, _, _ in operations))
    assert len(orders) == 6
    for (name, found), share in zip(factors.items(), (0.4, 0.3, 0.2), strict=True):
        assert 1 - share <= min(found) < 1 - 0.8 * share, name
        assert 1 + 0.8 * share < max(found) <= 1 + share, name


def test_further_changes_leave_the_published_draws_as_they_are():
    off = {"vertical_flip": 0, "quarter_turns": False, "rotation": 0, "jitter": 0, "grey": 0}
    published = {"name": "published", "image_size": 32}
    plain = make_augment(published)
    assert make_augment({**published, **off}) == plain and plain.further is None
    on = {"vertical_flip": 0.5, "quarter_turns": True, "rotation": 9.0, "jitter": 0.4, "grey": 0.5}
    further = {"QuarterTurn", "Rotate", "Brightness", "Contrast", "Color"}
    for n in range(50):
        box, flip, operations = plain.draw((100, 75), keyed_rng(0, 0, str(n)))
        drawn, _, every = make_augment({**published, **on}).draw((100, 75), keyed_rng(0, 0, str(n)))
        assert drawn == box
        own = [at for at in range(len(every)) if every[at : at + len(operations)] == operations]
        assert own and {name for name, _, _ in every[: own[0]]} <= {"QuarterTurn", "Rotate"}
        # What one setting draws does not depend on the others.
        for setting in ("rotation", "jitter", "grey"):
            view = make_augment({**published, setting: on[setting]})
            drawn, flipped, some = view.draw((100, 75), keyed_rng(0, 0, str(n)))
            assert (drawn, flipped) == (box, flip)
            assert all(one in every for one in some)
            assert {one[0] for one in some if one not in operations} <= further


WITHOUT_TORCH = ("augment", "balance", "further_changes", "jpeg", "lazy_image", "randaugment")


def test_what_needs_no_tensors_needs_no_torch():
    package = Path(hgnetv2_pipeline.__file__).parent
    modules = sorted((package / "data").rglob("*.py"))
    modules += [package / "input" / f"{name}.py" for name in WITHOUT_TORCH]
    names = [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in modules]
    lines = [f"import {name.removesuffix('.__init__')}" for name in names]
    assert len(lines) > 30
    heavy = "{'torch', 'timm', 'sklearn', 'cv2', 'kedro'} & set(sys.modules)"
    code = "; ".join(["import sys", *lines, f"sys.exit(str({heavy}) if {heavy} else 0)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
