from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmr_skel.data.load import load_shards
from hmr_skel.data.selection import (
    BLOCK,
    STATUSES,
    ChosenRows,
    Order,
    QualityConfig,
    SampleConfig,
    Stratum,
    choose_rows,
    make_strata,
    one_gender,
)
from hmr_skel.errors import UserError
from tests.data.sample_set import write_sample_set


@pytest.fixture(scope="module")
def table(sample_set):
    return load_shards(sample_set.path)


def choose(table, missing_intrinsics="diagonal", mixture=None, **rules) -> ChosenRows:
    config = SampleConfig(quality=QualityConfig(**rules), missing_intrinsics=missing_intrinsics, mixture=mixture)
    return choose_rows(table, config)


def test_by_default_every_row_is_taken_as_it_is(table):
    chosen = choose(table)
    np.testing.assert_array_equal(chosen.rows, np.arange(36))
    assert not chosen.mask_skel.any()
    assert [chosen.sources[code] for code in chosen.source] == ["near"] * 20 + ["far"] * 16
    assert chosen.dropped == {}


@pytest.mark.parametrize(
    ("rule", "poor"),
    [
        ({"max_v2v_mm": 20.0}, lambda table: table["v2v_mm"] > 20),
        ({"max_abs_beta": 2.5}, lambda table: np.abs(table["skel_betas"]).max(1) > 2.5),
        ({"statuses": ("converged", "given")}, lambda table: table["status"] == "max_iterations"),
        ({}, lambda table: np.isin(table["status"], ["far", "implausible"])),
    ],
)
def test_poor_rows_are_masked_or_dropped(table, tmp_path, rule, poor):
    if not rule:  # what every recipe leaves out
        statuses = np.array(["given", *STATUSES])
        columns = pq.read_table(next(table.paths[0].parent.glob("train-*")))
        place = columns.column_names.index("status")
        columns = columns.set_column(place, "status", [statuses[np.arange(len(columns)) % len(statuses)]])
        pq.write_table(columns, tmp_path / "train-00000-of-00001.parquet")
        table = load_shards([tmp_path / "train-00000-of-00001.parquet"])
    poor, count = poor(table), len(table)
    assert 0 < poor.sum() < count
    masked = choose(table, **rule)
    np.testing.assert_array_equal(masked.mask_skel, poor)
    assert len(masked.rows) == count
    dropped = choose(table, poor_skel="drop", **rule)
    np.testing.assert_array_equal(dropped.rows, np.flatnonzero(~poor))
    assert list(dropped.dropped.values()) == [poor.sum()]
    assert not dropped.mask_skel.any()


def test_cameras_and_keypoints_are_asked_for(table):
    np.testing.assert_array_equal(choose(table, missing_intrinsics="drop").rows, np.arange(20))
    chosen = choose(table, min_keypoints_2d=5)
    np.testing.assert_array_equal(chosen.rows, np.flatnonzero(table.valid("keypoints_2d")))
    assert chosen.dropped == {"too few keypoints": 4}


def test_sources_outside_the_mixture_are_left_out(table):
    chosen = choose(table, mixture={"far": 1.0})
    np.testing.assert_array_equal(chosen.rows, np.arange(20, 36))
    assert chosen.dropped == {"not being in the mixture": 20}
    with pytest.raises(UserError, match=r"none of 36 rows \(36 for not being in the mixture\).*far, near"):
        choose(table, mixture={"fra": 1.0})


def test_one_dataset_has_one_gender(table, tmp_path):
    assert one_gender(table, choose(table), "x") == "male"
    mixed = load_shards(write_sample_set(tmp_path, ("male", "female"), with_images=False).path)
    with pytest.raises(UserError, match=r"x has 16 female and 20 male rows with a SKEL body"):
        one_gender(mixed, choose(mixed), "x")
    assert one_gender(mixed, choose(mixed, missing_intrinsics="drop"), "x") == "male"


@pytest.mark.parametrize(
    "wrong", [{"max_v2v_mm": -1.0}, {"poor_skel": "hide"}, {"min_confidence": float("nan")}, {"statuses": ("fine",)}]
)
def test_senseless_rules_are_refused(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        QualityConfig(**wrong)


STRATA = (Stratum("a", 700, np.arange(130)), Stratum("b", 299, np.arange(130, 150)), Stratum("c", 1, np.array([150])))


def rows_of(*sizes):
    source = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
    names = ["a", "b", "c"][: len(sizes)]
    return ChosenRows(np.arange(len(source)), np.zeros(len(source), bool), source, names, {})


@pytest.fixture(scope="module")
def whole():
    return Order(STRATA, 3).at(0, 7500)


@settings(max_examples=30)
@given(start=st.integers(0, 5000), count=st.integers(1, 2500))
def test_any_part_of_the_stream_is_what_it_is_in_the_whole(whole, start, count):
    part = Order(STRATA, 3).at(start, count)
    for all_of_it, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(some, all_of_it[start : start + count])


def test_every_source_has_its_share_of_every_block_and_its_own_passes():
    rows, epochs = Order(STRATA, 5).at(0, 4 * BLOCK)
    labels = np.digitize(rows, (130, 150))
    for block in labels.reshape(4, BLOCK):
        assert np.bincount(block).tolist() == [700, 299, 1]
    assert (rows < 130).sum() == 2800
    for label, stratum in enumerate(STRATA):
        own, passes = rows[labels == label], epochs[labels == label]
        for number in range(passes.max()):  # the last may be unfinished
            assert sorted(own[passes == number]) == stratum.indices.tolist()
    orders = [tuple(rows[(labels == 0) & (epochs == number)].tolist()) for number in range(21)]
    assert len(set(orders)) == 21
    assert np.abs(np.diff(np.flatnonzero(labels == 1))).max() < 40  # spread, not in a lump


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
    strata = make_strata(rows_of(40, 30, 5), mixture, Path("x"))
    assert {stratum.name: stratum.share for stratum in strata} == shares
    assert sum(len(stratum.indices) for stratum in strata) == (
        75 if mixture is None else sum({"a": 40, "b": 30, "c": 5}[name] for name in shares)
    )


@pytest.mark.parametrize("name", ["d", "c"])
def test_a_source_without_rows_is_named(name):
    with pytest.raises(UserError, match=rf"source '{name}', but x has no usable rows of it. It has: a, b"):
        make_strata(rows_of(40, 30, 0), {"a": 1.0, name: 0.1}, Path("x"))
