"""Input made on a device: the views of the CPU paths, on a GPU or on 'cpu' in its place."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.input import device_operations, loader, prefetch
from hgnetv2_pipeline.input import device_views as device_input
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.deferred_view import on_device
from hgnetv2_pipeline.input.device_operations import augment
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.randaugment import INCREASING, PLAIN
from image_files import blotches, encoded, put

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FILL = (124, 116, 104)
PLAIN_VIEW = {"name": "published", "image_size": 24, "randaugment": None}
VIEW = {"name": "published", "image_size": 24, "randaugment": "rand-m7-mstd0.5-inc1-p0.9"}
MORE = {
    **VIEW, "vertical_flip": 0.5, "quarter_turns": True, "rotation": 40.0, "jitter": 0.4,
    "grey": 0.3,
}  # fmt: skip
NOTHING = {"randaugment": "rand-m7-p0"}
PARTS = ["all", "randaugment"]


def turned(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif, quality=92)


def adobe_rgb(image):
    return encoded(image, "JPEG", quality=92, keep_rgb=True)


PLAIN_FILES = {
    "baseline": lambda image: encoded(image, "JPEG", quality=92),
    "progressive": lambda image: encoded(image, "JPEG", quality=92, progressive=True),
    "grey": lambda image: encoded(image.convert("L"), "JPEG", quality=92),
}
OTHER_FILES = {
    "png": encoded,
    "cmyk": lambda image: encoded(image.convert("CMYK"), "JPEG", quality=92),
    "turned": turned,
    "rgb": adobe_rgb,
    "trailing": lambda image: encoded(image, "JPEG", quality=92) + b"more",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    kinds = list({**PLAIN_FILES, **OTHER_FILES}.values())
    files = {f"{'ab'[n % 2]}/{n:02d}.jpg": kinds[n % 8](blotches(n, (61, 47))) for n in range(16)}
    put(root, files)
    return root, scan_folder_tree(root).samples


def train(tree, transform, workers=0, start=0, steps=4, ledger=None):
    root, samples = tree
    return list(
        loader.train_batches(
            samples,
            root,
            transform=transform,
            seed=3,
            batch_size=5,
            start_step=start,
            steps=steps,
            workers=workers,
            ledger=ledger or Ledger(len(samples), 0),
        )
    )


@pytest.fixture(scope="module")
def even_tree(tmp_path_factory):
    """Files whose colours have no half-size of their own: decoders fill those in each their way."""
    root = tmp_path_factory.mktemp("even")
    files = {
        f"{'ab'[n % 2]}/{n:02d}.jpg": encoded(
            blotches(n, (61, 47)), "JPEG", quality=92, subsampling=0, progressive=n % 3 == 0
        )
        for n in range(15)
    }
    put(root, {**files, "a/turned.jpg": turned(blotches(15, (61, 47)))})
    return root, scan_folder_tree(root).samples


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.keys == b.keys
        for a, b in zip(first, second, strict=True)
    )


def cpu(batch):
    return dataclasses.replace(batch, images=batch.images.cpu())


def levels_off(first, second):
    gaps = [
        (a.images.cpu().int() - b.images.cpu().int()).abs().float()
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(gaps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [PLAIN_VIEW, {**PLAIN_VIEW, "box": "paddle"}])
def test_crops_and_flips_are_those_of_the_cpu_paths(even_tree, config, device):
    made = train(even_tree, on_device(make_augment(config), "all", device))
    for fast in (False, True):
        wanted = train(even_tree, make_augment({**config, "fast": fast}))
        assert [batch.keys for batch in made] == [batch.keys for batch in wanted]
        gap = levels_off(made, wanted)
        # In single precision a half may be rounded the other way; a GPU's decoder transforms and
        # converts in its own arithmetic.
        most, mean = (2, 0.02) if device == "cpu" else (6, 0.7)
        assert gap.max() <= most and gap.mean() < mean


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [VIEW, MORE], ids=["published", "more"])
def test_whole_views_are_near_the_exact_ones(even_tree, config, device):
    made = train(even_tree, on_device(make_augment(config), "all", device))
    gap = levels_off(made, train(even_tree, make_augment(config)))
    # An operation may make many levels of one, but of few pixels.
    assert gap.mean() < (0.05 if device == "cpu" else 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("config", [VIEW, MORE], ids=["published", "more"])
def test_operations_alone_on_the_device_leave_the_cpu_s_pixels(tree, config, fast, device):
    view = make_augment({**config, "fast": fast})
    made = train(tree, on_device(view, "randaugment", device))
    wanted = train(tree, make_augment(config))
    assert [batch.keys for batch in made] == [batch.keys for batch in wanted]
    gap = levels_off(made, wanted)
    # Whatever a worker decodes is decoded as ever: nothing but geometry may tip a pixel. The fast
    # resizing is off by a level here and there, of which an operation may make more.
    assert gap.mean() < (0.05 if fast else 1e-3)
    if not fast:
        # An image without operations is the worker's, bit for bit.
        plain = train(tree, on_device(make_augment({**VIEW, **NOTHING}), "randaugment", device))
        assert same([cpu(batch) for batch in plain], train(tree, make_augment({**VIEW, **NOTHING})))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("part", PARTS)
def test_batches_are_uint8_channels_last(tree, part, device):
    batch = train(tree, on_device(make_augment(VIEW), part, device), steps=1)[0]
    assert batch.images.device.type == device
    assert batch.images.shape == (5, 3, 24, 24) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("part", "workers"), [("all", 0), ("all", 2), ("randaugment", 2)])
def test_batches_do_not_depend_on_workers_or_on_where_the_run_resumed(tree, part, workers, device):
    view = on_device(make_augment(VIEW), part, device)
    assert same(train(tree, view, workers, start=1, steps=3), train(tree, view)[1:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted({*INCREASING, *PLAIN}))
def test_an_operation_is_pillow_s_give_or_take_a_level(name, device):
    pictures = [blotches(1, (48, 40)), Image.new("RGB", (48, 40), (9, 9, 200))]
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    pictures += [Image.fromarray(noise), Image.fromarray(noise // 3 + 60)]
    choices = [(name, level, sign) for level in (0.0, 3.3, 7.0, 10.0) for sign in (1.0, -1.0)]
    pairs = [(picture, choice) for picture in pictures for choice in choices]
    exact = np.stack(
        [
            np.asarray({**INCREASING, **PLAIN}[name](picture, *choice[1:], FILL))
            for picture, choice in pairs
        ]
    )
    pixels = np.stack([np.asarray(picture) for picture, _ in pairs])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    made = augment(images.to(device), [[choice] for _, choice in pairs], FILL).cpu()
    made = made.permute(0, 2, 3, 1).numpy()
    gap = np.abs(made.astype(int) - exact)
    moves = name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
    assert gap.max() <= (1 if moves else 0)
    assert gap.mean() < 1e-3
    assert (images.numpy() == pixels.transpose(0, 3, 1, 2)).all(), "the input was written to"


def test_many_moved_images_are_moved_a_few_at_a_time(monkeypatch):
    images = torch.from_numpy(np.stack([np.asarray(blotches(n)) for n in range(5)]))
    images = images.permute(0, 3, 1, 2)
    choices = [[(name, 6.0, 1.0)] for name in ("Rotate", "ShearX", "Rotate", "Rotate", "ShearY")]
    wanted = augment(images, choices, FILL)
    monkeypatch.setattr(device_operations, "_NEIGHBOURS", 1)
    assert torch.equal(augment(images, choices, FILL), wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_copied_ahead_in_their_order(tree, device):
    exact = make_augment(VIEW)
    wanted = train(tree, exact)
    made = list(
        loader.train_batches(
            tree[1], tree[0], transform=exact, seed=3, batch_size=5, start_step=0, steps=4,
            workers=2, ledger=Ledger(16, 0), device=torch.device(device),
        )
    )  # fmt: skip
    assert {batch.images.device.type for batch in made} == {device}
    assert same([cpu(batch) for batch in made], wanted)
    every = [prefetch.WorkerBatch(batch, []) for batch in wanted]
    onto = prefetch.Prefetcher(torch.device(device), prefetch.CopyToDevice(torch.device(device)))
    assert same([cpu(one.batch) for one in onto(every)], wanted)


def test_operations_follow_each_image_s_own_order():
    images = torch.from_numpy(np.stack([np.asarray(blotches(n)) for n in range(3)]))
    images = images.permute(0, 3, 1, 2)
    lists = [
        [("Invert", 5.0, 1.0), ("Solarize", 4.0, 1.0)],
        [],
        [("Solarize", 4.0, 1.0), ("Invert", 5.0, 1.0), ("Rotate", 7.0, -1.0)],
    ]
    together = augment(images, lists, FILL)
    alone = [augment(images[n : n + 1], [lists[n]], FILL)[0] for n in range(3)]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(together[1], images[1])


@pytest.mark.parametrize("name", [*PLAIN_FILES, *OTHER_FILES])
def test_only_files_that_every_decoder_reads_alike_reach_the_device_s_decoder(name):
    image = blotches(5, (61, 47))
    content = {**PLAIN_FILES, **OTHER_FILES}[name](image)
    drawn = on_device(make_augment(PLAIN_VIEW), "all", "cpu")(
        LazyImage(content), keyed_rng(0, 0, "k")
    )
    assert drawn.encoded == (name in PLAIN_FILES)
    if not drawn.encoded:
        exact = make_augment(PLAIN_VIEW).draw(LazyImage(content).size, keyed_rng(0, 0, "k"))
        piece = LazyImage(content).crop(*exact[0])
        assert (drawn.data == piece.reshape(-1)).all()


def refuses(files, **options):
    raise RuntimeError("nvjpeg: not supported")


def wrong_size(files, **options):
    return [torch.zeros(3, 8, 8, dtype=torch.uint8) for _ in files]


@pytest.mark.parametrize("decoder", [refuses, wrong_size])
def test_what_the_decoder_cannot_do_is_done_on_the_cpu(tree, monkeypatch, decoder):
    view = on_device(make_augment(PLAIN_VIEW), "all", "cpu")
    monkeypatch.setattr(device_input, "decode_jpeg", decoder)
    gap = levels_off(train(tree, view), train(tree, make_augment(PLAIN_VIEW)))
    assert gap.max() <= 1


def test_training_may_stop_while_batches_are_being_made(tree):
    root, samples = tree
    every = loader.train_batches(
        samples, root, transform=on_device(make_augment(VIEW), "all", "cpu"), seed=3, batch_size=5,
        start_step=0, steps=10_000, workers=0, ledger=Ledger(16, 0),
    )  # fmt: skip
    next(every)
    every.close()
    assert not [thread for thread in threading.enumerate() if "device-input" in thread.name]


def test_a_lack_of_memory_is_not_taken_for_a_bad_file(tree, monkeypatch):
    def full(files, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device_input, "decode_jpeg", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(tree, on_device(make_augment(PLAIN_VIEW), "all", "cpu"))


def test_large_pictures_are_decoded_a_few_at_a_time(tree, monkeypatch):
    view = on_device(make_augment(VIEW), "all", "cpu")
    wanted, seen = train(tree, view), []
    decode = device_input.decode_jpeg

    def counting(files, **options):
        seen.append(len(files))
        return decode(files, **options)

    monkeypatch.setattr(device_input, "decode_jpeg", counting)
    monkeypatch.setattr(device_input, "_TOGETHER", 2 * 61 * 47)
    assert same(train(tree, view), wanted)
    assert max(seen) == 2


def test_what_a_gpu_cannot_shrink_the_cpu_does(tree, monkeypatch):
    view = on_device(make_augment(VIEW), "all", "cpu")
    wanted = train(tree, view)
    monkeypatch.setattr(device_input, "_STEEPEST", 0)
    assert same(train(tree, view), wanted)


@pytest.fixture(params=["tables", "scan"])
def damaged(tmp_path, request):
    """Ten files, of which one has a header and an end, and nothing that decodes in between."""
    root = put(
        tmp_path,
        {f"a/{n}.jpg": encoded(blotches(n, (61, 47)), "JPEG", quality=92) for n in range(10)},
    )
    samples = scan_folder_tree(root).samples
    whole = (root / "a/4.jpg").read_bytes()
    (root / "a/4.jpg").write_bytes(DAMAGES[request.param](whole))
    return root, samples


def without_tables(whole):
    return whole[: whole.index(b"\xff\xdb")] + whole[whole.index(b"\xff\xc0") :]


def of_another_component(whole):
    at = whole.index(b"\xff\xda") + 5
    return whole[:at] + b"\x63" + whole[at + 1 :]


DAMAGES = {"tables": without_tables, "scan": of_another_component}


@pytest.mark.parametrize(("kind", "given"), [("tables", False), ("scan", True)])
def test_what_the_header_gives_away_is_not_given_to_the_device(kind, given):
    damaged = DAMAGES[kind](encoded(blotches(1, (61, 47)), "JPEG", quality=92))
    # Given to an H200, a file without its tables made the test of the ledger below fail.
    assert (LazyImage(damaged).plain_jpeg == damaged) is given
    with pytest.raises(DataError):
        LazyImage(damaged).pixels()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("part", "workers"), [("all", 0), ("all", 2), ("randaugment", 0)])
def test_a_bad_file_is_in_the_ledger_and_its_place_filled_as_on_the_cpu(
    damaged, part, workers, device
):
    ledgers = [Ledger(10, 0.1), Ledger(10, 0.1)]
    exact = make_augment(PLAIN_VIEW if part == "all" else VIEW)
    wanted = train(damaged, exact, ledger=ledgers[0])
    made = train(damaged, on_device(exact, part, device), workers, ledger=ledgers[1])
    assert [batch.keys for batch in made] == [batch.keys for batch in wanted]
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(made, wanted, strict=True))
    assert all(len(batch.images) == 5 and "a/4.jpg" not in batch.keys for batch in made)
    frames = [ledger.frame() for ledger in ledgers]
    assert list(frames[1]["key"]) == ["a/4.jpg"] and frames[1].equals(frames[0])


def test_too_many_bad_files_stop_the_run(damaged):
    with pytest.raises(DataError, match=r"1 of 10 images cannot be used.*a/4\.jpg"):
        train(damaged, on_device(make_augment(PLAIN_VIEW), "all", "cpu"))


@pytest.mark.parametrize(
    ("part", "config"),
    [
        ("all", {"name": "affine", "image_size": 24}),
        ("randaugment", {"name": "none", "image_size": 24}),
        ("randaugment", PLAIN_VIEW),
        ("all", {**VIEW, "interpolation": "lanczos"}),
        ("all", {**VIEW, "fast": True}),
    ],
)
def test_views_that_the_device_does_not_know_are_refused(part, config):
    with pytest.raises(ParameterError, match=r"input\.(device|fast)"):
        on_device(make_augment(config), part, "cpu")
