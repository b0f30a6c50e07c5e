"""The harness of the mutation tests finds what it is there to find."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.errors import DataError
from mutation import remade, run_mutations

BAD = 3  # the case among four in which something happens


def numbered(rng: random.Random) -> tuple[bytes, Any]:
    content = rng.randbytes(8)
    return content, content.hex()


def bad_case(path: Path) -> bool:
    return path.read_bytes() == remade(numbered, 0, BAD)[0]


def right(path: Path, known: Any) -> str:
    assert path.read_bytes().hex() == known and path.name == "a.tar"
    if bad_case(path):
        raise DataError("one line")
    return "read"


def two_lines(path: Path, known: Any) -> str:
    if bad_case(path):
        raise DataError("two\nlines")
    return "read"


def stray(path: Path, known: Any) -> str:
    if bad_case(path):
        raise KeyError("stray")
    return "read"


def greedy(path: Path, known: Any) -> str:
    if bad_case(path):
        bytearray(200_000_000)
    return "read"


def endless(path: Path, known: Any) -> str:
    while bad_case(path):
        pass
    return "read"


def waiting(path: Path, known: Any) -> str:
    if bad_case(path):
        time.sleep(60)
    return "read"


def test_refusals_in_one_line_and_right_values_are_no_fault():
    report = run_mutations(numbered, count=4, seed=0, check=right, name="a.tar")
    assert not report.faults, report
    assert report.verdicts == {"read": 3, "refused": 1}


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (two_lines, "DataError of 2 lines"),
        (stray, "KeyError: 'stray'"),
        (greedy, "MemoryError"),
        (endless, "not done after 0.3 CPU seconds"),
        (waiting, "waits: not done after 3.6 seconds"),
    ],
)
def test_a_fault_is_told_with_its_case_and_the_others_go_on(check, said):
    report = run_mutations(numbered, count=5, seed=0, check=check, memory=100_000_000, seconds=0.3)
    assert [fault.case for fault in report.faults] == [BAD]
    assert said in report.faults[0].what and report.verdicts == {"read": 4}
