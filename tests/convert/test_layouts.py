"""Each tool's layout, in a file of its own: the body that is read stands where the tool's own formula puts it."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hmr_skel.body.smpl import Smpl
from hmr_skel.cli import main
from hmr_skel.convert import Bodies, ReadOptions, SmplClip, fit_clips
from hmr_skel.convert.formats import read_clips, read_files
from hmr_skel.convert.known import FORMATS, describe_formats
from hmr_skel.convert.mesh_rows import MeshArray
from hmr_skel.convert.vertices import with_parameters
from hmr_skel.errors import UserError
from tests.convert import layouts
from tests.convert.conftest import FRAMES, walk
from tests.convert.layouts import write

INCAM, SECOND = (walk(up="camera", seed=seed) for seed in (0, 1))
UPRIGHT, ROOM, SIDE = walk(up="y-up"), walk(seed=2), walk(seed=3)
ALL = np.arange(FRAMES)


class Case(NamedTuple):
    """A file's content, or with `files` that of each path; and what it says.

    People are (truth, frames' numbers); a truth may also have `turn`, `at_pelvis`, `hands`, `q` or `vertices`.
    """

    content: Any
    people: list[tuple[dict[str, Any], np.ndarray]]
    frame: str | None
    gender: str
    options: ReadOptions = ReadOptions()
    moving: bool = True
    files: bool = False


def which(name: str) -> ReadOptions:
    return ReadOptions(which=name)


def without(truth: dict, *names: str) -> dict:
    """Without translation, betas or hands, where a format has none."""
    made = truth | {name: 0 * truth[name] for name in names if name in truth}
    return made | {"pose": made["pose"] * (np.arange(24) < 22)[:, None]} if "hands" in names else made


def images(*people: dict) -> list[tuple[dict, np.ndarray]]:
    """The rows of NLF's images."""
    there = [(i, person) for i in range(FRAMES) for person in people[: 2 - i % 2]]
    truth = {key: np.stack([person[key][i] for i, person in there]) for key in ("pose", "transl")}
    truth |= {"betas": np.stack([person["betas"] for _, person in there]), "rows": np.arange(len(there))}
    return [(truth, np.array([i for i, _ in there]))]


GAP = np.array([*range(6), *range(10, 16)])
HAS = ALL % 3 > 0
GLAMR_WORLD = ROOM | {"pose": np.concatenate((ROOM["pose"][:, :1], INCAM["pose"][:, 1:]), 1), "betas": INCAM["betas"]}
Q = 0.1 * np.random.default_rng(0).normal(size=(FRAMES, 46)).astype("f4")
HANDS = np.full((FRAMES, 12), 0.1)
VERTICES = np.random.default_rng(1).uniform(-0.9, 0.9, (FRAMES, 1000, 3)).astype("f4")
CAMERA = {
    "world_cam_R": layouts.matrices(np.random.default_rng(0).normal(size=(FRAMES + 7, 3))),
    "world_cam_T": np.random.default_rng(1).normal(size=(FRAMES + 7, 3)),
}
IN_WORLD = INCAM | {
    "turn": Rotation.from_matrix(CAMERA["world_cam_R"][7:]).as_rotvec(),
    "transl": np.einsum("tij,tj->ti", CAMERA["world_cam_R"][7:], INCAM["transl"]) + CAMERA["world_cam_T"][7:],
}
STRAIGHT = UPRIGHT | {"pose": UPRIGHT["pose"] * (np.arange(24) > 0)[:, None], "turn": UPRIGHT["pose"][:, 0]}
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
    "VIBE": Case(layouts.vibe(INCAM, GAP), [(without(INCAM, "transl"), GAP)], "camera", "neutral"),
    "TRAM": Case(layouts.tram(INCAM), [(INCAM, ALL + 7)], "camera", "neutral"),
    "TRAM, world": Case(
        {"hps/hps_track_0.npy": layouts.tram(INCAM), "camera.npy": CAMERA}, [(IN_WORLD, ALL + 7)], "y-up", "neutral",
        which("global"), files=True,
    ),
    "GVHMR": Case(layouts.gvhmr(INCAM, UPRIGHT), [(INCAM, ALL)], "camera", "neutral", which("incam")),
    "GVHMR, world": Case(layouts.gvhmr(INCAM, UPRIGHT), [(UPRIGHT, ALL)], "y-up", "neutral", which("global")),
    "PromptHMR": Case(layouts.prompthmr(INCAM, UPRIGHT), [(INCAM, ALL)], "camera", "neutral", which("incam")),
    "SLAHMR": Case(
        layouts.slahmr(INCAM, SECOND), [(without(one, "hands"), ALL[:-1]) for one in (INCAM, SECOND)], "camera",
        "neutral",
    ),
    "ROMP": Case(
        {"results": layouts.romp(INCAM, SECOND, drop=(5,)), "sequence_results": {1: {"frame_id": [0]}}},
        [(INCAM, np.delete(ALL, 5)), (SECOND, np.delete(ALL, [0, 1, 5]))], "camera", "neutral",
    ),
    "ROMP, one image": Case(
        {"results": layouts.romp(INCAM, SECOND)["00000000.png"]}, [(INCAM, ALL[:1])], "camera", "neutral", moving=False
    ),
    "NLF": Case(layouts.nlf(INCAM, SECOND), images(INCAM, SECOND), "camera", "neutral", moving=False),
    "EMDB": Case(layouts.emdb(UPRIGHT), [(UPRIGHT, np.delete(ALL, [3, 4]))], "y-up", "female"),
    "3DPW": Case(layouts.threedpw(INCAM), [(INCAM, ALL)], None, "male"),
    "EasyMocap": Case(layouts.easymocap(UPRIGHT), [(STRAIGHT, ALL)], None, "neutral"),
    "EasyMocap, files": Case(layouts.easymocap_files(UPRIGHT), [(STRAIGHT, ALL)], None, "neutral", files=True),
    "AIST++": Case(layouts.aist(UPRIGHT), [(without(UPRIGHT, "betas"), ALL)], "y-up", "male"),
    "GLAMR, camera": Case(
        layouts.glamr(INCAM, GLAMR_WORLD), [(INCAM | {"at_pelvis": True}, ALL[2:])], "camera", "neutral", which("incam")
    ),
    "GLAMR, world": Case(
        layouts.glamr(INCAM, GLAMR_WORLD), [(GLAMR_WORLD | {"at_pelvis": True}, ALL[2:])], "z-up", "neutral",
        which("global"),
    ),
    "BEDLAM": Case(layouts.bedlam(INCAM, UPRIGHT), [(INCAM, ALL)], "camera", "neutral", moving=False),
    "BEDLAM, world": Case(
        layouts.bedlam(INCAM, UPRIGHT), [(UPRIGHT, ALL)], None, "neutral", which("global"), moving=False
    ),
    "CameraHMR's labels": Case(layouts.labels(INCAM), [(INCAM, ALL)], "camera", "neutral", moving=False),
    "SPIN's labels": Case(
        layouts.regressor_labels(INCAM, HAS, whole=True), [(without(INCAM, "transl"), ALL[HAS])], "camera", "neutral",
        moving=False,
    ),
    "4D-Humans' labels": Case(
        layouts.regressor_labels(INCAM, HAS, whole=False), [(without(INCAM, "transl"), ALL[HAS])], "camera", "neutral",
        moving=False,
    ),
    "4D-Humans": Case(
        layouts.phalp(INCAM), [(INCAM, ALL), (INCAM, np.delete(ALL, [0, 1, 2, 3, 9]))], "camera", "neutral"
    ),
    "a list of people": Case(
        [{"global_orient": pose[:1], "body_pose": pose[1:], "betas": INCAM["betas"][:10], "camera": place, "id": i}
         for i, (pose, place) in enumerate(zip(INCAM["pose"], INCAM["transl"], strict=True))],
        [(INCAM, ALL)], "camera", "neutral", moving=False,
    ),
    "HMR2": Case(layouts.regressed(INCAM), [(INCAM, ALL)], "camera", "neutral", moving=False),
    "HybrIK": Case(layouts.hybrik(INCAM), [(without(INCAM, "transl"), ALL)], "camera", "neutral"),
    "InterHuman": Case(
        layouts.interhuman(ROOM, SIDE), [(without(one, "hands"), ALL) for one in (ROOM, SIDE)], "z-up", "male"
    ),
    "SMPLify-X": Case(
        layouts.frame_files(INCAM, "SMPLify-X"), [(INCAM, ALL + 3)], "camera", "male", ReadOptions(smpl_gender="male"),
        files=True,
    ),
    "EgoBody": Case(layouts.frame_files(INCAM, "EgoBody"), [(INCAM, ALL + 3)], "camera", "female", files=True),
    "PROX": Case(
        layouts.frame_files(INCAM, "PROX"), [(INCAM | {"hands": HANDS}, ALL + 3)], "camera", "male",
        ReadOptions(smpl_gender="male"), files=True,
    ),
    "RICH": Case(
        layouts.frame_files(INCAM, "RICH"), [(INCAM | {"hands": HANDS}, ALL + 3)], "camera", "male",
        ReadOptions(smpl_gender="male", frame="camera", rows="files"), files=True,
    ),
    "smplcodec": Case(layouts.codec(UPRIGHT), [(UPRIGHT, ALL)], None, "female"),
    "smplcodec, SMPL-X": Case(
        layouts.codec(UPRIGHT, 2), [(UPRIGHT | {"hands": np.full((FRAMES, 45), 0.1)}, ALL)], None, "female"
    ),
    "AMASS": Case(layouts.amass(ROOM), [(without(ROOM, "hands"), ALL)], "z-up", "male"),
    "AMASS, SMPL-X": Case(layouts.amass_smplx(ROOM), [(ROOM, ALL)], "z-up", "neutral"),
    "HSMR": Case(layouts.hsmr(Q, INCAM), [(INCAM | {"q": Q}, ALL)], "camera", "male", moving=False),
    "SKEL-CF's labels": Case(
        layouts.skel_labels(Q, INCAM), [(INCAM | {"q": Q}, ALL)], "camera", "neutral", moving=False
    ),
    "SAM 3D Body": Case(
        {"pred_vertices": VERTICES[0], "pred_cam_t": INCAM["transl"][0], "body_pose_params": np.zeros(133)},
        [(INCAM | {"vertices": VERTICES + INCAM["transl"][:1, None]}, ALL[:1])], None, "neutral", moving=False,
    ),
    "meshes": Case({"vertices": VERTICES, "fps": 30.0}, [(INCAM | {"vertices": VERTICES}, ALL)], None, "neutral"),
}  # fmt: skip


