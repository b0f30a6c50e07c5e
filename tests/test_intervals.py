from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.errors import DataError

Z = 1.959963984540054


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bounds_are_where_the_score_test_turns(counted: tuple[int, int]) -> None:
    # By definition a bound p solves (share - p)^2 = z^2 p (1 - p) / n; no closed form is used here.
    hits, n = counted
    for bound in intervals.wilson_interval(hits, n):
        left, right = (hits / n - bound) ** 2, Z * Z * bound * (1 - bound) / n
        assert left == pytest.approx(right, rel=1e-6, abs=1e-12)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_the_share_and_stays_a_share(counted: tuple[int, int]) -> None:
    hits, n = counted
    low, high = intervals.wilson_interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1


def test_error_of_a_share_is_the_binomial_one() -> None:
    assert intervals.share_error(0.5, 100) == 0.05
    assert intervals.share_error(1.0, 7) == 0.0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_deviation_is_the_sample_standard_deviation(values: list[float]) -> None:
    assert intervals.deviation(tuple(values)) == pytest.approx(statistics.stdev(values), abs=1e-9)


def test_one_run_has_no_deviation() -> None:
    assert intervals.deviation((0.8,)) is None


def test_pooled_deviation_is_that_of_groups_about_their_own_means() -> None:
    groups = [(1.0, 2.0, 3.0), (10.0, 14.0), (5.0,)]
    # Squares about the means: 2 of the first, 8 of the second, with 2 + 1 degrees of freedom.
    assert intervals.pooled_deviation(groups) == (pytest.approx(math.sqrt(10 / 3)), 3)
    assert intervals.pooled_deviation([(1.0,), (2.0,)]) is None


@pytest.mark.parametrize(
    ("degrees", "printed"),
    [(1, 12.706), (2, 4.303), (4, 2.776), (10, 2.228), (30, 2.042), (math.inf, 1.960)],
)
def test_t_quantiles_are_those_of_the_printed_tables(degrees: float, printed: float) -> None:
    assert round(intervals.t_quantile(degrees), 3) == printed


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_mean_difference_of_single_runs_is_that_of_their_counts(
    right: list[tuple[bool, bool]],
) -> None:
    first, second = np.array(right).T
    paired = intervals.top1_difference(first, second)
    mean = intervals.mean_difference(first.astype(float), second.astype(float))
    assert mean.value == pytest.approx(paired.value)
    assert mean.error == pytest.approx(paired.error, abs=1e-12)


def test_nothing_is_paired_with_other_images() -> None:
    with pytest.raises(DataError, match="3 and 2 images"):
        intervals.mean_difference(np.zeros(3), np.zeros(2))
