"""The shared cases, files in the layouts that people really have: each as its README says. Skipped without them."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hmr_skel import load_shards
from hmr_skel.body.smpl import Smpl
from hmr_skel.cli import main
from hmr_skel.convert import Bodies, ReadOptions, fit_clips
from hmr_skel.convert.formats import read_clips, read_files
from hmr_skel.errors import UserError

SCRIPT = Path(__file__).parents[3] / "shared" / "cases" / "make_cases.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="allowed: ../shared/cases is not there")
NEUTRAL = ReadOptions(smpl_gender="neutral")
NONE = ReadOptions()


@pytest.fixture(scope="module")
def maker():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))  # leaves no compiled file beside it


@pytest.fixture(scope="module")
def cases(maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cases")
    for name, make in vars(maker).items():
        if name.startswith("c") and name[1:3].isdigit():
            (root / name[:3]).mkdir()
            make(root / name[:3])
    return root


def same(clip, truth, rows=slice(None)) -> None:
    """The clip has these rows of a (pose [T 24 3], betas [10], trans [T 3])."""
    pose, betas, transl = truth
    near = dict.fromkeys(("rtol", "atol"), 2e-2 if clip.file == "bf16" else 2e-3)
    np.testing.assert_allclose(np.cos(clip.pose[:, 0]), np.cos(pose[rows, 0]), **near)  # half a turn has two signs
    np.testing.assert_allclose(clip.pose[:, 1:22], pose[rows, 1:22], **near)
    np.testing.assert_allclose(clip.betas, np.tile(betas, (len(clip), 1)), **near)
    np.testing.assert_allclose(clip.transl, transl[rows], **near)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("c01/hmr4d_results.pt", r"GVHMR, SMPL-X\).*incam \(camera\), global \(y-up\)"),
        ("c01/hmr4d_results.pt.pkl", r"GVHMR, SMPL-X\).*incam \(camera\), global \(y-up\)"),
        ("c02/smpl.npz", r"--model smplh or --model smplx"),
        ("c02/incam_as_amass.npz", r"--model smplh or --model smplx"),
        ("c03/wham_output.pkl", r"incam \(camera\), global \(y-up\).*--which"),
        ("c04/vibe_nobody.pkl", r"It has nothing"),
        ("c18/new_joints_012314.npy", r"positions, not angles"),
        ("c18/new_joint_vecs_012314.npy", r"HumanML3D's features, no angles"),
        ("c18/results.npy", r"positions, not angles"),
        ("c21/vposer_code.pkl", r"VPoser's code, no angles"),
        ("c25/no_betas.npz", r"no betas.*--betas zero"),
    ],
)
def test_asked_or_refused(cases: Path, file: str, message: str):
    with pytest.raises(UserError, match=message):
        read_clips(cases / file, NONE)


def test_positions_as_poses(cases: Path, tmp_path: Path):
    joints = np.load(cases / "c18/new_joints_012314.npy")
    np.savez(tmp_path / "a.npz", poses=joints.reshape(12, 66), betas=np.zeros(10), gender="male")
    with pytest.raises(UserError, match="positions, not angles"):
        read_clips(tmp_path / "a.npz", NONE)


def test_frames_keep_their_numbers(cases: Path, maker):
    """WHAM and VIBE."""
    for which, frame in (("incam", "camera"), ("global", "y-up")):
        first, second = read_clips(cases / "c03/wham_output.pkl", ReadOptions(which=which, frame_rate=30))
        same(first, maker.person(12, frame))
        assert (first.frame, first.name, second.name, len(second)) == (frame, "wham_output_0", "wham_output_3", 4)
        assert first.number.tolist() == [*range(6), *range(11, 17)]
        assert np.flatnonzero(first.starts()).tolist() == [0, 6]
    (clip,) = read_clips(cases / "c04/vibe_output.pkl", NONE)
    assert clip.number.tolist() == [*range(6), *range(40, 46)]
    assert np.flatnonzero(clip.starts()).tolist() == [0, 6]


def test_easymocap_turns_the_mesh_about_the_origin(cases: Path, maker, bodies: Bodies):
    pose, betas, transl = maker.person(12)
    pose[:, 0] = 0
    smpl = bodies.smpl("neutral")
    straight = smpl(*map(torch.tensor, (pose[:, 0], pose[:, 1:], np.tile(betas, (12, 1)), 0 * transl)))
    turn = maker.rotmat(np.full(3, 1.2))
    expected = straight.vertices.numpy() @ turn.T + transl[:, None]
    for files in (["flag3d.npz"], [f"{i:06d}.json" for i in range(3)], ["poses69.json"]):
        (clip,) = read_files([cases / "c07" / file for file in files], NONE)
        (fitted,) = fit_clips([clip], bodies)
        ours = posed(fitted.smpl, smpl)
        assert np.abs(ours - expected[: len(clip)]).max() < 1e-5
        assert len(clip) == {1: len(clip), 3: 3}[len(files)]
        assert clip.number.tolist() == list(range(len(clip)))
        assert fitted.v2v_mm.max() < 20


def posed(clip, smpl: Smpl) -> np.ndarray:
    columns = (clip.pose[:, 0], clip.pose[:, 1:], clip.betas, clip.transl)
    return smpl(*map(torch.from_numpy, columns)).vertices.numpy()


def test_people_of_images_are_rows(cases: Path, maker):
    (clip,) = read_clips(cases / "c11/nlf_with_an_empty_image.pkl", NEUTRAL)
    assert not clip.moving
    assert clip.number.tolist() == [0, 0, 1, 2, 2, 4, 4, 4]
    same(clip.take(np.arange(2)), maker.person(2, "camera", 0))
    assert any("nobody was found in 1 of 5 images" in note for note in clip.notes)
    (clip,) = read_clips(cases / "c11/nlf.pkl", NEUTRAL)
    assert clip.number.tolist() == [0, 0, 1, 2, 2, 3, 3, 3]


def test_people_first(cases: Path, maker):
    seen = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]
    for name, people, frames in (("1x12", 1, seen), ("2x12", 2, seen), ("1x3", 1, [0])):
        clips = read_clips(cases / f"c12/world_results_{name}.npz", NONE)
        assert len(clips) == people
        for i, clip in enumerate(clips):
            assert clip.number.tolist() == frames
            same(clip, maker.person(3 if name == "1x3" else 12, "camera", i), frames)
    clips = read_clips(cases / "c12/two_people_side_by_side.npz", NONE)
    for i, clip in enumerate(clips):
        same(clip, maker.person(12, "camera", i))
    assert len(clips) == 2


def test_a_gender_that_is_the_persons(cases: Path, maker):
    (clip,) = read_clips(cases / "c13/bedlam_smpl.npz", NONE)
    assert set(clip.gender) == {"neutral"}
    assert any("'gender' is the person's" in note for note in clip.notes)
    same(clip.take(np.arange(3)), maker.person(12, "camera"), slice(3))


def test_rows_without_an_annotation(cases: Path):
    for name in ("spin_style", "hmr2_style"):
        (clip,) = read_clips(cases / f"c14/{name}.npz", NONE)
        assert clip.number.tolist() == [1, 2, 4, 5, 7, 8, 10, 11]
        assert clip.left_out == tuple((i, "not annotated") for i in (0, 3, 6, 9))


@pytest.mark.parametrize("name", ["c16/01_01_skel.pkl", "c16/hsmr.npz"])
def test_skel_is_written_on(cases: Path, open_body_dir: Path, tmp_path: Path, capsys, name: str):
    start = ["convert", str(cases / name), "--body-models", str(open_body_dir), "--frame", "y-up", "--frame-rate", "30"]
    assert main([*start, "-o", str(tmp_path / "a.parquet"), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out.strip().splitlines()[-1])
    assert (report["rows"], report["kept"], report["v2v_mm"]) == (6, 6, None)
    assert "this is SKEL" in err
    shards = load_shards(tmp_path / "a.parquet")
    assert not shards.valid("smpl_pose").any()
    assert not shards["skel_q"].any()
    for out in ("a.mot", "a.glb"):
        frames = ["--frames", "0"] if out == "a.glb" or "hsmr" in name else []
        assert main([*start, "-o", str(tmp_path / out), "-q", *frames]) == 0
        assert (tmp_path / out).stat().st_size > 500


def test_skels_own_example(cases: Path, maker):
    (clip,) = read_clips(cases / "c17/unsplash_0.npz", NONE)
    same(clip, maker.person(1, "camera"))


def test_a_file_per_frame(cases: Path, maker):
    (clip,) = read_files([cases / "c21"], NONE)  # but for VPoser's code, which is told
    assert "1 of 5 files hold no motion and are passed over: vposer_code.pkl" in clip.notes[0]
    assert (clip.number.tolist(), clip.moving) == ([9, 10, 11, 12], True)
    same(clip, [np.tile(a, (4, *[1] * (a.ndim - 1))) if a.ndim > 1 else a for a in maker.person(1, "camera")])


def test_kinds_of_numbers_and_what_options_say(cases: Path, maker):
    folder, truth = cases / "c25", maker.person(12)
    for file in ("half.npz", "bf16.pt"):
        same(read_clips(folder / file, NEUTRAL)[0], truth)
    (mirrored,) = read_clips(folder / "left_handed.npz", ReadOptions(left_handed=True))
    same(mirrored, truth)
    assert (mirrored.from_input == np.diag([-1, 1, 1, 1])).all()
    (clip,) = read_clips(folder / "no_betas.npz", ReadOptions(smpl_gender="male", zero_betas=True))
    assert not clip.betas.any()


def test_a_folder_passes_over_what_is_no_motion(cases: Path):
    clips = read_files([cases / "c25"], ReadOptions(smpl_gender="male", zero_betas=True))
    assert {clip.name for clip in clips} == {"bf16", "half", "left_handed", "nan", "no_betas"}
    assert "2 of 7 files hold no motion and are passed over: LICENSE.txt, shape.npz" in clips[0].notes[0]
