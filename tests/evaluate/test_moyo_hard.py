"""MOYO-HARD out of MOYO: which rows, and the count that is checked."""

from pathlib import Path

import numpy as np
import pytest

from hmr_skel.cli import main
from hmr_skel.errors import UserError
from hmr_skel.evaluate import moyo_hard
from hmr_skel.evaluate.benchmarks import BENCHMARKS
from hmr_skel.evaluate.labels import load_rows


def paths(lengths: dict[str, int]) -> list[str]:
    """Frames of two cameras, out of order."""
    found = [
        f"{sequence}/YOGI_Cam_0{camera}/{sequence}_{frame:05d}.jpg"
        for sequence, count in lengths.items()
        for camera in (2, 1)
        for frame in range(count)
    ]
    return np.random.default_rng(0).permutation(found).tolist()


def test_the_middle_half_of_the_front_camera_in_order(monkeypatch):
    monkeypatch.setattr(moyo_hard, "EXPECTED", 4 + 5)
    names = np.array(paths({"tree": 8, "crow": 9}), object)
    rows, rounding = moyo_hard.middle_rows(names, "moyo")
    kept = sorted(names[rows].tolist())
    assert kept == sorted(
        [f"tree/YOGI_Cam_01/tree_{i:05d}.jpg" for i in range(2, 6)]
        + [f"crow/YOGI_Cam_01/crow_{i:05d}.jpg" for i in range(2, 7)]
    )
    assert rounding == "quarters rounded down"


def test_the_rounding_that_gives_the_papers_count_is_taken(monkeypatch):
    names = np.array(paths({"tree": 9, "crow": 9}), object)
    monkeypatch.setattr(moyo_hard, "EXPECTED", 2 * (6 - 2))
    assert moyo_hard.middle_rows(names, "moyo")[1] == "from 25 % to 75 %, both rounded down"
    monkeypatch.setattr(moyo_hard, "EXPECTED", 2 * 3)
    assert moyo_hard.middle_rows(names, "moyo")[1] == "quarters rounded up"


def test_another_count_is_refused():
    names = np.array(paths({"tree": 8}), object)
    with pytest.raises(UserError, match=r"not the 9,725 images of MOYO-HARD \(quarters rounded down: 4;"):
        moyo_hard.middle_rows(names, "moyo")
    with pytest.raises(UserError, match=r"no image of camera YOGI_Cam_01.*YOGI_Cam_02"):
        moyo_hard.middle_rows(names[np.array(["Cam_02" in n for n in names])], "moyo")
    with pytest.raises(UserError, match=r"row 0.*Expected <sequence>/<camera>/<frame>\.jpg"):
        moyo_hard.middle_rows(np.array(["a.jpg"], object), "moyo")


def test_the_written_file_is_read_as_the_benchmark(tmp_path: Path, capsys, monkeypatch):
    names = paths({"tree": 8})
    count = len(names)
    rng = np.random.default_rng(1)
    smpl = {"global_orient": (count, 3), "body_pose": (count, 69), "betas": (count, 10)}
    smpl = {key: rng.normal(size=shape) for key, shape in smpl.items()}
    np.savez(
        tmp_path / "moyo_v2.npz", names=np.array(names), img_paths=np.array(names), centers=rng.random((count, 2)),
        scales=rng.uniform(100, 200, (count, 2)), smpl=np.array(smpl, object),
        extra_info=np.array({"dataset_name": "MoYo"}, object),
    )  # fmt: skip
    command = ["moyo-hard", str(tmp_path / "moyo_v2.npz"), "-o", str(tmp_path / "moyo_hard.npz")]
    assert main(command) == 2
    assert not (tmp_path / "moyo_hard.npz").exists()
    monkeypatch.setattr(moyo_hard, "EXPECTED", 4)
    assert main(command) == 0
    assert "4 images" in capsys.readouterr().out
    whole, hard = (load_rows(BENCHMARKS[name], tmp_path / BENCHMARKS[name].labels) for name in ("moyo", "moyo-hard"))
    assert hard.imgname.tolist() == [f"tree/YOGI_Cam_01/tree_{i:05d}.jpg" for i in range(2, 6)]
    same = whole.take(np.array([whole.imgname.tolist().index(name) for name in hard.imgname]))
    for name in ("center", "side", "smpl_pose", "smpl_betas"):
        np.testing.assert_array_equal(getattr(hard, name), getattr(same, name))
