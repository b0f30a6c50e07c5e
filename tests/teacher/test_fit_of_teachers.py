"""Probes and ready teachers see all of an image where the recipe's students do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.project.models import _resized_otherwise
from hgnetv2_pipeline.teacher.probing import ProbeConfig, fit_probe
from hgnetv2_pipeline.teacher.teacher import Member, Teacher
from image_files import encoded, put


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_a_probe_sees_images_by_the_fit_that_it_is_given(tmp_path: Path, fit: Any) -> None:
    """The classes differ at the left end of oblong images alone, which a square crop cuts off."""
    random, files = np.random.default_rng(0), {}
    for number in range(24):
        pixels = random.integers(60, 140, (32, 96, 3), np.uint8)
        pixels[4:28, 2:26] = (220, 30, 30) if number % 2 else (30, 200, 30)
        files[f"{'ab'[number % 2]}/{number}.png"] = encoded(Image.fromarray(pixels))
    root = put(tmp_path, files)
    found = fit_probe(
        "simple", scan_folder_tree(root).samples, root, classes=["a", "b"], weights_root=root,
        how=ProbeConfig(fit=fit, pad_colour=(9, 8, 7) if fit == "pad" else None),
    )  # fmt: skip
    assert found.preprocess.fit == fit
    assert found.preprocess.pad_colour == ((9, 8, 7) if fit == "pad" else None)
    assert (found.held_out_right == 24) == (fit != "crop")


def test_members_that_would_cut_a_square_see_all_of_the_images() -> None:
    network = create_model("b0", 2).eval()
    own = [Preprocess(), Preprocess(32, (32, 96)), Preprocess(crop=32, fit="pad")]
    teacher = Teacher([Member(network, lambda images: images, how) for how in own], "batch")
    seen = teacher.seeing("squash")
    fits = [(one.preprocess.fit, one.preprocess.crop) for one in seen.members]
    assert fits == [("squash", 224), ("crop", (32, 96)), ("pad", 32)] and seen.bn == "batch"
    assert teacher.seeing(None).identity == teacher.identity


def test_another_short_side_is_refused_where_nothing_is_cut() -> None:
    assert _resized_otherwise(Preprocess(), 240, "m").resize_short == 240
    assert _resized_otherwise(Preprocess(crop=32, fit="pad"), None, "m").resize_short == 32
    with pytest.raises(ParameterError, match=r"evaluation\.resize_short=240.*'pad'"):
        _resized_otherwise(Preprocess(crop=32, fit="pad"), 240, "m")
