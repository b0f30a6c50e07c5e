"""torch.profiler by parameter: a trace and a table, and the run is the same run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.profile import NOTHING, profile_steps
from hgnetv2_pipeline.training.run import train_run

Job = Callable[..., RunSpec]


def test_profiled_steps_are_written_and_change_nothing(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        looked_at = train_run(job("profiled", profile={"start": 2, "steps": 3}))
    folder = looked_at.student.parent / "profile"
    assert sorted(path.name for path in folder.iterdir()) == [
        "steps=2-4.trace.json",
        "steps=2-4.txt",
    ]
    events = json.loads((folder / "steps=2-4.trace.json").read_text())["traceEvents"]
    names = [str(event.get("name")) for event in events]
    # As many backward passes of the classifier as steps were asked for.
    assert sum(name == "autograd::engine::evaluate_function: AddmmBackward0" for name in names) == 3
    table = (folder / "steps=2-4.txt").read_text()
    assert "aten::convolution_backward" in table or "aten::mkldnn_convolution" in table
    assert "Self CPU time total" in table
    assert "steps 2 to 4 profiled" in caplog.text
    assert "ui.perfetto.dev" in caplog.text
    plain = train_run(job("plain"))
    assert plain.student.read_bytes() == looked_at.student.read_bytes()
    assert not (plain.student.parent / "profile").exists()


def test_run_that_ends_within_the_profiled_steps_still_writes_them(
    job: Job, sigterm_in: Callable[[int], None]
) -> None:
    sigterm_in(3)
    spec = job("stopped", profile={"start": 1, "steps": 100})
    with pytest.raises(Interrupted):
        train_run(spec)
    assert (spec.out / "profile" / "steps=1-3.trace.json").is_file()


def test_off_means_the_batches_themselves(job: Job) -> None:
    import torch

    batches: Any = iter(())
    with profile_steps(batches, NOTHING, job("x").out, torch.device("cpu")) as shown:
        assert shown is batches
