"""SMPL predictions: read row for row as a benchmark's label file, and evaluated before and after conversion."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.conversion import RULES, conversion_cost
from hmr_skel.convert.fit import fit_clips
from hmr_skel.errors import UserError
from hmr_skel.evaluate.ground_truth import joint_names
from hmr_skel.evaluate.metrics import mpjpe_mm
from hmr_skel.open_data.labels import make_labels
from hmr_skel.rows import SmplParams
from hmr_skel.two_stage import evaluate_predictions, posed_pair, read_predictions


@pytest.fixture
def arrays(stand_in) -> dict[str, np.ndarray]:
    labels = stand_in.labels
    return {"pose": labels["pose_cam"], "betas": labels["shape"]}


def test_rows_in_order_or_by_image_names(opened, arrays, tmp_path):
    _, rows, _ = opened("emdb")
    np.savez(tmp_path / "p.npz", **arrays)
    clip = read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    np.testing.assert_array_equal(clip.pose.reshape(6, 72), arrays["pose"])
    assert set(clip.gender) == {"neutral"}  # what predictions are, where nothing is said
    some = rows.take(np.array([4, 1]))
    clip = read_predictions(tmp_path / "p.npz", some, rows.imgname, "male")
    assert clip.number.tolist() == [4, 1]
    np.testing.assert_array_equal(clip.pose.reshape(2, 72), arrays["pose"][[4, 1]])
    assert set(clip.gender) == {"male"}
    backwards = {key: values[::-1] for key, values in arrays.items()}
    np.savez(tmp_path / "p.npz", **backwards, imgname=rows.imgname[::-1].astype(str))
    clip = read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    np.testing.assert_array_equal(clip.pose.reshape(6, 72), arrays["pose"])
    np.savez(tmp_path / "p.npz", **arrays, imgname=np.array([f"other/{i}.jpg" for i in range(6)]))
    with pytest.raises(UserError, match=r"no prediction for 6 of 6 rows, the first being the image 'P0/00_outdoor"):
        read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)


def test_names_that_do_not_tell_rows_apart_are_compared(opened, arrays, tmp_path):
    _, rows, _ = opened("3dpw")
    shared = np.array(["a.jpg"] * 3 + ["b.jpg"] * 3)
    rows = replace(rows, imgname=rows.imgname.copy())  # the file is read once for all tests
    rows.imgname[:] = shared
    np.savez(tmp_path / "p.npz", **arrays, imgname=shared)
    assert len(read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)) == 6
    np.savez(tmp_path / "p.npz", **arrays, imgname=shared[::-1])
    with pytest.raises(UserError, match=r"row 0 is of 'b\.jpg', in the label file of 'a\.jpg'"):
        read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)


def test_what_does_not_match(opened, arrays, tmp_path):
    _, rows, _ = opened("3dpw")
    np.savez(tmp_path / "p.npz", **{key: values[:5] for key, values in arrays.items()})
    with pytest.raises(UserError, match=r"has 5 rows, the label file 6"):
        read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    people = {i: {key: values[:3] for key, values in arrays.items()} | {"gender": "male"} for i in range(2)}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(people))
    with pytest.raises(UserError, match=r"holds 2 people's tracks"):
        read_predictions(tmp_path / "p.pkl", rows, rows.imgname, None)
    np.savez(tmp_path / "p.npz", **arrays, gender=np.array(["m", "x", "f", "m", "f", "m"]))
    with pytest.raises(UserError, match=r"'gender' is \['male', 'x', 'female'\]"):
        read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    clip = read_predictions(tmp_path / "p.npz", rows, rows.imgname, "neutral")
    assert set(clip.gender) == {"neutral"}


@pytest.fixture
def predicted(opened, stand_in, tmp_path):
    """The truth of 3DPW as predictions, in each row's own gender."""
    benchmark, rows, truth = opened("3dpw")
    path = stand_in.folder / "labels" / benchmark.labels
    return read_predictions(path, rows, rows.imgname, None), rows, truth


