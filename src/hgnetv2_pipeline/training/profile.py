"""Some steps of a run under torch.profiler: what the time of a step goes into, operation by
operation."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hgnetv2_pipeline.durable import write_aside, write_text
from hgnetv2_pipeline.training.config import ProfileConfig

if TYPE_CHECKING:
    from hgnetv2_pipeline.input.batches import Batch

_log = logging.getLogger(__name__)

FOLDER = "profile"
ROWS = 30
NOTHING = ProfileConfig(start=1, steps=0)


@contextmanager
def profile_steps(
    batches: Iterator[Batch], config: ProfileConfig, out: Path, device: torch.device
) -> Iterator[Iterator[Batch]]:
    """``batches`` as they are, recording the steps between some of them as ``config`` says.

    A step lasts from asking for its batch to asking for the next: waiting for images, and an
    evaluation that falls between, are in the picture. Writes ``profile/steps=10-14.trace.json``
    (Chrome's format) and ``.txt`` (the operations that took longest) below ``out``, also where the
    run ends within the steps.
    """
    if not config.steps:
        yield batches
        return
    recording = _Recording(config, out / FOLDER, device)
    try:
        yield recording.over(batches)
    finally:
        recording.finish()


class _Recording:
    def __init__(self, config: ProfileConfig, folder: Path, device: torch.device) -> None:
        self._config, self._folder, self._device = config, folder, device
        self._profiler: torch.profiler.profile | None = None
        self._first = self._last = 0

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        taken = 0
        while True:
            if taken == self._config.start:
                self._begin()
            elif taken == self._config.start + self._config.steps:
                self.finish()
            elif self._profiler is not None:
                self._profiler.step()
            batch = next(batches, None)
            if batch is None:
                return
            if taken == self._config.start:
                self._first = batch.step
            self._last = batch.step
            taken += 1
            yield batch

    def _begin(self) -> None:
        # The library under it writes to the terminal, and errors where there is no GPU.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=activities)
        self._profiler.start()

    def finish(self) -> None:
        """Stop recording, write what was recorded and say where; nothing if nothing was."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        place = self._folder / f"steps={self._first}-{self._last}"
        trace, table = Path(f"{place}.trace.json"), Path(f"{place}.txt")
        with write_aside(trace) as aside:
            profiler.export_chrome_trace(str(aside))
        side = "cuda" if self._device.type == "cuda" else "cpu"
        found = profiler.key_averages()
        write_text(table, found.table(sort_by=f"self_{side}_time_total", row_limit=ROWS) + "\n")
        _log.info(
            "steps %d to %d profiled: %s (open it in https://ui.perfetto.dev or chrome://tracing), "
            "the longest operations in %s", self._first, self._last, trace, table.name,
        )  # fmt: skip
