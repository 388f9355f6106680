"""Intervals: against scipy's, over recordings, and what has none; and how often angles leave their ranges."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from hmr_skel.body.dofs import DOF_NAMES, limits
from hmr_skel.evaluate.summary import (
    HSMR_DOFS,
    excess_deg,
    groups_of,
    intervals,
    limit_rates,
    resampled,
    sequences_of,
    summarise,
)


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


KNEE, ELBOW = DOF_NAMES.index("knee_angle_r"), DOF_NAMES.index("elbow_flexion_l")


def test_the_zero_pose_and_the_limits_themselves_are_inside():
    bounds = limits()
    inside = np.zeros((3, 46))
    inside[1, 3:], inside[2, 3:] = bounds[3:].T.astype(np.float32)
    inside[1, :3] = 3.0  # the pelvis is free
    assert (excess_deg(inside) == 0).all()
    found = limit_rates(inside)
    assert (found["rows"], found["dofs"], found["bounded_dofs"], found["worst"]) == (0, 0, 43, {})


def test_by_hand():
    """Two of four rows bend a knee backwards, by 10 and 30 degrees; one of them overbends an elbow by 5 (limit 155)."""
    q = np.zeros((4, 46))
    q[0, KNEE], q[1, KNEE] = np.radians([-10, -30])
    q[1, ELBOW] = np.radians(160)
    found = limit_rates(q)
    assert found["rows"] == 0.5
    assert found["dofs"] == pytest.approx(3 / (4 * 43))
    assert found["max_deg"] == pytest.approx(30)
    assert list(found["worst"].items()) == [("knee_angle_r", 0.5), ("elbow_flexion_l", 0.25)]
    # HSMR's table ends elbows at 135 degrees: excesses are 10, 30 and 25 of 4 x 6 angles.
    hsmr = found["hsmr"]
    assert hsmr["0"] == pytest.approx({"share": 3 / 24, "mean_deg": 65 / 3, "median_deg": 25, "max_deg": 30})
    assert [hsmr[t]["share"] for t in ("5", "10", "20", "30")] == pytest.approx([3 / 24, 2 / 24, 2 / 24, 0], abs=1e-9)
    assert [DOF_NAMES[i] for i in HSMR_DOFS] == [
        "knee_angle_r", "knee_angle_l", "elbow_flexion_r", "elbow_flexion_l", "pro_sup_r", "pro_sup_l",
    ]  # fmt: skip


def test_whole_turns_do_not_matter():
    q = np.random.default_rng(0).normal(0, 0.8, (20, 46))
    turned = q + 2 * np.pi * np.random.default_rng(1).integers(-2, 3, q.shape)
    np.testing.assert_allclose(excess_deg(turned), excess_deg(q), atol=1e-9)
    assert limit_rates(turned)["hsmr"]["0"] == pytest.approx(limit_rates(q)["hsmr"]["0"])
