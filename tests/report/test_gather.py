import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitting.config import RECIPES, FitConfig
from hmr_skel.body.dofs import DOF_NAMES, limits
from hmr_skel.body.inside import bones_outside
from hmr_skel.data.load import Shards
from hmr_skel.data.meta import load_meta, meta_text
from hmr_skel.errors import UserError
from hmr_skel.report import tables
from hmr_skel.report.bodies import choose_picks, choose_sample, measure, pose_row
from hmr_skel.report.gather import Bins, gather
from tests.report.conftest import HARMFUL_SOURCE, REJECTS, SOURCES, write_dataset, write_manifest


@pytest.fixture(scope="module")
def dataset(small):
    return gather(small.folder)


def test_what_is_counted(dataset, small):
    assert len(dataset) == 24
    assert dataset.name == "small"
    assert dataset.sources == [*SOURCES, "lost"]
    found = {one["name"]: (one["kept"], one["rejected"], one["fitted"]) for one in tables.by_source(dataset)}
    assert found == {"street": (14, 2, 14), HARMFUL_SOURCE: (6, 0, 6), "given": (4, 0, 0), "lost": (0, 1, 0)}
    total = tables.totals(dataset)
    assert (total["read"], total["kept"], total["rejected"]) == (27, 24, 3)
    assert (total["fitted"], total["given"]) == (20, 4)
    assert total["violations"] == 3  # two that were fitted, one that was given
    work = {name: sum(meta["seconds"][name] for meta in dataset.metas) for name in ("fit", "total")}
    assert (work["fit"], work["total"] > 4) == (2.0, True)  # as written there, and the time of writing
    assert total["rows_per_s"] == pytest.approx(27 / work["total"])
    v2v = small.distances_mm.mean(1)
    assert total["v2v_mm"]["median"] == pytest.approx(np.median(v2v), abs=1e-3)
    assert total["v2v_mm"]["p99"] == pytest.approx(np.quantile(v2v, 0.99), abs=1e-3)
    assert dataset.status["street"] == {"at_limit": 5, "converged": 9}


def test_rejects_by_reason(dataset):
    assert tables.by_reason(dataset) == [
        {"reason": "betas", "count": 2, "sources": ["2 of street"], "example": REJECTS[0].detail},
        {"reason": "box", "count": 1, "sources": ["1 of lost"], "example": REJECTS[2].detail},
    ]


def test_angles_and_what_a_limit_holds(dataset, small):
    knee = DOF_NAMES.index("knee_angle_r")
    q = np.stack(small.table["skel_q"].to_numpy())
    degrees = np.rad2deg(q[:, knee])
    assert dataset.angles[knee].most == pytest.approx(degrees.max(), abs=1e-3)
    assert dataset.angles[knee].counts.sum() == 24
    assert dataset.held[knee, 1] == 3  # the first row of each source
    held = tables.held_dofs(dataset)
    assert held[0] == {"name": "knee_angle_r", "share": 3 / 24, "bound": pytest.approx(160)}


def test_rows_that_are_shown(dataset):
    v2v = dataset.errors["v2v_mm"]
    picks = choose_picks(dataset)
    assert picks["Best fit"] == np.nanargmin(v2v)
    assert picks["Worst fit"] == np.nanargmax(v2v)
    assert v2v[picks["Median fit"]] == np.sort(v2v[:20])[9]
    other = {"Worst of street", f"Worst of {HARMFUL_SOURCE}"} & set(picks)
    assert len(other) == 1  # one of the two sources has the worst of all
    assert choose_picks(dataset) == choose_picks(dataset)


def test_the_sample_is_even_and_bounded(dataset, monkeypatch):
    np.testing.assert_array_equal(choose_sample(dataset), np.arange(20))  # all that were fitted
    monkeypatch.setattr("hmr_skel.report.bodies.MOST_MEASURED", 10)
    monkeypatch.setattr("hmr_skel.report.bodies._LEAST_OF_A_SOURCE", 3)
    np.testing.assert_array_equal(choose_sample(dataset), [0, 3, 6, 10, 13, 14, 15, 16, 18, 19])


