"""Intervals: against scipy's, over recordings, and what has none."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from hmr_skel.evaluate.summary import groups_of, intervals, resampled, sequences_of, summarise


def test_scipy_agrees():
    values = np.random.default_rng(0).gamma(2, 30, 400)
    found = intervals({"mpjpe_mm": torch.from_numpy(values)}, np.arange(400), resamples=4000)["mpjpe_mm"]
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert found == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_recordings_are_drawn_whole():
    """Rows of a recording are all alike: as many numbers as recordings, and intervals as wide as those of them."""
    means = np.random.default_rng(1).normal(60, 10, 20)
    rows = np.repeat(means, 50)
    groups = groups_of([f"walk {i // 50}" for i in range(1000)])
    ours = intervals({"mpjpe_mm": torch.from_numpy(rows)}, groups, resamples=4000)["mpjpe_mm"]
    of_means = intervals({"mpjpe_mm": torch.from_numpy(means)}, np.arange(20), resamples=4000)["mpjpe_mm"]
    assert ours == pytest.approx(of_means, abs=1e-9)
    single = intervals({"mpjpe_mm": torch.from_numpy(rows)}, np.arange(1000), resamples=4000)["mpjpe_mm"]
    assert ours[1] - ours[0] > 5 * (single[1] - single[0])


def test_a_seed_gives_the_same_interval():
    values = {"mpjpe_mm": torch.randn(30, generator=torch.Generator().manual_seed(0))}
    groups = np.arange(30)
    assert intervals(values, groups, seed=1) == intervals(values, groups, seed=1)
    assert intervals(values, groups, seed=1) != intervals(values, groups, seed=2)


def test_one_recording_has_no_interval():
    assert intervals({"mpjpe_mm": torch.ones(3)}, np.zeros(3, int)) == {}
    assert summarise({"mpjpe_mm": torch.ones(3)}, ["a"] * 3, "j")["ci95"] == {}
    assert resampled(["a"] * 3)["groups"] == 1


def test_rows_without_a_recording_stand_for_themselves():
    names = ["a/1.jpg", "a/2.jpg", "b.jpg", "c.jpg"]
    sequences = sequences_of(names, r"^([^/]+)/")
    assert sequences == ["a", "a", None, None]
    assert groups_of(sequences).tolist() == [0, 0, 1, 2]
    assert resampled([None] * 4)["of"] == "rows"
    assert resampled(sequences)["of"] == "sequences"
