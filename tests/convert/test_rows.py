"""Which rows a file's numbers are: people and frames, masks and ids, units and frames of reference."""

import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest

from hmr_skel.convert import Bodies, ReadOptions, SmplClip, Units, fit_clips
from hmr_skel.convert.files import NoMotion
from hmr_skel.convert.formats import read_clips, read_files
from hmr_skel.errors import UserError
from tests.convert import layouts
from tests.convert.conftest import FRAMES, walk

TRUTH, ROOM = walk(up="camera"), walk()
ALL = np.arange(FRAMES)
C = layouts.columns(TRUTH)
ARRAYS = {"poses": C["pose"], "betas": C["betas"], "trans": C["trans"], "gender": "male"}
PAIR = {"global_orient": C["root"], "body_pose": C["body"], "betas": C["betas"], "transl": C["trans"]}
FRAMES_OF = [{key: value[i] for key, value in PAIR.items()} for i in range(FRAMES)]
NEUTRAL = ReadOptions(smpl_gender="neutral")
LABELS = {"imgname": np.array([f"{i:06d}.jpg" for i in ALL]), "center": np.ones((FRAMES, 2)), "scale": np.ones(FRAMES)}


def read(content: object, folder: Path, options: ReadOptions = NEUTRAL, name: str = "x.pkl") -> list[SmplClip]:
    joblib.dump(content, folder / name)
    return read_clips(folder / name, options)


def same(clip: SmplClip, rows=ALL) -> None:
    """The clip has these rows of TRUTH."""
    near = {"rtol": 2e-2, "atol": 2e-2} if clip.file in ("half", "bf16") else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(clip.pose[:, 1:22], TRUTH["pose"][rows, 1:22], **near)
    np.testing.assert_allclose(clip.transl, TRUTH["transl"][rows], **near)


def said(clips: list[SmplClip], text: str) -> bool:
    return any(text in note for clip in clips for note in clip.notes)


# Two spellings of one pose


@pytest.mark.parametrize("hands", [True, False])
def test_a_whole_pose_beside_root_and_body_is_compared(tmp_path: Path, hands: bool):
    poses = C["pose"] if hands else layouts.amass(TRUTH)["poses"]  # [T 72], or [T 156] with fingers
    pair = PAIR if hands else PAIR | {"body_pose": C["body"][:, :63]}
    options = ReadOptions(smpl_gender="male", model="smplh")
    (clip,) = read(pair | {"poses": poses}, tmp_path, options)
    same(clip)
    assert not said([clip], "not used")
    off = poses.copy()
    off[:, 9] += 0.3
    with pytest.raises(UserError, match="'body_pose' and 'poses' both say the pose"):
        read(pair | {"poses": off}, tmp_path, options)


def test_the_body_models_name_in_the_file_counts(tmp_path: Path):
    arrays = layouts.amass(TRUTH, gender="neutral", root_orient=C["root"], pose_body=C["body"][:, :63])
    with pytest.raises(UserError, match="--model smplh or --model smplx"):
        read(arrays, tmp_path, ReadOptions())
    same(read(arrays | {"surface_model_type": np.array("smplh")}, tmp_path, ReadOptions())[0])
    arrays |= {"gender": "female", "model_type": "SMPL-X"}
    assert said(read(arrays, tmp_path, ReadOptions()), "holds SMPL-X ('model_type' says smplx)")
    with pytest.raises(UserError, match="--model says smplh, but 'model_type' says smplx"):
        read(arrays, tmp_path, ReadOptions(model="smplh"))


# Containers


def test_a_list_of_tracks_is_a_clip_each(tmp_path: Path):
    tracks = [{"pose": C["pose"][a:b], "betas": C["betas"][0], "trans": C["trans"][a:b]} for a, b in ((0, 12), (4, 10))]
    one, two = read({"fps": 25, "tracks": tracks}, tmp_path)
    same(one)
    same(two, ALL[4:10])
    assert [(clip.name, clip.moving, clip.frame_rate) for clip in (one, two)] == [("x_0", True, 25), ("x_1", True, 25)]
    (alone,) = read([tracks[0] | {"fps": 25}], tmp_path)
    same(alone)
    assert (alone.moving, alone.frame_rate) == (True, 25)


