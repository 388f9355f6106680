import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmr_skel.report.gather import Bins

VALUES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=200)


@given(VALUES, VALUES, st.floats(0, 1))
def test_quantiles_are_right_to_a_bin(first, second, share):
    bins = Bins(-5.0, 5.0, 100)
    bins.add(np.array(first))
    bins.add(np.array(second))
    values = np.sort(first + second)
    assert len(bins) == len(values)
    assert (bins.least, bins.most) == (values[0], values[-1])
    assert bins.rms == pytest.approx(np.sqrt(np.mean(values**2)))
    # Between the values that numpy's two strict conventions give, widened by one bin.
    low, high = (np.quantile(values, share, method=method) for method in ("lower", "higher"))
    assert low - 0.101 <= bins.quantile(share) <= high + 0.101


def test_what_is_not_a_number_or_beyond_the_ends():
    bins = Bins(0.0, 10.0, 10)
    bins.add(np.array([np.nan, -3.0, 4.5, 99.0, np.inf]))
    assert len(bins) == 3
    assert bins.counts[[0, 4, 9]].tolist() == [1, 1, 1]
    assert (bins.least, bins.most) == (-3, 99)


def test_nothing():
    bins = Bins(0.0, 1.0, 2)
    bins.add(np.array([np.nan]))
    assert len(bins) == 0
    assert np.isnan(bins.quantile(0.5))
    assert np.isnan(bins.rms)
