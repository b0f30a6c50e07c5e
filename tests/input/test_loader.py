"""Batches: a pure function of (seed, step), whatever the workers; bad images are counted."""

import io
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hang_guard import HANG, ends, wait_until
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.sample_rng import epoch_order
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.input import loader, workers
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.balance import sampling_weights

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")

TRANSFORM = make_augment({"name": "published", "image_size": 16})
FAST = make_augment({"name": "published", "image_size": 16, "fast": True})
PREPROCESS = Preprocess(resize_short=18, crop=16)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for n in range(22):
        folder = root / f"class {'ab'[n % 11 == 0]}"
        folder.mkdir(exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (40, 24, 3), np.uint8))
        file = io.BytesIO()
        kind = "JPEG" if n % 2 else "PNG"
        image.save(file, kind)
        (folder / f"{n:02d}.{kind.lower()}").write_bytes(file.getvalue())
    return root, scan_folder_tree(root).samples


def train(tree, start=0, steps=8, workers=0, ledger=None, **options):
    root, samples = tree
    ledger = ledger or Ledger(len(samples), 0)
    options = {"transform": TRANSFORM, "seed": 3, "batch_size": 5, **options}
    return list(
        loader.train_batches(
            samples, root, start_step=start, steps=steps, workers=workers, ledger=ledger, **options
        )
    )


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and (a.keys, a.step, a.n_real) == (b.keys, b.step, b.n_real)
        for a, b in zip(first, second, strict=True)
    )


# Row C09 of docs/reliability.md.
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("transform", [TRANSFORM, FAST], ids=["exact", "fast"])
def test_batches_do_not_depend_on_workers_or_on_where_the_run_resumed(tree, workers, transform):
    whole = train(tree, steps=14, transform=transform)
    later = train(tree, start=5, steps=9, workers=workers, transform=transform)
    assert same(later, whole[5:])


def test_fast_and_exact_batches_show_the_same_crops_and_operations(tree):
    plain = {"name": "published", "image_size": 16, "randaugment": None}
    exact, fast = (
        torch.cat([b.images for b in train(tree, transform=make_augment({**plain, "fast": f}))])
        for f in (False, True)
    )
    assert (exact.int() - fast.int()).abs().max() <= 2


def test_a_batch_is_full_uint8_and_channels_last(tree):
    for batch in train(tree):
        assert batch.images.shape == (5, 3, 16, 16) and batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == torch.int64 and batch.n_real == 5
    (batch,) = train(tree, steps=1, workers=1)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_each_epoch_shows_each_image_once_in_the_stated_order(tree):
    root, samples = tree
    keys = [key for batch in train(tree, steps=22) for key in batch.keys]
    for epoch in range(5):
        order = epoch_order(22, 3, epoch)
        assert keys[22 * epoch : 22 * epoch + 22] == list(samples["key"].iloc[order])
    labels = dict(samples[["key", "label"]].itertuples(index=False))
    for batch in train(tree):
        assert batch.labels.tolist() == [labels[key] for key in batch.keys]


def test_views_change_with_the_epoch_and_the_seed(tree):
    batches = train(tree, steps=22)
    views = {}
    for batch in batches:
        for key, image in zip(batch.keys, batch.images, strict=True):
            views.setdefault(key, []).append(image.numpy().tobytes())
    assert all(len(set(seen)) == len(seen) == 5 for seen in views.values())
    assert not same(train(tree), train(tree, seed=4))


def test_ranks_share_the_same_order(tree):
    alone = train(tree, batch_size=6, steps=9)
    ranks = [train(tree, batch_size=2, steps=9, rank=rank, world_size=3) for rank in range(3)]
    for step, batch in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert batch.keys == [key for part in parts for key in part.keys]
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))


def test_balanced_draws_even_the_classes_out(tree):
    _, samples = tree
    weights = sampling_weights(samples["label"])
    batches = train(tree, steps=200, weights=weights)
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    assert abs(labels.mean() - 0.5) < 0.05
    again = train(tree, start=100, steps=100, weights=weights, workers=2)
    assert same(again, batches[100:])
    rare = [
        image.numpy().tobytes()
        for batch in batches[:4]
        for image, label in zip(batch.images, batch.labels, strict=True)
        if label == 1
    ]
    assert len(set(rare)) > 2