def read(case: Case, folder: Path, suffix: str = ".pkl", options: ReadOptions | None = None) -> list[SmplClip]:
    """The clips of a case whose files are written anew."""
    if case.files:
        shutil.rmtree(folder / "files", ignore_errors=True)
        files = [write(content, folder / "files" / path) for path, content in case.content.items()]
        files = [file for file in files if file.name != "camera.npy"]
    else:
        files = [write(case.content, folder / f"x{suffix}")]
    return read_files(files, options or case.options)


def padded(rows: list[np.ndarray]) -> np.ndarray:
    """Rows as one array, with zeros after those that are shorter."""
    most = max(map(len, rows))
    return np.stack([np.concatenate((row, np.zeros((most - len(row), *row.shape[1:])))) for row in rows])


def said(clip: SmplClip) -> dict[str, np.ndarray]:
    """What a clip says, in the terms of a truth."""
    found = {"pose": clip.pose, "betas": clip.betas, "transl": clip.transl, "turn": clip.turn, "q": clip.skel_q}
    if clip.mesh is not None:
        rows = [(clip.mesh.sources[source], row) for source, row in zip(clip.mesh.source, clip.mesh.row, strict=True)]
        if isinstance(clip.mesh.sources[0], MeshArray):
            return {"vertices": np.stack([source.read(np.array([row]), None)[0].numpy() for source, row in rows])}
        found |= {
            key: padded([getattr(source, key)[row] for source, row in rows]) for key in ("pose", "betas", "transl")
        }
        if all(hand is not None for source, _ in rows for hand in source.hands):
            found["hands"] = padded([np.concatenate([hand[row] for hand in source.hands]) for source, row in rows])
    return {key: value for key, value in found.items() if value is not None}


