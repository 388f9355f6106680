"""Each tool's layout, in a file of its own: the body that is read stands where the tool's own formula puts it."""

import json
import pickle
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pytest
import torch

from hmr_skel.body.smpl import Smpl
from hmr_skel.cli import main
from hmr_skel.convert import Bodies, ReadOptions, SmplClip, fit_clips
from hmr_skel.convert.formats import read_clips, read_files
from hmr_skel.convert.known import FORMATS, describe_formats
from hmr_skel.convert.vertices import with_parameters
from hmr_skel.errors import UserError
from tests.convert import layouts
from tests.convert.conftest import FRAMES, walk

INCAM, SECOND, UPRIGHT, ROOM, SIDE = (
    walk(up="camera"),
    walk(up="camera", seed=1),
    walk(up="y-up"),
    walk(seed=2),
    walk(seed=3),
)
ALL = np.arange(FRAMES)
SEEN = np.delete(ALL, [3, 4])


class Case(NamedTuple):
    """A file's content, and what it says: people (truth, frames' numbers), the frame of reference, the model."""

    content: object
    people: list[tuple[dict[str, np.ndarray], np.ndarray]]
    frame: str | None
    gender: str
    options: ReadOptions = ReadOptions()
    rows: np.ndarray = ALL  # of the truth
    hands: bool = True
    moving: bool = True


def which(name: str) -> ReadOptions:
    return ReadOptions(which=name)


GAP = np.array([*range(6), *range(10, 16)])
NLF = [(i, person) for i in range(FRAMES) for person in range(2 - i % 2)]
CASES = {
    "WHAM, camera": Case(
        layouts.wham(INCAM, UPRIGHT), [(INCAM, ALL), (INCAM, GAP)], "camera", "neutral", which("incam")
    ),
    "WHAM, world": Case(
        layouts.wham(INCAM, UPRIGHT), [(UPRIGHT, ALL), (UPRIGHT, GAP)], "y-up", "neutral", which("global")
    ),
    "a list of WHAM's tracks": Case(
        {"tracks": list(layouts.wham(INCAM, UPRIGHT).values())}, [(INCAM, ALL), (INCAM, GAP)], "camera", "neutral",
        which("incam"),
    ),
    "TRAM": Case(layouts.tram(INCAM), [(INCAM, ALL + 7)], "camera", "neutral"),
    "SLAHMR": Case(
        layouts.slahmr(INCAM, SECOND), [(INCAM, ALL[:-1]), (SECOND, ALL[:-1])], "camera", "neutral", hands=False
    ),
    "ROMP": Case(
        {"results": layouts.romp(INCAM, SECOND, drop=(5,)), "sequence_results": {1: {"frame_id": [0]}}},
        [(INCAM, np.delete(ALL, 5)), (SECOND, np.delete(ALL, [0, 1, 5]))], "camera", "neutral",
    ),
    "ROMP, one image": Case(
        {"results": layouts.romp(INCAM, SECOND)["00000000.png"]}, [(INCAM, ALL[:1])], "camera", "neutral", moving=False
    ),
    "EMDB": Case(layouts.emdb(UPRIGHT), [(UPRIGHT, SEEN)], "y-up", "female"),
    "3DPW": Case(layouts.threedpw(INCAM), [(INCAM, ALL)], None, "male"),
    "AIST++": Case(layouts.aist(UPRIGHT | {"betas": np.zeros(10)}), [(UPRIGHT, ALL)], "y-up", "male"),
    "BEDLAM": Case(layouts.bedlam(INCAM, UPRIGHT), [(INCAM, ALL)], "camera", "neutral", moving=False),
    "BEDLAM, world": Case(
        layouts.bedlam(INCAM, UPRIGHT), [(UPRIGHT, ALL)], None, "neutral", which("global"), moving=False
    ),
    "4D-Humans": Case(
        layouts.phalp(INCAM), [(INCAM, ALL), (INCAM, np.delete(ALL, [0, 1, 2, 3, 9]))], "camera", "neutral"
    ),
    "HMR2": Case(layouts.regressed(INCAM), [(INCAM, ALL)], "camera", "neutral", moving=False),
    "HybrIK": Case(layouts.hybrik(INCAM), [(INCAM | {"transl": 0 * INCAM["transl"]}, ALL)], "camera", "neutral"),
    "InterHuman": Case(
        layouts.interhuman(ROOM, SIDE), [(ROOM, ALL), (SIDE, ALL)], "z-up", "male", hands=False,
    ),
    "AMASS": Case(layouts.amass(ROOM), [(ROOM, ALL)], "z-up", "male", hands=False),
}  # fmt: skip


