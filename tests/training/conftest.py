"""A tiny data set on disk and jobs on it: reddish and bluish noise, told apart in a few steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from train_recipes import NANO, make_job

from hgnetv2_pipeline.data.index import write_index
from hgnetv2_pipeline.data.scan.folders import scan_list
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.step import Step
from hgnetv2_pipeline.variants import VARIANTS


@pytest.fixture(scope="module", autouse=True)
def _nano() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "nano", NANO)
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with images, ``train.parquet`` (21 images) and ``val.parquet`` (10)."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 21), ("val", 10)):
        lines = []
        (root / split).mkdir()
        for index in range(count):
            name = f"{split}/{index:02d}.png"
            pixels = rng.integers(0, 100, (32, 32, 3))
            pixels[..., 2 * (index % 2)] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name)
            lines.append(f"{name} {index % 2}\n")
        (root / f"{split}_list.txt").write_text("".join(lines))
        scan = scan_list(root / f"{split}_list.txt", root)
        write_index(root / f"{split}.parquet", scan.samples)
    return root


@pytest.fixture
def job(pictures: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    """``job("name", lr=..., spec={...})``: a job into ``tmp_path/name`` with a changed recipe."""

    def make(name: str, **changes: object) -> RunSpec:
        return make_job(pictures, tmp_path, name, **changes)

    return make


@pytest.fixture
def sigterm_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``sigterm_in(n)``: this process gets SIGTERM in the middle of its ``n``-th step from 0."""
    take = Step.__call__

    def arm(number: int) -> None:
        def call(self: Step, batch: Any) -> Any:
            if batch.step == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return take(self, batch)

        monkeypatch.setattr(Step, "__call__", call)

    return arm