def far_from(clip: SmplClip, truth: dict[str, Any], rows: np.ndarray) -> dict[str, np.ndarray]:
    """How far [T] a clip is from rows of a truth, in radians, betas and metres."""
    found, none = said(clip), np.zeros((len(clip), 3))
    if "vertices" in found:
        return {"vertices": np.abs(found["vertices"] - truth["vertices"][rows]).max((1, 2))}

    def turned(pose: np.ndarray) -> np.ndarray:
        return layouts.matrices(pose).reshape(len(clip), -1)

    betas = truth["betas"][rows] if truth["betas"].ndim > 1 else truth["betas"]
    width = min(found["betas"].shape[1], betas.shape[-1])
    pairs = {
        "betas": (found["betas"][:, :width], betas[..., :width]),
        "transl": (found["transl"], truth["transl"][rows]),
        "turn": (turned(found.get("turn", none)), turned(truth["turn"][rows] if "turn" in truth else none)),
    }
    if "q" in truth and "q" in found:
        pairs["pose"] = found["q"], truth["q"][rows]
    else:
        pairs["pose"] = found["pose"][:, 1:22], truth["pose"][rows, 1:22]
        pairs["root"] = turned(found["pose"][:, 0]), turned(truth["pose"][rows, 0])
    if "hands" in truth:
        hands = np.tile(truth["hands"][rows], (1, 2))
        same = found.get("hands", np.empty(0)).shape == hands.shape
        pairs["hands"] = found["hands"] if same else np.nan * hands, hands
    far = {what: np.abs(one - two).reshape(len(clip), -1).max(1) for what, (one, two) in pairs.items()}
    return far | {"transl": far["transl"] + (clip.at_pelvis != truth.get("at_pelvis", False))}


