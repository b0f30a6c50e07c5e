"""Files that are whole or absent, also after a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.training.checkpoint import save_checkpoint


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made to survive a power cut, and what is renamed, in order."""
    seen: list[str] = []

    def noting(act: Callable[..., Any], words: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            seen.append(words(*args))
            return act(*args)

        return call

    def synced(handle: int) -> str:
        return f"fsync {Path(f'/proc/self/fd/{handle}').readlink().name}"

    def moved(source: Path, target: Path) -> str:
        return f"rename {target.name}"

    monkeypatch.setattr(os, "fsync", noting(os.fsync, synced))
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, noting(getattr(Path, name), moved))
    return seen


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(
    calls: list[str], tmp_path: Path
) -> None:
    write_text(tmp_path / "a.txt", "whole")
    written, renamed, named = calls
    assert written.startswith("fsync .a.txt.") and written.endswith(".tmp")
    assert (renamed, named) == ("rename a.txt", f"fsync {tmp_path.name}")


def test_every_file_of_a_checkpoint_is_on_the_disk_before_the_checkpoint_has_its_name(
    calls: list[str], tmp_path: Path
) -> None:
    parts = {"model": torch.zeros(3), "progress": {"step": 1}}
    save_checkpoint(tmp_path, 1, parts, identity={}, keep=1)
    at = calls.index("rename step=00000001")
    assert {"fsync model.pt", "fsync progress.pt", "rename manifest.json"} <= set(calls[:at])
    assert calls[at - 1].startswith("fsync .step=00000001."), "the names in its folder too"
    assert calls[at + 1 :] == [f"fsync {tmp_path.name}"]
