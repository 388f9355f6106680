"""What a file says twice is refused where it differs, and what is not read is told."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from hmr_skel.convert import ReadOptions, Units
from hmr_skel.convert.formats import read_clips, read_files
from hmr_skel.errors import UserError
from tests.convert import layouts
from tests.convert.conftest import FRAMES, walk
from tests.convert.layouts import write

INCAM, SECOND = (walk(up="camera", seed=seed) for seed in (0, 1))
UPRIGHT = walk(up="y-up")
ALL = np.arange(FRAMES)


def test_two_frames_are_asked_for_and_a_wrong_one_is_refused(tmp_path: Path):
    path = write(layouts.wham(INCAM, UPRIGHT), tmp_path / "x.pkl")
    with pytest.raises(UserError, match="--which incam or global"):
        read_clips(path, ReadOptions())
    with pytest.raises(UserError, match=r"are y-up, and these people stand so, but --frame says camera"):
        read_clips(path, ReadOptions(which="global", frame="camera"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose": INCAM["pose"] + 0.1}, "'poses' and 'pose' both say the pose"),
        ({"body_pose": INCAM["pose"][:, 1:] * 2}, "'poses' and 'body_pose' both say the body"),
        ({"body_pose": INCAM["pose"].reshape(FRAMES, 72) * 2}, "'poses' and 'body_pose' both say the body"),
        ({"root_orient": INCAM["pose"][:, 0] + 0.5}, "'poses' and 'root_orient' both say the root"),
        ({"shape": np.ones(10)}, "'betas' and 'shape' both say the betas"),
        ({"transl": np.ones((FRAMES, 3))}, "'transl' and 'trans' both say the translation"),
        ({"fps": 30, "frame_rate": 120}, "'frame_rate' 120 and 'fps' 30 are different frame rates"),
        ({"model_type": "smpl", "jaw_pose": np.zeros((FRAMES, 3))}, "'model_type' says smpl, but it has 'jaw_pose'"),
        ({"model_type": "SUPR"}, "'model_type' is 'SUPR', which is not read"),
        ({"poses": INCAM["pose"][:, :22]}, "--model smplh or --model smplx"),  # a man may be SMPL-X's too
        ({"poses": INCAM["pose"][:, None]}, r"\(12, 1, 24, 3\): .*--rows frames or --rows people"),
        ({"trans": None, "Rh": INCAM["pose"][:, 0], "Th": INCAM["transl"]}, "'Rh' is the root of the pose once more"),
        ({"frame_ids": np.zeros(FRAMES, int)}, "several rows of frame 0"),
        ({"frame_ids": ALL[1:]}, "'frame_ids' has 11 for 12 rows"),
        ({"frame_ids": ["a"] * FRAMES}, "'frame_ids' holds no numbers"),
        ({"id": ALL // 2 + 0.5}, "'id' has fractions"),
        ({"valid": np.ones(3)}, "'valid' has 3 for 12 rows"),
        ({"valid": ["1"] * FRAMES}, "'valid' holds no numbers"),
        ({"valid": np.full(FRAMES, 0.5)}, "'valid' has other values than 0 and 1"),
        ({"has_smpl": np.ones(5)}, "'has_smpl' has 5 for 12 rows"),
        ({"has_smpl": np.array([None] * FRAMES)}, "'has_smpl' holds no numbers"),
        ({"valid": np.zeros(FRAMES, int)}, "seen in no frame"),
        ({"img_name": np.array([f"{i // 2}.jpg" for i in range(FRAMES)])}, "several rows of x are of one image"),
        ({"Th": np.ones((FRAMES, 3)), "Rh": np.ones((FRAMES, 3))}, "beside 'Th'"),
        (
            {"transl": layouts.columns(INCAM)["trans"], "camera_translation": np.ones(3)},
            "'camera_translation' other than",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict, message: str):
    c = layouts.columns(INCAM)
    arrays = {"poses": c["pose"], "betas": c["betas"], "trans": c["trans"], "gender": "male"}
    np.savez(tmp_path / "x.npz", **{key: value for key, value in (arrays | changes).items() if value is not None})
    with pytest.raises(UserError, match=message):
        read_clips(tmp_path / "x.npz", ReadOptions())


def test_what_is_not_read_is_said_and_louder_where_it_could_move_the_body(tmp_path: Path):
    c = layouts.columns(INCAM)
    arrays = {"poses": c["pose"], "betas": c["betas"], "trans": c["trans"], "gender": "male"}
    weak = {"camera": np.ones((FRAMES, 3)), "verts": np.zeros((FRAMES, 5, 3))}  # a camera is no translation
    np.savez(tmp_path / "x.npz", **arrays, **weak, offset=np.zeros((FRAMES, 3)), about="me")
    (clip,) = read_clips(tmp_path / "x.npz", ReadOptions())
    assert any("NOT USED" in note and "offset (12, 3)" in note for note in clip.notes)
    assert any("not used: camera, verts, about" in note for note in clip.notes)
    loud = {"frames": np.linspace(0, 1, FRAMES), "who": ["a"] * FRAMES, "visible": np.ones(3), "thetas": c["pose"]}
    loud |= {"R": np.eye(3), "T": np.ones(3), "cam2world": np.eye(4), "smpl_scaling": 90.0, "scale": np.ones(FRAMES)}
    loud |= dict.fromkeys(
        ("camera_valid", "image_mask", "conf_mask", "joints_visible", "scale_id", "img_seen", "img_frame_ids"), ALL % 2
    )
    loud |= {"image_pose": c["pose"], "cam_trans": c["trans"], "cam_R": np.tile(np.eye(3), (FRAMES, 1, 1))}
    np.savez(tmp_path / "y.npz", **arrays, **loud, body_pose=c["body"][1:])  # of other rows
    (clip,) = read_clips(tmp_path / "y.npz", ReadOptions())
    (note,) = (note for note in clip.notes if "used" in note.lower())
    named = note.partition("it could move or hide the body: ")[2]
    assert all(key in named.replace(",", "").split() for key in (*loud, "body_pose"))


def test_what_changes_nothing_is_said(tmp_path: Path):
    """An option that the file answers itself; a root beside EasyMocap's, whose body model turns by both."""
    vertices = np.random.default_rng(1).uniform(-0.9, 0.9, (FRAMES, 1000, 3)).astype("f4")
    options = ReadOptions(smpl_gender="male", zero_betas=True, model="smplx", units=Units(angles="rad"))
    (clip,) = read_clips(write({"vertices": vertices}, tmp_path / "x.pkl"), options)
    assert "--model and --angles and --betas zero changes nothing here" in clip.notes[-1]
    mocap = layouts.easymocap(UPRIGHT)
    mocap["poses"][:, 0] = 0.3
    (clip,) = read_clips(write(mocap, tmp_path / "x.pkl"), ReadOptions(zero_betas=True))
    assert any("--betas zero changes nothing" in note for note in clip.notes)
    assert any("'Rh' turns it again" in note for note in clip.notes)
    np.testing.assert_allclose(clip.pose[:, 0, 0], 0.3, rtol=1e-6)
    np.testing.assert_allclose(clip.turn, UPRIGHT["pose"][:, 0], rtol=1e-5, atol=1e-6)