def test_a_list_of_frames_is_taken_for_people_with_a_note_and_nothing_is_guessed(tmp_path: Path):
    (clip,) = read(FRAMES_OF, tmp_path)
    same(clip)
    assert (clip.moving, clip.frame) == (False, None)
    assert said([clip], "12 entries of one row are taken for people")
    with pytest.raises(UserError, match="--smpl-gender"):
        read(FRAMES_OF, tmp_path, ReadOptions())
    (clip,) = read([one | {"pred_cam": np.ones(3)} for one in FRAMES_OF], tmp_path, ReadOptions())
    assert (set(clip.gender), clip.frame) == ({"neutral"}, "camera")
    (clip,) = read(FRAMES_OF, tmp_path, ReadOptions(smpl_gender="male", rows="frames"))
    assert clip.moving
    assert not said([clip], "taken for people")


def test_keys_that_not_all_entries_have(tmp_path: Path):
    some = [one | ({"transl": np.zeros(2)} if i == 3 else {}) for i, one in enumerate(FRAMES_OF)]
    assert said(read(some, tmp_path), "NOT USED, as not all entries have it alike: transl")
    for key, value in {"valid": 0, "camera_valid": True, "id": 4, "gender": "male", "is_visible": 1.0}.items():
        some = [one | ({key: value} if i == 3 else {}) for i, one in enumerate(FRAMES_OF)]
        with pytest.raises(UserError, match=f"not all of its entries have '{key}'"):
            read(some, tmp_path)
    romp = layouts.romp(TRUTH)
    del romp["00000004.png"]["track_ids"]
    with pytest.raises(UserError, match="not all of its entries have 'track_ids'"):
        read({"results": romp, "sequence_results": {}}, tmp_path)
    tracks = layouts.phalp(TRUTH)
    del tracks["out/000009.jpg"]["tracked_time"]
    with pytest.raises(UserError, match="only some of its frames have 'time' and 'tracked_time'"):
        read(tracks, tmp_path)
    tracks = layouts.phalp(TRUTH)
    del tracks["out/000004.jpg"]["camera"]
    assert said(read(tracks, tmp_path), "not all entries have it alike: camera")


def test_images_without_numbers_are_counted(tmp_path: Path):
    """ROMP's."""
    images = layouts.romp(TRUTH, drop=(2, 3))
    (clip,) = read({"results": {f"a{name[-5]}/x.png": one for name, one in images.items() if name < "00000009"}}
                   | {"sequence_results": {}}, tmp_path)  # fmt: skip
    assert clip.number.tolist() == [*range(7)]
    assert said([clip], "no numbers of their own")


def test_lists_per_image(tmp_path: Path):
    """NLF's: what is said once for an image is said for all in it; what is neither is told."""
    nlf = layouts.nlf(TRUTH, TRUTH)
    (clip,) = read(nlf | {"frame_ids": ALL * 5, "focal": [np.eye(3)] * FRAMES}, tmp_path)
    assert clip.number.tolist() == [5 * i for i in range(FRAMES) for _ in range(2 - i % 2)]
    assert said([clip], "NOT USED, as not all entries have it alike: focal")
    (clip,) = read(nlf | {"frame_ids": [i + 0.5 for i in ALL]}, tmp_path)  # no number of a frame
    assert said([clip], "NOT USED, though it could move or hide the body: frame_ids")
    with pytest.raises(UserError, match="not all of its entries have 'valid'"):
        read(nlf | {"valid": [np.ones(3)] * FRAMES}, tmp_path)


# Masks, flags, ids


@pytest.mark.parametrize("kind", [list, lambda flags: np.array(flags, object), lambda flags: np.array(flags)[:, None]])
def test_flags_of_any_kind_are_used(tmp_path: Path, kind):
    (clip,) = read(ARRAYS | {"has_smpl": kind([i % 3 > 0 for i in ALL])}, tmp_path)
    same(clip, ALL[ALL % 3 > 0])
    assert clip.left_out == tuple((i, "not annotated") for i in (0, 3, 6, 9))


