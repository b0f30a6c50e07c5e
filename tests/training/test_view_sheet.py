"""The sheet of what the network sees: its pixels are those of the loader, mixed and erased."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.data.index import read_index, write_index
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.input.batches import SampleReader
from hgnetv2_pipeline.project.training import runs
from hgnetv2_pipeline.project.training.view_sheet import VIEWS, shown_views, write_views
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.prepare import training_view
from tiny_project import identity, run_of

Job = Callable[..., RunSpec]
MIX = {"mixup": 0.0, "cutmix": 1.0, "probability": 1.0, "switch": 0.5}
AFFINE = {"name": "affine", "degrees": 20.0}


def test_without_augmentation_each_view_is_the_evaluation_view(job: Job) -> None:
    rows = shown_views(job("plain", augment={"name": "none"}))
    assert [len(row) for row in rows] == [5] * 6
    for original, *views in rows:
        for view in views:
            np.testing.assert_array_equal(view, original)


def test_a_view_is_the_one_that_the_training_makes_of_the_image(job: Job) -> None:
    spec = job("affine", augment=AFFINE)
    reader = SampleReader(read_index(spec.train), spec.train_root)
    view = training_view(spec.config, torch.device("cpu"))
    places = [0, 4, 8, 12, 16, 20]  # of 21 images
    for row, place in zip(shown_views(spec), places, strict=True):
        key = reader.keys[place].as_py()
        for epoch, pixels in enumerate(row[1:]):
            own = view(reader.image(place), keyed_rng(spec.seed, epoch, key))
            np.testing.assert_array_equal(pixels, own)


def test_erasing_and_mixing_are_in_the_views(job: Job) -> None:
    plain = shown_views(job("a", augment={"name": "none"}))
    cut = shown_views(job("b", augment={"name": "none"}, mix=MIX))
    erased = shown_views(job("c", augment={"name": "none"}, erasing=1.0))
    for rows in (cut, erased):
        changed = [
            np.any(view != original, axis=-1).mean() for original, *views in rows for view in views
        ]
        assert 0 < np.mean(changed) < 1, "a part of each image, on average"
    # What CutMix puts in is another image of the sheet at the same place.
    pool = np.stack([row[0] for row in plain])
    for _, *views in cut:
        for view in views:
            assert (pool == view).all(axis=-1).any(axis=0).all()


def test_the_sheet_is_written_and_leaves_the_random_numbers_of_the_training_alone(job: Job) -> None:
    spec = job("sheet", augment=AFFINE, erasing=0.5)
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    write_views(spec)
    assert torch.equal(torch.rand(1), first)
    made = (spec.out / VIEWS).read_bytes()
    with Image.open(spec.out / VIEWS) as sheet:
        assert sheet.size == (5 * 98 + 2, 6 * 98 + 2)
    write_views(spec)
    assert (spec.out / VIEWS).read_bytes() == made


@pytest.mark.parametrize("alone", [False, True])
def test_trainings_side_by_side_leave_a_sheet_each(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """Members of a teacher and arms of the comparison, also where each has all processes."""
    started: list[str] = []
    monkeypatch.setattr(
        "hgnetv2_pipeline.processes.specs.run_specs",
        lambda _, specs, *__, **___: started.extend(specs),
    )
    monkeypatch.setattr(
        "hgnetv2_pipeline.training.launch.train_many", lambda spec, _: started.append(spec.out.name)
    )
    monkeypatch.setattr(runs, "processes_of_each", lambda *_, **__: 2 if alone else 1)
    specs = [job(name, augment=AFFINE) for name in ("member=0", "stage1,seed=1")]
    run = run_of(identity(tmp_path))
    runs.train_side_by_side(run, specs, jobs=1, folder=tmp_path)
    assert started == ["member=0", "stage1,seed=1"]
    assert all((spec.out / VIEWS).is_file() for spec in specs)


def test_an_image_that_cannot_be_read_has_no_row_and_none_at_all_a_warning(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = job("bad")
    frame = read_index(spec.train)
    some = frame.assign(path=frame["path"].mask(frame.index == 0, "gone.png"))
    write_index(tmp_path / "some.parquet", some)
    assert len(shown_views(spec.model_copy(update={"train": tmp_path / "some.parquet"}))) == 5
    write_index(tmp_path / "none.parquet", frame.assign(path="gone.png"))
    write_views(spec.model_copy(update={"train": tmp_path / "none.parquet"}))
    assert "no picture of what the network sees: not one of 6 images" in caplog.text
    assert not (spec.out / VIEWS).exists()