def test_a_childs_share_of_the_shape_is_told(tmp_path: Path):
    """BEV's eleventh coefficient."""
    image = layouts.romp(INCAM, SECOND)["00000000.png"]
    image["smpl_betas"] = np.concatenate((image["smpl_betas"], [[0.7]]), 1)
    np.savez(tmp_path / "x.npz", results=image)
    (clip,) = read_clips(tmp_path / "x.npz", ReadOptions())
    assert any("NOT USED, a child's share of the shape (up to 0.7)" in note for note in clip.notes)


def test_near_keys_and_what_always_works(tmp_path: Path):
    c = layouts.columns(INCAM)
    np.savez(tmp_path / "x.npz", poses=c["pose"], beta=c["betas"], gender="male")
    with pytest.raises(UserError, match="'beta': did you mean betas"):
        read_clips(tmp_path / "x.npz", ReadOptions())
    half = {key: value for key, value in layouts.tram(INCAM).items() if key != "pred_rotmat"}
    with pytest.raises(UserError, match=r"It looks like TRAM \(hps_track.*without 'pred_rotmat'\. It has pred_cam"):
        read_clips(write(half, tmp_path / "x.pkl"), ReadOptions())
    with pytest.raises(UserError, match=r"none of 2 files holds motion\. The first: .*It looks like TRAM"):
        read_files([tmp_path / "x.pkl"] * 2, ReadOptions())
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"a": {"posse": c["pose"], "x": c["betas"]}}))
    with pytest.raises(UserError, match=r"a/posse \(12, 72\) \(like a pose\).*'posse': did you mean pose.*always work"):
        read_clips(tmp_path / "y.pkl", ReadOptions())
