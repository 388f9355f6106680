"""Every input format in a file made the way its makers write it, read back as the same person."""

import logging
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest

from hmr_skel.convert import ReadOptions, SmplClip, Units, read_clips
from hmr_skel.convert.clips import with_unique_names
from hmr_skel.errors import UserError
from tests.convert.conftest import FRAMES, walk
from tests.convert.layouts import amass, labels, matrices, phalp

NONE = ReadOptions()
NEUTRAL = ReadOptions(smpl_gender="neutral")


def assert_same(clip: SmplClip, truth: dict[str, np.ndarray], hands: bool = True) -> None:
    joints = 24 if hands else 22
    assert clip.pose.dtype == clip.betas.dtype == clip.transl.dtype == np.float32
    assert np.abs(matrices(clip.pose[:, :joints]) - matrices(truth["pose"][:, :joints])).max() < 1e-5
    if not hands:
        assert not clip.pose[:, 22:].any()
    np.testing.assert_allclose(clip.betas, np.tile(truth["betas"][:10], (len(clip), 1)), rtol=1e-6)
    np.testing.assert_allclose(clip.transl, truth["transl"], atol=1e-6)


@pytest.mark.parametrize("gender", [np.array("female"), np.array(b"female"), np.array("female", object)])
@pytest.mark.parametrize("rate", ["mocap_framerate", "mocap_frame_rate"])
def test_amass(tmp_path: Path, gender, rate: str):
    truth = walk()
    changes = {"mocap_framerate": None} | {rate: np.array(60.0)}
    np.savez(tmp_path / "walk.npz", **amass(truth, **changes, gender=gender))
    (clip,) = read_clips(tmp_path / "walk.npz", NONE)
    assert_same(clip, truth, hands=False)
    assert (clip.frame, clip.frame_rate, clip.moving, set(clip.gender)) == ("z-up", 60.0, True, {"female"})
    assert any("finger" in note for note in clip.notes)
    assert any("first 10 of 16" in note for note in clip.notes)


def test_labels_are_people_unless_told(tmp_path: Path):
    np.savez(tmp_path / "aic.npz", **labels(walk(up="camera")))
    assert read_clips(tmp_path / "aic.npz", NONE)[0].starts().all()
    (clip,) = read_clips(tmp_path / "aic.npz", ReadOptions(rows="frames", frame_rate=15))
    assert (clip.frame_rate, clip.moving, clip.starts().sum()) == (15, True, 1)


def test_labels_by_folder_are_clips_in_the_order_of_their_frames(tmp_path: Path):
    truth = walk(up="camera")
    arrays = labels(truth)
    order = np.random.default_rng(1).permutation(FRAMES)
    names = np.array([f"seq{i % 2}/{8 * i + (800 if i > 7 else 0):06d}.jpg" for i in range(FRAMES)])
    arrays = {key: value[order] for key, value in (arrays | {"imgname": names}).items()}
    np.savez(tmp_path / "video.npz", **arrays)
    clips = read_clips(tmp_path / "video.npz", ReadOptions(rows="folders"))
    assert {clip.name for clip in clips} == {"video_seq0", "video_seq1"}
    assert read_clips(tmp_path / "video.npz", ReadOptions(rows="folders", frame_rate=32))[0].row_rate == 32 / 16
    for clip in clips:
        assert clip.row_rate is None
        assert (np.diff(clip.number) > 0).all()
        assert clip.starts().tolist() == [True, False, False, False, True, False]  # the gap is not bridged
    whole = np.concatenate([clip.pose for clip in sorted(clips, key=lambda clip: clip.name)])
    np.testing.assert_allclose(whole, truth["pose"][[*range(0, FRAMES, 2), *range(1, FRAMES, 2)]], rtol=1e-5, atol=1e-7)