def write(content: object, path: Path) -> Path:
    """As .pkl, by joblib; dicts of arrays as .npz, where one is asked for."""
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".npy":
        np.save(path, content, allow_pickle=True)
    elif path.suffix == ".pt":
        torch.save(content, path)
    else:
        joblib.dump(content, path)
    return path


def meshes(smpl: Smpl, truth: dict[str, np.ndarray], rows: np.ndarray, betas: np.ndarray, hands: bool) -> np.ndarray:
    pose = truth["pose"][rows].copy()
    pose[:, 22:] *= hands
    columns = pose[:, 0], pose[:, 1:], np.tile(betas[:10], (len(rows), 1)), truth["transl"][rows]
    return smpl(*(torch.tensor(column, dtype=torch.float32) for column in columns)).vertices.numpy()


def posed(clip: SmplClip, smpl: Smpl) -> np.ndarray:
    return smpl(*map(torch.from_numpy, (clip.pose[:, 0], clip.pose[:, 1:], clip.betas, clip.transl))).vertices.numpy()


NAMED = [name for name, case in CASES.items() if all(str(key).isidentifier() for key in case.content)]
NAMED.remove("a list of WHAM's tracks")  # in an .npz, a list is an array
KINDS = [
    *((name, suffix) for name in CASES for suffix in (".pkl", ".npy")),
    *((name, ".npz") for name in NAMED),  # whose keys can be names of arrays
    *((name, ".pt") for name in CASES if not name.startswith(("3DPW", "ROMP", "4D"))),  # torch reads no arrays of texts
]


@pytest.mark.parametrize(("name", "suffix"), KINDS)
def test_the_body_stands_where_the_tool_puts_it(tmp_path: Path, bodies: Bodies, name: str, suffix: str):
    case = CASES[name]
    clips = read_clips(write(case.content, tmp_path / f"x{suffix}"), case.options)
    assert len(clips) == len(case.people)
    for clip, (truth, number) in zip(clips, case.people, strict=True):
        assert (clip.frame, set(clip.gender), clip.moving) == (case.frame, {case.gender}, case.moving)
        assert clip.number.tolist() == number.tolist()
        rows = number if number.max() < FRAMES else ALL
        smpl = bodies.smpl(case.gender)
        betas = np.zeros(10) if name == "AIST++" else truth["betas"]
        some = slice(None, None, 4)
        ours = posed(clip.take(np.arange(len(clip))[some]), smpl)
        assert np.abs(ours - meshes(smpl, truth, rows[some], betas, case.hands)).max() < 1e-4


def test_tram_and_its_cameras_track_lead_to_the_world(tmp_path: Path, bodies: Bodies):
    """V = R (smpl(pose) + trans) + T, of the frame's camera."""
    (tmp_path / "hps").mkdir()
    path = write(layouts.tram(INCAM), tmp_path / "hps" / "hps_track_0.npy")
    with pytest.raises(UserError, match=r"--which global needs camera\.npy"):
        read_clips(path, which("global"))
    turn = layouts.matrices(np.random.default_rng(0).normal(size=(FRAMES + 7, 3)))
    place = np.random.default_rng(1).normal(size=(FRAMES + 7, 3))
    write({"world_cam_R": turn, "world_cam_T": place, "img_focal": 900.0}, tmp_path / "camera.npy")
    (clip,) = read_clips(path, which("global"))
    smpl = bodies.smpl("neutral")
    mesh = meshes(smpl, INCAM, ALL, INCAM["betas"], True)
    expected = np.einsum("tij,tvj->tvi", turn[7:], mesh) + place[7:, None]
    (fitted,) = fit_clips([clip], bodies)
    assert (clip.frame, clip.number[0]) == ("y-up", 7)
    assert np.abs(posed(fitted.smpl, smpl) - expected).max() < 1e-4
    write({"world_cam_R": turn[:5], "world_cam_T": place[:5]}, tmp_path / "camera.npy")
    with pytest.raises(UserError, match="does not fit"):
        read_clips(path, which("global"))