def test_masks_and_flags_that_leave_nothing_or_are_nan(tmp_path: Path):
    with pytest.raises(UserError, match=r"none of 12 rows is annotated \(has_smpl\)"):
        read(ARRAYS | {"has_smpl": [0] * FRAMES}, tmp_path)
    (clip,) = read(ARRAYS | {"valid": np.where(ALL < 3, np.nan, 1.0)}, tmp_path)
    same(clip, ALL[3:])
    assert said([clip], "3 of 12 rows")


@pytest.mark.parametrize("stack", [list, np.stack])
def test_3dpws_masks_and_who_is_seen_in_no_frame(tmp_path: Path, stack):
    content = layouts.threedpw(TRUTH, ROOM)
    content = {key: stack(value) if key not in ("genders", "sequence") else value for key, value in content.items()}
    masks = ALL % 4 > 0, ALL < 0
    for seen, unseen in ((0, 1), (1, 0)):
        clips = read(content | {"campose_valid": stack([masks[seen], masks[unseen]])}, tmp_path, ReadOptions())
        assert [(clip.name, len(clip)) for clip in clips] == [(f"x_{seen}", 9)]
        assert said(clips, f"PASSED OVER: {tmp_path}/x.pkl: 'campose_valid' says that x_{unseen} is seen in no frame")
        np.testing.assert_allclose(clips[0].transl, (TRUTH, ROOM)[seen]["transl"][ALL % 4 > 0], atol=1e-5)
    with pytest.raises(NoMotion, match="seen in no frame"):
        read(content | {"campose_valid": stack([masks[1], masks[1]])}, tmp_path, ReadOptions())


def test_lists_of_people_in_a_list_of_frames(tmp_path: Path):
    people = [{"id": i, **one} for i, one in enumerate(FRAMES_OF)]
    content = [
        {"frame_id": f"{3 * i:06d}.jpg", "people": [one | {"id": 7}] if i != 5 else []}
        for i, one in enumerate(FRAMES_OF)
    ]
    (clip,) = read({"frames": content}, tmp_path)
    same(clip, ALL[ALL != 5])
    assert (clip.name, clip.number.tolist()) == ("x_7", (3 * ALL[ALL != 5]).tolist())
    del content[5]
    content[2]["people"] = [people[0], people[2] | {"id": 7}]
    assert [(clip.name, len(clip)) for clip in read(content, tmp_path)] == [("x_7", 11), ("x_0", 1)]
    nobody = [{"people": [{key: one[key] for key in PAIR}] * 2} for one in FRAMES_OF]
    (rows,) = read(nobody, tmp_path)
    assert (len(rows), rows.moving) == (24, False)


def test_ids_without_frame_numbers_are_counted_and_a_batch_passes_over_what_no_option_mends(tmp_path: Path):
    two = {key: np.concatenate((value, value)) for key, value in ARRAYS.items() if key != "gender"}
    clips = read(two | {"track_id": np.repeat([4, 9], FRAMES)}, tmp_path, name="two.pkl")
    assert [(clip.name, clip.number.tolist()) for clip in clips] == [("two_4", ALL.tolist()), ("two_9", ALL.tolist())]
    assert said(clips, "counted from 0")
    for name, poses in (("six", np.ones((FRAMES, 144))), ("quaternions", np.ones((FRAMES, 24, 4)))):
        with pytest.raises(NoMotion, match="turn them into matrices with the tool"):
            read(ARRAYS | {"poses": poses}, tmp_path, name=f"{name}.pkl")
    (tmp_path / "LICENSE").write_text("no motion")
    clips = read_files([tmp_path], NEUTRAL)
    assert [clip.name for clip in clips] == ["two_4", "two_9"]
    assert clips[0].notes[0] == "3 of 4 files hold no motion and are passed over: LICENSE, quaternions.pkl, six.pkl"
    assert [note.split(":")[0] for note in clips[0].notes[1:3]] == ["PASSED OVER"] * 2


def test_ids_that_differ_in_every_row_are_asked_for(tmp_path: Path):
    with pytest.raises(UserError, match=r"all 12 rows have different ids.*--rows people.*--rows frames"):
        read(ARRAYS | {"id": ALL}, tmp_path)
    (clip,) = read(ARRAYS | {"id": ALL}, tmp_path, ReadOptions(smpl_gender="male", rows="frames"))
    same(clip)
    assert said([clip], "ids are different; they are not used")
    with pytest.raises(UserError, match="'id' has 5 entries for 12 rows"):
        read(ARRAYS | {"id": ALL[:5]}, tmp_path)
    same(read(ARRAYS | {"track_id": 7}, tmp_path)[0])  # of the whole file


