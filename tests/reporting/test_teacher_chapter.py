"""The chapter about the teacher says who teaches, and what came of learning from the pool."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_inputs import teacher

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.reporting.blocks import Text
from hgnetv2_pipeline.reporting.chapters.teacher import teacher_blocks
from hgnetv2_pipeline.reporting.inputs import FileLedger


def texts(tmp_path: Path, record: dict[str, Any]) -> list[str]:
    write_json(tmp_path / "teacher.json", record)
    inputs: Any = SimpleNamespace(own={"teacher": tmp_path / "teacher.json"})
    return [b.text for b in teacher_blocks(inputs, FileLedger()) if isinstance(b, Text)]


@pytest.mark.parametrize("teaches", [True, False])
def test_self_training_is_reported_with_what_it_did_to_held_out_images(
    tmp_path: Path, teaches: bool
) -> None:
    record = teacher()
    record["self_training"] |= {"probes": ["simple", "vit"], "teaches": teaches}
    said, learnt = texts(tmp_path, record)
    assert said.startswith("The mean of 2 teaches")
    assert "simple and vit learnt from 420 of 1,500 images of the pool" in learnt
    assert "60 labelled images that were held out, 50 were right before and 48 after" in learnt
    assert learnt.endswith("It does not teach.") is not teaches


def test_without_a_rehearsal_the_report_says_that_nothing_is_known(tmp_path: Path) -> None:
    record = teacher()
    record["self_training"] |= {"held_out": 0, "held_out_right_before": 0, "teaches": True}
    learnt = texts(tmp_path, record)[1]
    assert learnt.endswith("too few labelled images for a rehearsal: whether it helps is unknown.")
    assert "0 were right" not in learnt


def test_without_self_training_there_is_no_word_of_it(tmp_path: Path) -> None:
    record = teacher()
    del record["self_training"]
    assert len(texts(tmp_path, record)) == 1