def rows_of(truth: dict, number: np.ndarray) -> np.ndarray:
    """The truth's rows that a file has."""
    return truth.get("rows", number if number.max() < FRAMES else ALL)


def meshes(smpl: Smpl, truth: dict[str, Any], rows: np.ndarray) -> np.ndarray:
    """V = R(turn) smpl(pose) + transl; without the body's root joint, where the translation is that joint's place."""
    betas = truth["betas"][rows] if truth["betas"].ndim > 1 else np.tile(truth["betas"], (len(rows), 1))
    columns = truth["pose"][rows, 0], truth["pose"][rows, 1:], betas[:, :10], 0 * truth["transl"][rows]
    posed = smpl(*(torch.tensor(column, dtype=torch.float32) for column in columns))
    vertices = posed.vertices.numpy() - (posed.joints[:, :1].numpy() if truth.get("at_pelvis") else 0)
    turn = layouts.matrices(truth["turn"][rows] if "turn" in truth else np.zeros((len(rows), 3)))
    return np.einsum("tij,tvj->tvi", turn, vertices) + truth["transl"][rows, None]


def posed(clip: SmplClip, bodies: Bodies) -> np.ndarray:
    clip = with_parameters(clip, bodies)
    clip = clip if clip.turn is None else fit_clips([clip], bodies)[0].smpl
    columns = (clip.pose[:, 0], clip.pose[:, 1:], clip.betas, clip.transl)
    return bodies.smpl(clip.gender[0])(*map(torch.from_numpy, columns)).vertices.numpy()


ONE_FILE = [name for name, case in CASES.items() if not case.files]
LISTS = ("a list of WHAM's tracks", "a list of people", "NLF")  # in an .npz, a list is an array
NAMED = [name for name in ONE_FILE if name not in LISTS and all(str(key).isidentifier() for key in CASES[name].content)]
TEXTS = ("3DPW", "ROMP", "4D", "BEDLAM", "Camera", "SPIN", "SKEL-CF", "AMASS")  # torch reads no arrays of texts
KINDS = [
    *((name, suffix) for name in CASES for suffix in ((".pkl",) if CASES[name].files else (".pkl", ".npy"))),
    *((name, ".npz") for name in NAMED),  # whose keys can be names of arrays
    *((name, ".json") for name in ("HMR2", "EMDB", "NLF", "EasyMocap", "ROMP", "AMASS, SMPL-X")),
    *((name, ".pt") for name in ONE_FILE if not name.startswith(TEXTS)),
]


@pytest.mark.parametrize(("name", "suffix"), KINDS)
def test_the_body_stands_where_the_tool_puts_it(tmp_path: Path, bodies: Bodies, name: str, suffix: str):
    case = CASES[name]
    clips = read(case, tmp_path, suffix)
    assert len(clips) == len(case.people)
    for clip, (truth, number) in zip(clips, case.people, strict=True):
        assert (clip.frame, set(clip.gender), clip.moving) == (case.frame, {case.gender}, case.moving)
        assert clip.number.tolist() == number.tolist()
        rows = rows_of(truth, number)
        assert max(far.max() for far in far_from(clip, truth, rows).values()) < 1e-4
        if clip.mesh is None and clip.skel_q is None:
            assert np.abs(posed(clip, bodies)[::4] - meshes(bodies.smpl(case.gender), truth, rows[::4])).max() < 1e-4


