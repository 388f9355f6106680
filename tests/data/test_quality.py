import numpy as np
import pytest

from hmr_skel.data.load import load_shards
from hmr_skel.data.quality import QualityConfig, choose_rows, one_gender
from hmr_skel.data.row_cache import open_rows
from hmr_skel.errors import UserError
from tests.data.sample_set import write_sample_set


@pytest.fixture(scope="module")
def table(sample_set):
    return load_shards(sample_set.path)


@pytest.fixture(scope="module")
def rows(table):
    return open_rows(table)


def test_by_default_every_row_is_taken_as_it_is(rows):
    chosen = choose_rows(rows, QualityConfig(), camera_needed=False)
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
    ],
)
def test_poor_rows_are_masked_or_dropped(rows, table, rule, poor):
    poor = poor(table)
    assert 0 < poor.sum() < 36
    masked = choose_rows(rows, QualityConfig(**rule), camera_needed=False)
    np.testing.assert_array_equal(masked.mask_skel, poor)
    assert len(masked.rows) == 36
    dropped = choose_rows(rows, QualityConfig(poor_skel="drop", **rule), camera_needed=False)
    np.testing.assert_array_equal(dropped.rows, np.flatnonzero(~poor))
    assert list(dropped.dropped.values()) == [poor.sum()]
    assert not dropped.mask_skel.any()


def test_what_was_not_fitted_has_no_error(rows):
    chosen = choose_rows(rows, QualityConfig(max_v2v_mm=0.0, poor_skel="drop"), camera_needed=False)
    np.testing.assert_array_equal(chosen.rows, np.arange(20, 36))


def test_cameras_and_keypoints_are_asked_for(rows, table):
    np.testing.assert_array_equal(choose_rows(rows, QualityConfig(), camera_needed=True).rows, np.arange(20))
    chosen = choose_rows(rows, QualityConfig(min_keypoints_2d=5), camera_needed=False)
    np.testing.assert_array_equal(chosen.rows, np.flatnonzero(table.valid("keypoints_2d")))
    assert chosen.dropped == {"too few keypoints": 4}


def test_sources_outside_the_mixture_are_left_out(rows):
    chosen = choose_rows(rows, QualityConfig(), camera_needed=False, wanted_sources=["far"])
    np.testing.assert_array_equal(chosen.rows, np.arange(20, 36))
    assert chosen.dropped == {"not being in the mixture": 20}
    with pytest.raises(UserError, match=r"the mixture has source fra, of which there are no rows.*: far, near"):
        choose_rows(rows, QualityConfig(), camera_needed=False, wanted_sources=["near", "fra"])


def test_no_row_left_says_why(rows):
    config = QualityConfig(max_v2v_mm=1.0, poor_skel="drop")
    with pytest.raises(UserError, match=r"none of 36 rows \(16 for having no camera, 20 for v2v above 1 mm\)"):
        choose_rows(rows, config, camera_needed=True)


def test_one_dataset_has_one_gender(rows, tmp_path):
    assert one_gender(rows, choose_rows(rows, QualityConfig(), camera_needed=False), "x") == "male"
    mixed = open_rows(load_shards(write_sample_set(tmp_path, ("male", "female"), with_images=False).path))
    with pytest.raises(UserError, match=r"x has 16 female and 20 male rows. Expected one gender"):
        one_gender(mixed, choose_rows(mixed, QualityConfig(), camera_needed=False), "x")
    assert one_gender(mixed, choose_rows(mixed, QualityConfig(), camera_needed=True), "x") == "male"


@pytest.mark.parametrize(
    "wrong", [{"max_v2v_mm": -1.0}, {"poor_skel": "hide"}, {"min_confidence": float("nan")}, {"statuses": ("fine",)}]
)
def test_senseless_rules_are_refused(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        QualityConfig(**wrong)