def smplcodec():
    """Its makers' own package, kept from setting up logging for everybody."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    from smplcodec import codec

    root.setLevel(before[0])
    root.handlers[:] = before[1]
    return codec


def test_smplcodec(tmp_path: Path):
    """SMPL-H, as its makers write it; SMPL and SMPL-X: tests/convert/test_layouts.py."""
    codec, truth = smplcodec(), walk(up="y-up")
    codec.SMPLCodec(
        smpl_version=codec.SMPLVersion.SMPLH,
        gender=codec.SMPLGender.FEMALE,
        shape_parameters=truth["betas"],
        frame_count=FRAMES,
        frame_rate=30.0,
        body_translation=truth["transl"],
        body_pose=truth["pose"][:, :22],
        left_hand_pose=np.zeros((FRAMES, 15, 3)),
        right_hand_pose=np.ones((FRAMES, 15, 3)),
    ).write(tmp_path / "walk.smpl")
    (clip,) = read_clips(tmp_path / "walk.smpl", NONE)
    assert_same(clip, truth, hands=False)
    assert (clip.frame, clip.frame_rate, set(clip.gender)) == (None, 30.0, {"female"})


def test_smplcodec_without_motion_and_of_other_models(tmp_path: Path):
    codec = smplcodec()
    codec.SMPLCodec(smpl_version=codec.SMPLVersion.SMPL, shape_parameters=np.ones(10)).write(tmp_path / "a.smpl")
    (clip,) = read_clips(tmp_path / "a.smpl", NONE)
    assert len(clip) == 1
    assert not clip.pose.any()
    assert any("T-pose" in note for note in clip.notes)
    codec.SMPLCodec(smpl_version=codec.SMPLVersion.SMPLX, shape_parameters=np.ones(10)).write(tmp_path / "x.smpl")
    (clip,) = read_clips(tmp_path / "x.smpl", NONE)
    assert any("holds SMPL-X" in note for note in clip.notes)
    q = np.random.default_rng(0).normal(size=(3, 46))
    moving = {"frame_count": 3, "frame_rate": 30.0, "body_pose": q, "body_translation": q[:, :3]}
    skel = {"smpl_version": codec.SMPLVersion.SKEL, "shape_parameters": np.ones(10), "gender": codec.SMPLGender.FEMALE}
    codec.SMPLCodec(**skel, **moving).write(tmp_path / "s.smpl")
    (clip,) = read_clips(tmp_path / "s.smpl", NONE)
    np.testing.assert_allclose(clip.skel_q, q, rtol=1e-6)
    np.testing.assert_allclose(clip.transl, q[:, :3], rtol=1e-6)
    assert (set(clip.gender), clip.frame_rate) == ({"female"}, 30)
    codec.SMPLCodec(smpl_version=codec.SMPLVersion.SUPR, shape_parameters=np.ones(10)).write(tmp_path / "u.smpl")
    with pytest.raises(UserError, match="holds SUPR"):
        read_clips(tmp_path / "u.smpl", NONE)


def test_one_frame(tmp_path: Path):
    truth = walk(1)
    for poses in (truth["pose"][0], truth["pose"].reshape(72), matrices(truth["pose"])[0]):
        np.savez(tmp_path / "one.npz", pose=poses, betas=truth["betas"][:10], trans=truth["transl"][0])
        (clip,) = read_clips(tmp_path / "one.npz", NEUTRAL)
        assert_same(clip, truth)
        assert not clip.moving


def test_entries_of_one_row_are_people(tmp_path: Path):
    truth = walk(3)
    people = {
        f"{i}.jpg": {"pose": truth["pose"][i], "betas": truth["betas"], "trans": truth["transl"][i]} for i in range(3)
    }
    joblib.dump(people, tmp_path / "x.pkl")
    (clip,) = read_clips(tmp_path / "x.pkl", NEUTRAL)
    assert_same(clip, truth)
    assert not clip.moving
    assert any("--rows frames" in note for note in clip.notes)


def test_units_are_converted_when_told(tmp_path: Path):
    truth = walk()
    arrays = {"poses": np.degrees(truth["pose"]), "betas": truth["betas"], "trans": 100 * truth["transl"]}
    np.savez(tmp_path / "walk.npz", **arrays, gender="male")
    (clip,) = read_clips(tmp_path / "walk.npz", ReadOptions(units=Units("cm", "deg")))
    assert_same(clip, truth)


def wrong(name: str):
    """(arrays of a .npz, options, what the message says)"""
    truth = walk()
    bare = {"poses": truth["pose"].reshape(FRAMES, 72), "betas": truth["betas"], "trans": truth["transl"]}
    good, fast = bare | {"gender": "male"}, 100 * (truth["transl"] - [0, 0, 0.9])
    unnumbered = np.array(["a/x.jpg"] * FRAMES)
    cases = {
        "degrees": (good | {"poses": np.degrees(bare["poses"])}, NONE, r"looks like degrees.*--angles deg"),
        "centimetres": (good | {"trans": 100 * bare["trans"]}, NONE, r"looks like centimetres.*--lengths cm"),
        "centimetres by speed": (amass(truth, trans=fast), NONE, r"move by \d+ a second.*--lengths cm"),
        "no gender": (bare, NONE, r"which SMPL model.*--smpl-gender neutral, male"),
        "unknown gender": (bare | {"gender": "x"}, NONE, r"'gender' is \['x'\].*--smpl-gender"),
        "a dict as gender": (bare | {"gender": {"is": "male"}}, NONE, r"'gender' is \[\{'is.*--smpl-gender"),
        "skel": ({"skel_q": np.zeros((FRAMES, 46))}, NONE, r"holds SKEL, but not all of"),
        "ours": (
            {"skel_q": np.zeros((FRAMES, 46)), "smpl_pose": bare["poses"], "imgname": np.array([""] * FRAMES)},
            NEUTRAL,
            r"written by `hmr-skel convert`.*Parquet, which is read",
        ),
        "no frames": (good | {"poses": np.zeros((0, 72))}, NONE, r"'poses' is empty: its shape is \(0, 72\)"),
        "nothing": ({"a": np.zeros(3)}, NONE, r"no SMPL parameters that are recognised. It has a"),
        "pose width": (good | {"poses": np.zeros((FRAMES, 71))}, NONE, r"'poses' has shape \(12, 71\).*\(T, 72\)"),
        "quaternions": (good | {"poses": np.zeros((FRAMES, 24, 4))}, NONE, r"Quaternions and 6D"),
        "no rotations": (good | {"poses": np.ones((FRAMES, 24, 3, 3))}, NONE, r"no rotation matrices"),
        "few betas": (good | {"betas": np.zeros(8)}, NONE, r"has shape \(8,\).*\(10,\), \(1, 10\) or \(12, 10\)"),
        "betas of other rows": (good | {"betas": np.zeros((5, 10))}, NONE, r"'betas' has shape \(5, 10\) for 12 rows"),
        "no betas": ({k: v for k, v in good.items() if k != "betas"}, NONE, r"has no betas.*It has: gender, poses"),
        "transl of other rows": (good | {"trans": np.zeros((5, 3))}, NONE, r"'trans' has shape \(5, 3\)"),
        "rate": (good | {"mocap_framerate": -1.0}, NONE, r"'mocap_framerate' is -1.*--frame-rate"),
        "folders": (labels(truth) | {"imgname": unnumbered}, ReadOptions(rows="folders"), r"--rows"),
    }
    return cases if name == "" else cases[name]


@pytest.mark.parametrize("name", wrong(""))
def test_what_cannot_be_read_says_so(tmp_path: Path, name: str):
    arrays, options, message = wrong(name)
    np.savez(tmp_path / "walk.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        read_clips(tmp_path / "walk.npz", options)
    assert "walk.npz" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello world", r"is of no kind that is read \(it starts with b'hello wo'\)"),
        (b"", r"file\.npz is empty\. Expected an \.npz"),
        (b"PK\x03\x04 and nothing", r"cannot be read.*Fetch the file again"),
        (b"\x80\x04 and nothing", r"cannot be read as a pickle"),
        (b"\x78\x9c and nothing", r"cannot be read as a pickle"),
        (b"[1, 2]", r"recognised. It has .*\(list of 2\).*always work"),
        (b'{"poses": [1, 2', r"cannot be read: Expecting"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_clips(path, NONE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": "x"}, "invalid literal"),
        ({"smpl": None}, "no len"),
        ({"tid": None}, "not iterable"),
        ({"tid": [[1]]}, "unhashable"),
        ({"tracked_time": 3}, "not iterable"),
        ({"shot": np.zeros(2)}, "ambiguous"),
    ],
)
def test_tracks_that_hold_something_else(tmp_path: Path, changes: dict, message: str):
    frames = phalp(walk(up="camera"))
    frames["out/000001.jpg"] |= changes
    path = tmp_path / "demo.pkl"
    path.write_bytes(pickle.dumps(frames))
    with pytest.raises(UserError, match=rf"demo\.pkl has the keys of 4D-Humans.*{message}.*\.npz"):
        read_clips(path, NONE)


@pytest.mark.parametrize("changes", [{"smplVersion": None}, {"smplVersion": []}, {"gender": "male"}])
def test_a_smpl_file_that_holds_something_else(tmp_path: Path, changes: dict):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"smplVersion": 1, "bodyPose": np.zeros((2, 24, 3))} | changes))
    with pytest.raises(UserError, match=r"a\.pkl has the keys of smplcodec .*, but not what belongs there"):
        read_clips(path, NONE)


def test_a_missing_file(tmp_path: Path):  # and of damaged ones: tests/test_damaged_files.py
    with pytest.raises(UserError, match=r"no file .*walk\.npz.*AMASS"):
        read_clips(tmp_path / "walk.npz", NONE)


def test_a_frame_that_contradicts_its_format_is_settled_by_the_user(tmp_path: Path):
    np.savez(tmp_path / "walk.npz", **amass(walk(up="camera")))
    (clip,) = read_clips(tmp_path / "walk.npz", NONE)
    assert clip.frame is None
    assert any("stand as in a camera frame" in note for note in clip.notes)
    (clip,) = read_clips(tmp_path / "walk.npz", ReadOptions(frame="camera"))
    assert clip.frame == "camera"
    np.savez(tmp_path / "few.npz", **amass(walk(5, up="camera")))  # who may lie: said, and left
    (clip,) = read_clips(tmp_path / "few.npz", NONE)
    assert (clip.frame, any("stand as in a camera frame" in note for note in clip.notes)) == ("z-up", True)


def test_names_are_unique_across_files(tmp_path: Path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        joblib.dump(phalp(walk(up="camera")), tmp_path / folder / "demo.pkl")
        files.append(read_clips(tmp_path / folder / "demo.pkl", NONE))
    clips = with_unique_names(files)
    assert [clip.name for clip in clips] == ["demo_1", "demo_2", "demo_2_1", "demo_2_2"]
    assert [clip.file for clip in clips] == ["demo", "demo", "demo_2", "demo_2"]