def test_errors_are_measured_anew_from_the_parameters(dataset, small, open_body_dir):
    """Against distances that another code made in float64."""
    from hmr_skel.body.joints import SKEL_PARTS
    from hmr_skel.convert.fit import Bodies

    bodies = Bodies(open_body_dir)
    sample = np.array([0, 5, 15, 19])
    measured = measure(dataset.rows, sample, bodies)
    truth = small.distances_mm[sample]
    np.testing.assert_allclose(measured.v2v_mm, truth.mean(1), atol=1e-3)
    np.testing.assert_allclose(measured.by_vertex_mm, truth.mean(0), atol=5e-3)
    assert measured.high_mm - 1 <= np.quantile(truth, 0.99) <= measured.high_mm
    bone = bodies.skel("male").weights.argmax(1).numpy()
    for name, values in measured.by_part_mm.items():
        np.testing.assert_allclose(values, truth[:, np.isin(bone, SKEL_PARTS[name])].mean(1), atol=5e-3)
    assert {"hands", "head", "trunk"} <= set(measured.by_part_mm)
    posed, faces = (pose_row(dataset.rows, row, bodies) for row in sample.tolist()), bodies.skel("male").faces
    outside = [bones_outside(one.bones[::16], one.skin, faces) > 0.002 for one in posed]
    assert measured.bones_outside == pytest.approx(np.mean(outside))


def test_nothing_but_rejects(tmp_path, small):
    write_dataset(tmp_path / "set", small.manifest, small.table.slice(0, 0), REJECTS)
    with pytest.raises(UserError, match="has no rows: 3 were rejected and none was kept"):
        gather(tmp_path / "set")


def test_limits_are_those_of_the_recipe(tmp_path, small, open_body_dir, monkeypatch):
    """SKEL's own table lets a knee bend by 2.4 rad, and leaves the toes free."""
    monkeypatch.setitem(RECIPES, "other", lambda: FitConfig(limits="skel"))
    manifest = write_manifest(tmp_path, open_body_dir, recipe="other")
    write_dataset(tmp_path / "set", manifest, small.table)
    dataset = gather(tmp_path / "set")
    assert dataset.limits == "skel"
    knee = DOF_NAMES.index("knee_angle_r")
    shown = next(one for one in tables.all_dofs(dataset) if one["name"] == "knee_angle_r")
    assert shown["high"] == pytest.approx(np.rad2deg(limits("skel")[knee, 1]))
    assert shown["high"] != pytest.approx(160)
    assert dataset.held[knee, 1] == 0  # 160 deg is a bound of the default table alone


def test_an_old_dataset_cannot_tell_which_rows_are_doubtful(small):
    dataset = gather(small.folder)
    assert isinstance(tables.totals(dataset)["doubtful"], int)
    old = [name for name in dataset.rows.columns if name != "push"]
    assert tables.totals(replace(dataset, rows=Shards(dataset.rows.paths, old)))["doubtful"] is None


@pytest.mark.parametrize("made_from", [{"recipe": {}}, {"recipe": {"limits": "of tomorrow"}}])
def test_a_meta_file_of_another_version(tmp_path, small, made_from):
    """Sound by its checksum, but it does not say what the rows were fitted with in words that are known."""
    shutil.copytree(small.folder, tmp_path / "set")
    path = tmp_path / "set" / "meta" / "shard-00001-of-00002.json"
    path.write_text(meta_text(load_meta(path) | {"made_from": made_from}))
    with pytest.raises(UserError, match=r"shard 1 was fitted with unknown limits.*Build"):
        gather(tmp_path / "set")


@pytest.mark.parametrize("kind", ["data", "rejects"])
def test_a_missing_file(tmp_path, small, kind):
    shutil.copytree(small.folder, tmp_path / "set")
    next((tmp_path / "set" / kind).glob("*-00001-*")).unlink()
    with pytest.raises(UserError, match=rf"{kind}-?.*-00001-of-00002\.parquet: missing.*hmr-skel verify"):
        gather(tmp_path / "set")


# --- values in bins ---

VALUES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=200)


@settings(max_examples=40)
@given(VALUES, VALUES, st.floats(0, 1))
def test_quantiles_are_right_to_a_bin(first, second, share):
    bins = Bins(-5.0, 5.0, 100)
    bins.add(np.array(first))
    bins.add(np.array([*second, np.nan, np.inf]))  # what is not finite does not count
    values = np.sort(first + second)
    assert len(bins) == len(values)
    assert (bins.least, bins.most) == (values[0], values[-1])
    assert bins.rms == pytest.approx(np.sqrt(np.mean(values**2)))
    # Between the values that numpy's two strict conventions give, widened by one bin.
    low, high = (np.quantile(values, share, method=method) for method in ("lower", "higher"))
    assert low - 0.101 <= bins.quantile(share) <= high + 0.101