def test_people_of_one_frame_are_not_asked_about_and_keys_beside_them_are_named(tmp_path: Path):
    two = max(layouts.romp(TRUTH, ROOM).values(), key=lambda image: len(image["cam_trans"]))
    two |= {"track_ids": [4, 9]}
    clips = read({"results": {"007.png": two}, "sequence_results": {}}, tmp_path)
    assert [(clip.name, clip.number.tolist()) for clip in clips] == [("x_4", [7]), ("x_9", [7])]
    mocap = layouts.easymocap_files(TRUTH)
    first = next(iter(mocap.values()))[0] | {"expression": [[0.0] * 10]}  # of SMPL's joints, this is no SMPL-X
    (rows,) = read([first | {"id": i} for i in range(2)], tmp_path)
    assert (len(rows), rows.moving) == (2, False)
    (one,) = read({"frame": 3, "note": "x", "annots": [first]}, tmp_path)
    assert one.number.tolist() == [3]
    assert said([one], "not used, beside the people: note")
    with pytest.raises(UserError, match=r"'Rh' is not read of SMPL-X, which this is by its keys.*none of jaw_pose"):
        read([first | {"expression": [[0.5] * 10]}], tmp_path)


# Units and frames of reference


def test_a_camera_is_added_where_the_format_says_so(tmp_path: Path):
    camera = np.tile(np.eye(4), (FRAMES, 1, 1))
    camera[:, :3, 3] = [1, 2, 3]
    assert not said(read(ARRAYS | {"cam_ext": camera}, tmp_path), "are added")
    same(read(ARRAYS | {"cam_ext": camera}, tmp_path)[0])
    labels = layouts.labels(TRUTH) | {"cam_ext": camera, "trans_cam": C["trans"] - [1, 2, 3]}
    clips = read(labels, tmp_path, ReadOptions())
    same(clips[0])
    assert said(clips, "'cam_ext' are added to 'trans_cam'")


def test_skel_is_scaled_and_never_mirrored(tmp_path: Path, bodies: Bodies):
    q = np.full((FRAMES, 46), 0.1, np.float32)
    skel = {"poses": np.degrees(q), "betas": C["betas"], "trans": 100 * C["trans"], "gender": "male"}
    (clip,) = read(skel, tmp_path, ReadOptions(units=Units("cm", "deg")))
    np.testing.assert_allclose(clip.skel_q, q, rtol=1e-5)
    np.testing.assert_allclose(clip.transl, C["trans"], rtol=1e-5)
    (fitted,) = fit_clips([clip], bodies)
    np.testing.assert_array_equal(fitted.q, clip.skel_q)
    assert np.isnan(fitted.v2v_mm).all()
    with pytest.raises(UserError, match="--left-handed cannot mirror"):
        read(skel, tmp_path, ReadOptions(left_handed=True))


@pytest.mark.parametrize(("which", "agrees"), [("incam", False), ("global", True)])
def test_which_is_for_files_with_two_frames(tmp_path: Path, which: str, agrees: bool):
    options = ReadOptions(which=which)
    if agrees:
        read(layouts.emdb(ROOM), tmp_path, options)
    else:
        with pytest.raises(UserError, match="one frame of reference only: leave --which out"):
            read(layouts.emdb(ROOM), tmp_path, options)
    with pytest.raises(UserError, match="one frame of reference only: leave --which out"):
        read(ARRAYS, tmp_path, options)


