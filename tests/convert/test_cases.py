"""The shared cases, files in the layouts that people really have: each as its README says. Skipped without them."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hmr_skel import load_shards
from hmr_skel.cli import main
from hmr_skel.convert import ReadOptions
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


GAP = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]
HAS = [1, 2, 4, 5, 7, 8, 10, 11]
STILL = ([0] * 4, "camera")


@pytest.mark.parametrize(
    ("file", "options", "frames", "people"),
    [
        ("c03/wham_output.pkl", {"which": "incam"}, [[*range(6), *range(11, 17)], [*range(4)]],
         [(range(12), "camera"), (range(4), "camera")]),
        ("c03/wham_output.pkl", {"which": "global"}, [[*range(6), *range(11, 17)], [*range(4)]],
         [(range(12), "y-up"), (range(4), "y-up")]),
        ("c11/nlf_with_an_empty_image.pkl", {}, [[0, 0, 1, 2, 2, 4, 4, 4]], []),
        ("c11/nlf.pkl", {}, [[0, 0, 1, 2, 2, 3, 3, 3]], []),
        ("c12/world_results_1x12.npz", {}, [GAP], [(GAP, "camera")]),
        ("c12/world_results_2x12.npz", {}, [GAP, GAP], [(GAP, "camera"), (GAP, "camera", 1)]),
        ("c12/two_people_side_by_side.npz", {}, [[*range(12)]] * 2, [(range(12), "camera"), (range(12), "camera", 1)]),
        ("c14/spin_style.npz", {}, [HAS], []),
        ("c14/hmr2_style.npz", {}, [HAS], []),
        ("c17/unsplash_0.npz", {}, [[0]], [([0], "camera")]),
        ("c21", {}, [[9, 10, 11, 12]], [STILL]),  # but for VPoser's code, which is told
        ("c25/half.npz", {}, [[*range(12)]], [(range(12), "y-up")]),
        ("c25/bf16.pt", {}, [[*range(12)]], [(range(12), "y-up")]),
        ("c25/left_handed.npz", {"left_handed": True}, [[*range(12)]], [(range(12), "y-up")]),
    ],
)  # fmt: skip
def test_read_as_it_is(cases: Path, maker, file: str, options: dict, frames: list, people: list):
    """Frames' numbers; and of which rows of a person (frame of reference, seed) the clip is."""
    clips = read_files([cases / file], ReadOptions(smpl_gender="neutral", **options))
    assert [clip.number.tolist() for clip in clips] == frames
    for clip, (rows, *person) in zip(clips, people, strict=bool(people)):
        same(clip, maker.person(1 if rows is STILL[0] else 3 if "1x3" in file else 12, *person), list(rows))


def test_what_is_told_of_them(cases: Path):
    (clip,) = read_clips(cases / "c04/vibe_output.pkl", NONE)
    assert clip.number[clip.starts()].tolist() == [0, 40]
    (clip,) = read_clips(cases / "c13/bedlam_smpl.npz", NONE)
    assert any("'gender' is the person's" in note for note in clip.notes)
    assert set(clip.gender) == {"neutral"}
    (clip,) = read_clips(cases / "c12/world_results_1x3.npz", NONE)
    assert clip.number.tolist() == [0]
    (clip,) = read_clips(cases / "c25/no_betas.npz", ReadOptions(smpl_gender="male", zero_betas=True))
    assert not clip.betas.any()
    clips = read_files([cases / "c25"], ReadOptions(smpl_gender="male", zero_betas=True))
    assert {clip.name for clip in clips} == {"bf16", "half", "left_handed", "nan", "no_betas"}
    assert "2 of 7 files hold no motion and are passed over: LICENSE.txt, shape.npz" in clips[0].notes[0]


def test_easymocap_turns_the_mesh_about_the_origin(cases: Path):
    """The turn is about (1.2, 1.2, 1.2), of bodies as `tests/convert/test_layouts.py` poses them."""
    for files in (["flag3d.npz"], [f"{i:06d}.json" for i in range(3)], ["poses69.json"]):
        (clip,) = read_files([cases / "c07" / file for file in files], NONE)
        assert clip.number.tolist() == list(range(len(clip)))
        np.testing.assert_allclose(clip.turn, 1.2, rtol=1e-6)
        assert not clip.pose[:, 0].any()


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
