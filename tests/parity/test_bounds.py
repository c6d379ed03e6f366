from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from migrate.gate import Outcome
from migrate.parity.bounds import Rate


@given(st.integers(1, 400), st.data())
def test_the_bounds_are_where_the_tail_has_five_percent(trials: int, data: st.DataObject) -> None:
    rate = Rate(data.draw(st.integers(0, trials)), trials)
    assert 0 <= rate.lower <= rate.value <= rate.upper <= 1
    if rate.events:
        assert binom.sf(rate.events - 1, trials, rate.lower) == pytest.approx(0.05, abs=1e-6)
    if rate.events < trials:
        assert binom.cdf(rate.events, trials, rate.upper) == pytest.approx(0.05, abs=1e-6)


def test_no_trial_decides_nothing() -> None:
    assert Rate(0, 0).decide(0.05) is Outcome.INCONCLUSIVE
    assert Rate(0, 0).trials_to_settle(0.05) is None
    assert math.isnan(Rate(0, 0).value)


def test_no_event_is_the_rule_of_three_not_zero() -> None:
    assert Rate(0, 300).upper == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(("margin", "n"), [(0.05, 59), (0.02, 149), (0.01, 299)])
def test_the_number_that_settles_it_settles_it_and_one_less_does_not(margin: float, n: int) -> None:
    assert Rate(0, 20).trials_to_settle(margin) == n
    assert Rate(0, n).decide(margin) is Outcome.PASS
    assert Rate(0, n - 1).decide(margin) is Outcome.INCONCLUSIVE


def test_a_rate_above_the_margin_is_settled_by_failing() -> None:
    n = Rate(5, 50).trials_to_settle(0.05)
    assert n is not None
    assert Rate(n // 10, n).decide(0.05) is Outcome.FAIL


def test_a_rate_at_the_margin_is_never_settled() -> None:
    assert Rate(5, 100).trials_to_settle(0.05) is None
