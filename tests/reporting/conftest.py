"""Inputs of a report as files, made again for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_inputs import write_inputs

from hgnetv2_pipeline.reporting.inputs import ReportInputs


@pytest.fixture
def report_inputs(tmp_path: Path) -> ReportInputs:
    return write_inputs(tmp_path / "data")