def test_the_truth_is_off_by_what_conversion_moves(predicted, bodies):
    clip, rows, truth = predicted
    found = evaluate_predictions(clip, rows, truth, bodies)
    assert found.stages["smpl"]["mpjpe_mm"].max() < 2e-3
    assert found.stages["smpl"]["pve_mm"].max() < 2e-3
    assert found.rows.tolist() == list(range(6))
    assert found.left_out == 0
    skel = found.stages["skel"]
    assert 1 < skel["mpjpe_mm"].mean() < 15
    assert skel["q"].shape == (6, 46)
    # By hand, from the converted bodies themselves.
    before, after = posed_pair(fit_clips([clip], bodies)[0], bodies)
    joints = [truth.regressor(vertices) for vertices in (before, after)]
    rule = truth.benchmark.joints
    torch.testing.assert_close(
        skel["mpjpe_mm"], mpjpe_mm(joints[1], joints[0], rule.root, rule.scored), atol=0.01, rtol=0
    )
    moved = 1000 * (joints[1] - joints[0]).norm(dim=-1).mean(0)
    np.testing.assert_allclose(found.moved_mm, moved.numpy(), atol=0.01)
    assert found.v2v_mm == pytest.approx(1000 * (after - before).norm(dim=-1).mean().item(), abs=0.02)
    assert len(joint_names(rule)) == len(found.moved_mm)


@pytest.mark.parametrize("name", ["moyo", "h36m-p2"])
def test_every_benchmark_with_a_third_dimension(opened, stand_in, bodies, tmp_path, name):
    """Predictions of the neutral SMPL that the labels were made of."""
    benchmark, rows, truth = opened(name)
    np.savez(tmp_path / "p.npz", pose=stand_in.labels["pose_cam"], betas=stand_in.labels["shape"])
    clip = read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    found = evaluate_predictions(clip, rows, truth, bodies)
    for metric in benchmark.metrics:
        before, after = (found.stages[stage][metric] for stage in ("smpl", "skel"))
        assert before.shape == after.shape == (6,)
        assert (after - before).abs().max() < 25


def test_rows_that_cannot_be_converted_are_left_out_on_both_sides(predicted, bodies):
    clip, rows, truth = predicted
    pose = clip.pose.copy()
    pose[2] = np.nan
    found = evaluate_predictions(replace(clip, pose=pose), rows, truth, bodies)
    assert found.rows.tolist() == [0, 1, 3, 4, 5]
    assert found.left_out == 1
    assert {len(columns["mpjpe_mm"]) for columns in found.stages.values()} == {5}


@pytest.fixture(scope="module")
def people(tmp_path_factory, open_body_dir) -> SmplParams:
    path = tmp_path_factory.mktemp("people") / "labels.npz"
    make_labels(path, 24, 5, open_body_dir)
    labels = np.load(path)
    pose = torch.from_numpy(labels["pose_cam"]).reshape(-1, 24, 3)
    return SmplParams(pose[:, 0], pose[:, 1:], *(torch.from_numpy(labels[k]) for k in ("shape", "trans_cam")))


def test_what_conversion_costs(people, bodies, monkeypatch):
    """On generated people, whose poses SKEL can nearly take, about a millimetre; of a fit that moves nothing, none."""
    sequences = [f"{i // 4}" for i in range(24)]
    found = conversion_cost(people, sequences, bodies, skel_gender="male", kinds=("noise",))["noise"]
    assert (found["rows"], found["left_out"]) == (24, 0)
    for name, of in found["joint_sets"].items():
        one = of["mpjpe_mm"]
        assert one["after"] - one["before"] == pytest.approx(one["cost"], abs=1e-3)
        assert one["ci95"][0] < one["cost"] < one["ci95"][1]
        assert 50 < one["before"] < 75
        assert -1.5 < one["cost"] < 1.5
        assert len(of["joints"]) == len(RULES[name].scored)
        by_joint = [values["cost_mm"] for values in of["joints"].values()]
        assert np.mean(by_joint) == pytest.approx(one["cost"], abs=0.01)
        assert 1 < of["moved_mm"] < 20
    monkeypatch.setattr("bench.conversion.posed_pair", lambda clip, bodies: (posed_pair(clip, bodies)[0],) * 2)
    found = conversion_cost(people[:8], [None] * 8, bodies, kinds=("noise",))["noise"]
    for of in found["joint_sets"].values():
        assert of["mpjpe_mm"]["cost"] == of["pve_mm"]["cost"] == of["moved_mm"] == 0