@pytest.mark.parametrize(("which", "truth", "frame"), [("incam", INCAM, "camera"), ("global", ROOM, "z-up")])
def test_glamrs_translations_are_places_of_the_root_joint(tmp_path: Path, bodies: Bodies, which, truth, frame):
    """V = smpl(pose) - its root joint + root_trans."""
    truth = truth | {"pose": np.concatenate((truth["pose"][:, :1], INCAM["pose"][:, 1:]), 1)}
    path = write(layouts.glamr(INCAM, truth), tmp_path / "x.pkl")
    (clip,) = read_clips(path, ReadOptions(which=which))
    assert (clip.frame, clip.number.tolist()) == (frame, list(range(2, FRAMES)))
    smpl, here = bodies.smpl("neutral"), truth | {"transl": 0 * truth["transl"], "betas": INCAM["betas"]}
    columns = here["pose"][2:, 0], here["pose"][2:, 1:], np.tile(here["betas"][:10], (10, 1)), here["transl"][2:]
    root = smpl(*(torch.tensor(column, dtype=torch.float32) for column in columns)).joints[:, :1].numpy()
    expected = meshes(smpl, here, ALL[2:], here["betas"], True) - root + truth["transl"][2:, None]
    assert np.abs(posed(with_parameters(clip, bodies), smpl) - expected).max() < 1e-4


def test_nlf_gives_rows_with_the_images_numbers(tmp_path: Path, bodies: Bodies):
    (clip,) = read_clips(write(layouts.nlf(INCAM, SECOND), tmp_path / "x.pt"), ReadOptions())
    assert clip.number.tolist() == [image for image, _ in NLF]
    smpl = bodies.smpl("neutral")
    for person, truth in enumerate((INCAM, SECOND)):
        rows = np.array([row for row, (_, one) in enumerate(NLF) if one == person])
        expected = meshes(smpl, truth, clip.number[rows], truth["betas"], True)
        assert np.abs(posed(clip.take(rows), smpl) - expected).max() < 1e-4


@pytest.mark.parametrize("as_files", [False, True])
def test_easymocap(tmp_path: Path, bodies: Bodies, as_files: bool):
    """V = R(Rh) smpl(pose without root) + Th, from one file or from one per frame."""
    arrays = layouts.easymocap(UPRIGHT)
    files = [tmp_path / "x.npz"]
    if as_files:
        files = [tmp_path / "smpl" / f"{i:06d}.json" for i in range(FRAMES)]
        files[0].parent.mkdir()
        for i, file in enumerate(files):
            rows = {key: value[min(i, len(value) - 1)][None].tolist() for key, value in arrays.items()}
            file.write_text(json.dumps([{"id": 4, **rows}]))
    else:
        np.savez(files[0], **arrays)
    (clip,) = read_files(files, ReadOptions())
    assert (clip.number.tolist(), clip.moving) == (ALL.tolist(), True)
    straight = UPRIGHT | {"pose": arrays["poses"].reshape(-1, 24, 3), "transl": np.zeros((FRAMES, 3))}
    mesh = meshes(bodies.smpl("neutral"), straight, ALL, UPRIGHT["betas"], True)
    expected = np.einsum("tij,tvj->tvi", layouts.matrices(arrays["Rh"]), mesh) + arrays["Th"][:, None]
    (fitted,) = fit_clips([clip], bodies)
    assert np.abs(posed(fitted.smpl, bodies.smpl("neutral")) - expected).max() < 1e-4
    assert fitted.v2v_mm.mean() < 20


@pytest.mark.parametrize("make", [layouts.gvhmr, layouts.prompthmr])
def test_smplx_is_named_with_its_frames(tmp_path: Path, make, bodies):
    path = write(make(INCAM, UPRIGHT), tmp_path / "x.pkl")
    with pytest.raises(UserError, match=r"HMR, SMPL-X\).*incam \(camera\), global \(y-up\).*--which"):
        read_clips(path, ReadOptions())
    (clip,) = read_clips(path, ReadOptions(which="incam", model="smpl"))  # the user's word does not make it SMPL
    assert "SMPL-X" in clip.notes[-1]
    with pytest.raises(UserError, match=r"SMPLX_NEUTRAL\.npz.*smpl-x\.is\.tue\.mpg\.de.*smplx2smpl_deftrafo_setup"):
        fit_clips([clip], bodies)


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
        ({"shape": np.ones(10)}, "'betas' and 'shape' both say the betas"),
        ({"transl": np.ones((FRAMES, 3))}, "'transl' and 'trans' both say the transl"),
        ({"frame_ids": np.zeros(FRAMES, int)}, "several rows of frame 0"),
        ({"valid": np.zeros(FRAMES, int)}, "seen in no frame"),
        ({"img_name": np.array([f"{i // 2}.jpg" for i in range(FRAMES)])}, "several rows of x are of one image"),
        ({"Th": np.ones((FRAMES, 3)), "Rh": np.ones((FRAMES, 3))}, "beside 'Th'"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict, message: str):
    c = layouts.columns(INCAM)
    arrays = {"poses": c["pose"], "betas": c["betas"], "trans": c["trans"], "gender": "male"}
    np.savez(tmp_path / "x.npz", **(arrays | changes))
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
    np.savez(tmp_path / "y.npz", **arrays, frames=np.linspace(0, 1, FRAMES), valid=np.ones(3))  # neither can be used
    (clip,) = read_clips(tmp_path / "y.npz", ReadOptions())
    assert any("NOT USED" in note and "frames (12,)" in note for note in clip.notes)
    assert any("not used: valid" in note for note in clip.notes)


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
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"a": {"posse": c["pose"], "x": c["betas"]}}))
    with pytest.raises(UserError, match=r"a/posse \(12, 72\) \(like a pose\).*'posse': did you mean pose.*always work"):
        read_clips(tmp_path / "y.pkl", ReadOptions())