def test_long_walks_are_metres(tmp_path: Path):
    way = np.linspace([0, 0.9, 0], [200, 0.9, 0], 2000)  # 200 m at 3 m/s
    arrays = {key: np.resize(value, (2000, *value.shape[1:])) for key, value in C.items()} | {"trans": way}
    walked = {"poses": arrays["pose"], "betas": C["betas"][0], "trans": way, "gender": "male"}
    clips = read(walked, tmp_path)  # known of no tool
    np.testing.assert_allclose(clips[0].transl, way, rtol=1e-5)
    assert said(clips, "100 m from the origin, if these are metres")
    with pytest.raises(UserError, match="looks like centimetres"):
        read(walked | {"trans": way * 100}, tmp_path)
    with pytest.raises(UserError, match="looks like centimetres"):  # one who stands
        read(walked | {"trans": np.tile([0.0, 90, 0], (2000, 1))}, tmp_path)
    far = {"poses_root": arrays["root"], "poses_body": arrays["body"], "trans": way + np.array([300, 0, 0])}
    far["betas"] = np.zeros(10)
    clips = read(layouts.emdb(ROOM) | {"smpl": far, "good_frames_mask": np.ones(2000)}, tmp_path)
    assert said(clips, "400 m from the origin")


@pytest.mark.parametrize("file_is_left", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_only_elbows_of_the_wrong_hand_are_scolded(tmp_path: Path, file_is_left: bool, told: bool):
    truth = walk(up="y-up")
    truth["pose"][:, 18:20, 1] = [-0.9, 0.8]
    poses = truth["pose"] * ([1, -1, -1] if file_is_left else 1)
    clips = read(ARRAYS | {"poses": poses}, tmp_path, ReadOptions(smpl_gender="male", left_handed=told))
    assert said(clips, "ELBOWS BEND BACKWARDS") == (file_is_left != told)
    if not told and not file_is_left:
        transposed = layouts.matrices(poses).swapaxes(-1, -2)
        assert said(read(ARRAYS | {"poses": transposed}, tmp_path), "ELBOWS BEND BACKWARDS")


# Labels


def test_labels_of_4d_humans_have_the_root_inside(tmp_path: Path):
    pose = {"body_pose": C["pose"], "has_body_pose": ALL % 3 > 0}
    np.savez(tmp_path / "x.npz", **LABELS, **pose, betas=C["betas"], trans=C["trans"])
    (clip,) = read_clips(tmp_path / "x.npz", ReadOptions())
    same(clip, ALL[ALL % 3 > 0])
    assert not said([clip], "are they annotated")
    np.testing.assert_allclose(clip.pose[:, 0], TRUTH["pose"][ALL % 3 > 0, 0], rtol=1e-5)
    assert len(clip.left_out) == 4


# A file per frame


def per_frame(folder: Path, place, people: int = 1, changes=None) -> Path:
    for i in range(9, 13):
        for person in range(people):
            one = {key: value[i - 9 + person : i - 8 + person] for key, value in PAIR.items()}
            one |= {"camera_rotation": np.eye(3)[None], "gender": "female"} | (changes(i) if changes else {})
            path = folder / place(i, person)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(one))
    return folder


@pytest.mark.parametrize(
    ("place", "people"),
    [
        (lambda i, person: f"walk/{i:05d}/{person:03d}.pkl", 3),  # RICH's
        (lambda i, person: f"body_idx_{person}/results/frame_{i:05d}/000.pkl", 2),  # EgoBody's
        (lambda i, person: f"{i:05d}.pkl", 1),
    ],
)
def test_the_frames_of_people_in_files(tmp_path: Path, place, people: int):
    clips = read_files([per_frame(tmp_path, place, people)], ReadOptions())
    assert len(clips) == people
    for person, clip in enumerate(clips):
        assert (clip.number.tolist(), clip.moving) == ([9, 10, 11, 12], True)
        same(clip, ALL[person : person + 4])


def test_folders_and_files_that_both_could_be_frames_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="both have numbers that change"):
        read_files([per_frame(tmp_path, lambda i, person: f"{i:05d}/{person:03d}.pkl", 4)], ReadOptions())


def test_files_that_differ_are_refused_and_rows_left_out_are_kept(tmp_path: Path):
    files = per_frame(tmp_path / "a", lambda i, _: f"{i:05d}.pkl", changes=lambda i: {"id": [3]} if i > 10 else {})
    with pytest.raises(UserError, match="only some files have person"):
        read_files([files], ReadOptions())
    files = per_frame(tmp_path / "b", lambda i, _: f"{i:05d}.pkl", changes=lambda i: {"has_smpl": [i % 2]})
    (clip,) = read_files([files], ReadOptions())
    assert (clip.number.tolist(), clip.left_out) == ([9, 11], ((10, "not annotated"), (12, "not annotated")))
