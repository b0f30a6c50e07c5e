"""Spoiled weight files by the thousand: read as their own library reads them, or refused in a line.

W09 and W10 of the fault table. ``.pdparams`` has its own, in ``test_hostile_pickles``.
"""

from __future__ import annotations

import pytest
import weight_mutations as files

from mutation import run_mutations

COUNTS = [2_000, pytest.param(100_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("make", "check", "name"),
    [
        (files.make_pth, files.check_pth, "w.pth"),
        (files.make_pth_before_1_6, files.check_pth, "old.pth"),
        (files.make_safetensors, files.check_safetensors, "w.safetensors"),
    ],
)
def test_a_spoiled_weight_file_is_read_right_or_refused(make, check, name, count):
    report = run_mutations(make, count=count, seed=count, check=check, name=name)
    assert not report.faults, report
    assert report.verdicts["refused"] > count / 2
    assert report.verdicts["read"] > count / 100  # else the changes would not reach far