def test_files_of_one_row_are_people_until_told(tmp_path: Path):
    c, files = layouts.columns(INCAM), [tmp_path / f"{i:04d}.npz" for i in (3, 4, 9)]
    for i, file in enumerate(files):
        np.savez(file, poses=c["pose"][i], betas=c["betas"][i], trans=c["trans"][i], gender="male")
    clips = read_files(files, ReadOptions())
    assert len(clips) == 3
    assert "--rows files makes them the frames of one clip" in clips[0].notes[0]
    (clip,) = read_files(files, ReadOptions(rows="files"))
    assert (clip.number.tolist(), clip.moving) == ([3, 4, 9], True)
    np.testing.assert_allclose(clip.transl, INCAM["transl"][:3], atol=1e-6)


def test_people_by_id_are_clips(tmp_path: Path):
    c, order = layouts.columns(INCAM), np.random.default_rng(0).permutation(FRAMES)
    arrays = {"poses": c["pose"], "betas": c["betas"], "trans": c["trans"], "frame": ALL // 2, "id": ALL % 2}
    np.savez(tmp_path / "x.npz", **{key: value[order] for key, value in arrays.items()}, gender="male")
    clips = {clip.name: clip for clip in read_files([tmp_path / "x.npz"], ReadOptions())}
    for one in range(2):
        assert clips[f"x_{one}"].number.tolist() == [*range(6)]
        np.testing.assert_allclose(clips[f"x_{one}"].pose, INCAM["pose"][one::2], rtol=1e-5, atol=1e-6)
    (clip,) = read_files([tmp_path / "x.npz"], ReadOptions(), person="1")
    assert clip.name == "x_1"
    with pytest.raises(UserError, match=r"nobody has that id\. The files have: "):
        read_files([tmp_path / "x.npz"], ReadOptions(), person="7")


def test_the_docs_and_the_help_list_every_format(capsys):
    rows = describe_formats()
    assert {name for name, _, _ in rows} == {"meshes", *(format.name for format in FORMATS)}
    page = (Path(__file__).parents[2] / "docs" / "convert.md").read_text()
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    assert table in page, "python -m hmr_skel.convert.known makes the table in docs/convert.md"
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown and known in shown for name, _, known in rows)


def test_gaps_are_told_with_their_times(tmp_path: Path, open_body_dir: Path, capsys):
    tracks = layouts.wham(INCAM, UPRIGHT)
    tracks[0]["pose_world"] = tracks[0]["pose_world"].copy()
    tracks[0]["pose_world"][4:6] = np.nan
    path = write(tracks, tmp_path / "x.pkl")
    told = ["--which", "global", "--frame-rate", "30", "--body-models", str(open_body_dir)]
    assert main(["convert", str(path), *told, "-o", str(tmp_path / "out"), "--format", "mot"]) == 0
    err = capsys.readouterr().err
    assert "row 4 of x_0 is left out: not finite, and 1 more up to row 5 (0.13 s to 0.17 s)" in err
    for name, gap in (("x_0", "0.10 s to 0.20 s"), ("x_3", "0.17 s to 0.33 s")):
        assert f"{name} has 1 gap: {gap}" in err
        assert f"Frames are missing, and times jump: 1 gap: {gap}." in (tmp_path / "out" / f"{name}.mot").read_text()
