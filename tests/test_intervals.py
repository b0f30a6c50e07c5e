from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgnetv2_pipeline import intervals

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