@pytest.fixture
def damaged(tree, tmp_path):
    """The tree with two images gone bad after the scan."""
    root, samples = tree
    for key in samples["key"]:
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).write_bytes((root / key).read_bytes())
    bad = [samples["key"][4], samples["key"][17]]
    (tmp_path / bad[0]).write_bytes(b"")
    (tmp_path / bad[1]).unlink()
    return (tmp_path, samples), bad


# Row I12 of docs/reliability.md.
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_counted_and_batches_stay_full(tree, damaged, workers):
    broken, bad = damaged
    ledger = Ledger(22, 0.1)
    batches = train(broken, steps=9, workers=workers, ledger=ledger)
    whole = train(tree, steps=10)
    assert all(batch.n_real == 5 and not set(bad) & set(batch.keys) for batch in batches)
    assert ledger.summary() == {"n_listed": 22, "n_used": 20, "n_quarantined": 2, "n_refused": 0}
    for step, batch in enumerate(batches):
        good = [key for key in whole[step].keys if key not in bad]
        later = [key for key in whole[step + 1].keys if key not in bad]
        assert batch.keys == (good + later)[:5]
    assert same(train(broken, start=6, steps=3, ledger=Ledger(22, 0.1)), batches[6:])


# Row I13 of docs/reliability.md.
def test_too_many_bad_images_stop_the_run(damaged, tree, tmp_path):
    broken, _ = damaged
    with pytest.raises(DataError, match="of 22 images cannot be used, 1 may"):
        train(broken, ledger=Ledger(22, 0.05))
    empty = tmp_path / "empty"
    for key in tree[1]["key"]:
        (empty / key).parent.mkdir(parents=True, exist_ok=True)
        (empty / key).write_bytes(b"")
    for max_bad, message in ((0, "0 may"), (0.5, "11 may"), (1, "not one of 22 images")):
        with pytest.raises(DataError, match=message):
            train((empty, tree[1]), ledger=Ledger(22, max_bad))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_each_image_once_in_order(tree, workers):
    root, samples = tree
    options = {"preprocess": PREPROCESS, "batch_size": 4, "workers": workers}
    batches = list(loader.eval_batches(samples, root, ledger=Ledger(22, 0), **options))
    assert [key for batch in batches for key in batch.keys] == list(samples["key"])
    assert [batch.n_real for batch in batches] == [4, 4, 4, 4, 4, 2]
    for batch in batches:
        for image, key in zip(batch.images, batch.keys, strict=True):
            assert np.array_equal(image.permute(1, 2, 0), PREPROCESS.image(root / key))
    padded = list(loader.eval_batches(samples, root, ledger=Ledger(22, 0), pad=True, **options))
    last = padded[-1]
    assert last.images.shape[0] == 4 and last.n_real == 2 == len(last.keys) == len(last.labels)
    assert torch.equal(last.images[3], last.images[1])
    assert torch.equal(last.images[:2], batches[-1].images)


def test_evaluation_fails_on_a_bad_image_or_leaves_it_out_if_allowed(damaged):
    (root, samples), bad = damaged
    options = {"preprocess": PREPROCESS, "batch_size": 4, "workers": 0}
    with pytest.raises(DataError, match="1 of 22 images cannot be used"):
        list(loader.eval_batches(samples, root, ledger=Ledger(22, 0), **options))
    ledger = Ledger(22, 1)
    batches = list(loader.eval_batches(samples, root, ledger=ledger, **options))
    keys = [key for batch in batches for key in batch.keys]
    assert keys == [key for key in samples["key"] if key not in bad]
    assert list(ledger.frame()["key"]) == sorted(bad)


def test_a_batch_of_bad_images_alone_is_no_batch(damaged):
    (root, samples), bad = damaged
    alone = samples[samples["key"].isin(bad)].reset_index(drop=True)
    ledger = Ledger(2, 1)
    options = {"preprocess": PREPROCESS, "batch_size": 4, "workers": 0, "pad": True}
    assert list(loader.eval_batches(alone, root, ledger=ledger, **options)) == []
    assert ledger.summary()["n_quarantined"] == 2


