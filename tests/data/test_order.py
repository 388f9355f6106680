from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmr_skel.data.order import BLOCK, Order, Stratum, make_strata
from hmr_skel.data.quality import ChosenRows
from hmr_skel.errors import UserError

STRATA = (Stratum("a", 700, np.arange(130)), Stratum("b", 299, np.arange(130, 150)), Stratum("c", 1, np.array([150])))


def chosen(*sizes):
    source = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
    names = ["a", "b", "c"][: len(sizes)]
    return ChosenRows(np.arange(len(source)), np.zeros(len(source), bool), source, names, {})


@given(start=st.integers(0, 5000), count=st.integers(1, 2500), seed=st.integers(0, 3))
def test_any_part_of_the_stream_is_what_it_is_in_the_whole(start, count, seed):
    whole = Order(STRATA, seed).at(0, 7500)
    part = Order(STRATA, seed).at(start, count)
    for all_of_it, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(some, all_of_it[start : start + count])


def test_every_row_once_in_every_pass():
    rows, epochs, _ = Order((Stratum("all", BLOCK, np.arange(333)),), 1).at(0, 333 * 7)
    orders = rows.reshape(7, 333)
    for number in range(7):
        assert sorted(orders[number]) == list(range(333))
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(7), 333))
    assert len({tuple(order) for order in orders.tolist()}) == 7


def test_every_source_has_its_share_of_every_block_and_its_own_passes():
    rows, epochs, labels = Order(STRATA, 5).at(0, 4 * BLOCK)
    for block in labels.reshape(4, BLOCK):
        assert np.bincount(block).tolist() == [700, 299, 1]
    assert (rows < 130).sum() == 2800
    for label, stratum in enumerate(STRATA):
        own, passes = rows[labels == label], epochs[labels == label]
        for number in range(passes.max()):  # the last may be unfinished
            assert sorted(own[passes == number]) == stratum.indices.tolist()
    assert np.abs(np.diff(np.flatnonzero(labels == 1))).max() < 40  # spread, not in a lump


def test_seeds_differ_and_resuming_far_away_is_as_quick():
    first, second = (Order(STRATA, seed).at(10**12, 64)[0] for seed in (0, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, Order(STRATA, 0).at(10**12, 64)[0])


def test_substitutes_are_of_the_same_source_and_depend_on_the_position_alone():
    order = Order(STRATA, 5)
    _, _, labels = order.at(90, 50)
    many = order.substitutes(90, labels, 8)
    assert many.shape == (50, 8)
    for label, stratum in enumerate(STRATA):
        assert np.isin(many[labels == label], stratum.indices).all()
    np.testing.assert_array_equal(many[20:], order.substitutes(110, labels[20:], 8))
    assert len(np.unique(many[labels == 0])) > 80


@pytest.mark.parametrize(
    ("mixture", "shares"),
    [
        (None, {"all": 1000}),
        ({"a": 1.0, "b": 1.0}, {"a": 500, "b": 500}),
        ({"a": 2.0, "b": 1.0}, {"a": 667, "b": 333}),
        ({"a": 0.9999, "b": 0.0001}, {"a": 999, "b": 1}),
        ({"b": 7.0, "c": 0.0}, {"b": 1000}),
    ],
)
def test_weights_become_shares(mixture, shares):
    strata = make_strata(chosen(40, 30, 5), mixture, Path("x"))
    assert {stratum.name: stratum.share for stratum in strata} == shares
    assert sum(len(stratum.indices) for stratum in strata) == (
        75 if mixture is None else sum({"a": 40, "b": 30, "c": 5}[name] for name in shares)
    )


@pytest.mark.parametrize("name", ["d", "c"])
def test_a_source_without_rows_is_named(name):
    with pytest.raises(UserError, match=rf"source '{name}', of which x has no rows to use. It has: a, b"):
        make_strata(chosen(40, 30, 0), {"a": 1.0, name: 0.1}, Path("x"))


@pytest.mark.parametrize("mixture", [{}, {"a": 0.0}, {"a": float("inf")}])
def test_a_mixture_of_nothing_is_refused(mixture):
    with pytest.raises(UserError, match="finite weight"):
        make_strata(chosen(4), mixture, Path("x"))
