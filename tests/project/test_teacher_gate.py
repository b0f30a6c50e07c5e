"""The gate of the teacher: what it must be better than, and what that is called."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.params import GateParams
from hgnetv2_pipeline.project.teaching.teacher import check_gate


def record(right: int, members: list[int], majority: int | None = None) -> dict[str, Any]:
    val: dict[str, Any] = {"n": 100, "top1_count": right, "members_top1_count": members}
    return {"val": val if majority is None else {**val, "majority_count": majority}}


@pytest.mark.parametrize(
    ("found", "baseline", "told"),
    [
        (
            record(80, [70, 74]),
            "members",
            "passed: .*80.00 % on val, the mean of its members 72.00",
        ),
        (record(67, [70, 74]), "members", "not passed: .*the mean of its members 72.00"),
        # One standard error of 68 of 100 is 4.66 points.
        (record(68, [70, 74]), "members", "gate: .*72.00 %, which 100 images cannot tell apart"),
        (record(80, [80], 30), "members", "passed: .*naming the largest class every time 30.00"),
        (
            record(30, [30], 30),
            "members",
            "not passed: .*naming the largest class every time 30.00",
        ),
        (record(30, [30], 100), "members", "gate: val has images of one class alone"),
        (record(30, [30]), "members", "gate: a teacher of one member has no members"),
        (record(80, [80], 30), "0.83", "not passed: .*the accuracy given 83.00"),
        (record(80, [80], 30), "0.79", "gate passed: .*the accuracy given 79.00"),
    ],
)
def test_a_teacher_is_compared_with_what_it_must_beat(
    found: dict[str, Any], baseline: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    identity: Any = None  # asked only where the baseline is a run
    with caplog.at_level(logging.INFO):
        check_gate(identity, GateParams(action="warn", baseline=baseline), found)
    assert re.search(told, caplog.text)
    stop = GateParams(action="stop", baseline=baseline)
    if "not passed" in told or "cannot tell" in told:
        with pytest.raises(DataError, match="a student cannot learn more from it"):
            check_gate(identity, stop, found)
    else:
        check_gate(identity, stop, found)