def test_unlabelled_images_have_label_minus_one(tree):
    root, samples = tree
    bare = samples.assign(label=pd.array([pd.NA] * 22, dtype="Int64"))
    assert set(train((root, bare), steps=1)[0].labels.tolist()) == {-1}


def test_normalise_has_the_bits_of_the_preprocessing(tree):
    batch = train(tree, steps=1)[0]
    floats = loader.normalise(batch.images, PREPROCESS.mean, PREPROCESS.std)
    expected = PREPROCESS.normalize(batch.images.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(floats.numpy(), expected)
    assert floats.is_contiguous(memory_format=torch.channels_last)
    half = loader.normalise(batch.images, PREPROCESS.mean, PREPROCESS.std, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    with pytest.raises(ParameterError, match="uint8"):
        loader.normalise(floats, PREPROCESS.mean, PREPROCESS.std)


def test_senseless_requests_are_refused(tree):
    root, samples = tree
    for options in ({"batch_size": 0}, {"rank": 1}, {"weights": [1.0]}, {"weights": np.zeros(22)}):
        with pytest.raises(ParameterError):
            train(tree, **options)
    with pytest.raises(DataError, match="0 samples"):
        train((root, samples.iloc[:0]))


class Trap:
    """A view that does something to its process at the pictures of one size."""

    def __init__(self, act):
        self.act = act

    def __call__(self, picture, rng):
        if picture.size == (7, 7):
            self.act()
        return TRANSFORM(picture, rng)


@pytest.fixture
def trapped(tree, tmp_path):
    """The tree with one image that a ``Trap`` knows, and its key."""
    root = shutil.copytree(tree[0], tmp_path / "tree")
    key = tree[1].loc[5, "key"]
    Image.new("RGB", (7, 7)).save(root / key, "PNG")
    return (root, scan_folder_tree(root).samples), key


# Rows P03 and P04 of docs/reliability.md.
@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "a loader process died, often by the out"),
        # Far longer than the guard: the run does not wait for the one that hangs.
        (lambda: time.sleep(3 * HANG), "a loader process gave nothing for 8 s; it is at"),
    ],
)
def test_worker_that_dies_or_hangs_stops_the_run_with_its_image_named(
    trapped, monkeypatch, act, reason
):
    if "gave nothing" in reason:
        monkeypatch.setattr(workers, "_TIMEOUT_SECONDS", 8.0)
    before = set(multiprocessing.active_children())
    with ends("a run whose worker gives nothing"), pytest.raises(DataError, match=reason) as caught:
        # Not the last image of those whose files are read before any is decoded.
        train(trapped[0], workers=2, transform=Trap(act), batch_size=16)
    ended = set(multiprocessing.active_children()) - before
    wait_until(lambda: not any(child.is_alive() for child in ended), "the one that hangs has ended")
    assert f"at image {trapped[1]}:" in str(caught.value)
    assert workers._dead_worker(RuntimeError("another")) is None


def load_until_killed(tree, told):
    """As beside a GPU, where a server forks the workers."""
    torch.cuda.is_initialized = lambda: True
    root, samples = tree
    batches = loader.train_batches(
        samples, root, transform=TRANSFORM, seed=3, batch_size=5, start_step=0, steps=1000,
        workers=2, ledger=Ledger(len(samples), 0),
    )  # fmt: skip
    next(batches)
    told.send(workers._live[0].at[:, 0].tolist())
    time.sleep(3 * HANG)


@pytest.mark.slow
def test_workers_beside_a_gpu_do_not_outlive_a_run_that_is_killed(tree):
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    run = context.Process(target=load_until_killed, args=(tree, theirs))
    run.start()
    theirs.close()
    workers = ours.recv()
    run.kill()
    run.join()
    try:
        wait_until(lambda: not any(map(is_alive, workers)), "the workers are gone")
    finally:
        for pid in filter(is_alive, workers):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
