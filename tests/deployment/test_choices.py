"""Whatever knows something of each precision or engine knows it of all of them, and of no other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import pytest

from hgnetv2_pipeline.deployment import choices, self_test
from hgnetv2_pipeline.deployment.choices import (
    ENGINES,
    FILE_PRECISIONS,
    LOWER,
    PRECISIONS,
    TORCH_MODES,
)
from hgnetv2_pipeline.deployment.engines import with_torch
from hgnetv2_pipeline.deployment.export import gate
from hgnetv2_pipeline.deployment.kit import plans
from hgnetv2_pipeline.deployment.kit.libraries import LIBRARIES
from hgnetv2_pipeline.deployment.timing import latency
from hgnetv2_pipeline.training import config, step
from hgnetv2_pipeline.training.stored_logits import replay

AMP = get_args(get_args(config.Amp)[0])


@pytest.mark.parametrize(
    ("table", "known"),
    [
        (choices.MODULES, ENGINES),
        (choices.NEEDS, ENGINES),
        (choices.FILES, ENGINES),
        (self_test.ALLOWED, PRECISIONS),
        (latency.BYTES, PRECISIONS),
        (gate.MAX_DROP, FILE_PRECISIONS),
        (gate.MAX_RMS, FILE_PRECISIONS),
        (step.AMP, AMP),
        (replay.TOLERANCE, AMP),
    ],
)
def test_a_table_has_a_row_for_each_and_no_other(table: Iterable[str], known: tuple[str]) -> None:
    assert set(table) == set(known)


def test_what_an_engine_computes_in_and_the_file_it_needs_for_that_are_known() -> None:
    for files in choices.FILES.values():
        assert set(files) <= set(PRECISIONS)
        assert set(files.values()) <= {*FILE_PRECISIONS, ""}
    assert set(with_torch.KINDS) == set(choices.FILES["torch"])


def test_the_sets_are_parts_of_each_other() -> None:
    assert plans.PRECISIONS == PRECISIONS
    assert (*plans.CAPABILITIES, "all") == choices.PLAN_TARGETS
    assert set(LIBRARIES) < set(choices.GPU_ENGINES)
    assert {*LOWER, "fp32"} == set(FILE_PRECISIONS) == set(PRECISIONS) - {"tf32"}
    parts: list[Any] = [*choices.GPU_ENGINES, *choices.CPU_ENGINES, "torch", *TORCH_MODES]
    assert parts == list(ENGINES)
    assert set(choices.NAMED_ONLY) < set(ENGINES)