def test_tracks_are_cut_at_shots_and_where_nobody_was_seen(tmp_path: Path):
    first, second = read(CASES["4D-Humans"], tmp_path)
    assert (first.name, second.name) == ("x_1", "x_2")
    assert [clip.number[clip.starts()].tolist() for clip in (first, second)] == [[0, 6], [4, 6, 10]]


def test_trams_camera_leads_to_the_world_or_says_why_not(tmp_path: Path):
    path = write(layouts.tram(INCAM), tmp_path / "hps" / "hps_track_0.npy")
    with pytest.raises(UserError, match=r"--which global needs camera\.npy"):
        read_clips(path, which("global"))
    write(CAMERA, tmp_path / "camera.npy")
    (clip,) = read_clips(path, which("global"))
    np.testing.assert_allclose(clip.from_input[:, :3, 3], CAMERA["world_cam_T"][7:])
    np.testing.assert_allclose(clip.from_input[:, :3, :3], CAMERA["world_cam_R"][7:])
    with pytest.raises(UserError, match="leave --left-handed out"):
        read_clips(path, ReadOptions(which="global", left_handed=True))
    uncounted = write({key: value for key, value in layouts.tram(INCAM).items() if key != "frame"}, tmp_path / "x.npy")
    with pytest.raises(UserError, match="no 'frame'"):
        read_clips(uncounted, which("global"))
    write({key: value[:5] for key, value in CAMERA.items()}, tmp_path / "camera.npy")
    with pytest.raises(UserError, match="does not fit"):
        read_clips(path, which("global"))


def test_a_camera_that_turns_the_body_is_refused(tmp_path: Path):
    (one, *_) = layouts.frame_files(INCAM, "SMPLify-X").values()
    path = write(one | {"camera_rotation": layouts.matrices(np.ones((1, 3)))}, tmp_path / "000.pkl")
    with pytest.raises(UserError, match="'camera_rotation' turns the body"):
        read_clips(path, ReadOptions(smpl_gender="male"))


@pytest.mark.parametrize("make", [layouts.gvhmr, layouts.prompthmr])
def test_smplx_is_named_with_its_frames(tmp_path: Path, make, bodies):
    path = write(make(INCAM, UPRIGHT), tmp_path / "x.pkl")
    with pytest.raises(UserError, match=r"HMR, SMPL-X\).*incam \(camera\), global \(y-up\).*--which"):
        read_clips(path, ReadOptions())
    with pytest.raises(UserError, match=r"files are of smplx, but --model says smpl\."):
        read_clips(path, ReadOptions(which="incam", model="smpl"))
    (clip,) = read_clips(path, which("incam"))
    assert "SMPL-X" in clip.notes[-1]
    with pytest.raises(UserError, match=r"SMPLX_NEUTRAL\.npz.*smpl-x\.is\.tue\.mpg\.de.*smplx2smpl_deftrafo_setup"):
        fit_clips([clip], bodies)


@pytest.mark.parametrize("make", [
    lambda i: layouts.romp(INCAM)[f"{i:08d}.png"],
    lambda i: {"pred_smpl_params": {"global_orient": INCAM["pose"][i, :1], "body_pose": INCAM["pose"][i, 1:],
                                    "betas": INCAM["betas"]}, "pred_cam_t": INCAM["transl"][i]},
])  # fmt: skip
def test_images_of_a_dict_are_frames_where_asked(tmp_path: Path, make):
    """ROMP's and HMR2's, whose keys are the images."""
    path = write({f"{2 * i:06d}.jpg": make(i) for i in ALL}, tmp_path / "x.pkl")
    assert len(read_clips(path, ReadOptions())) == FRAMES
    (clip,) = read_clips(path, ReadOptions(rows="frames"))
    assert (clip.moving, clip.number.tolist()) == (True, [*range(0, 2 * FRAMES, 2)])
    assert max(far.max() for far in far_from(clip, INCAM, ALL).values()) < 1e-4


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
