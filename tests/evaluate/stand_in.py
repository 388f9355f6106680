"""The benchmarks' files, made in their formats from the default set's people and pictures: a few rows each."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hmr_skel.body.smpl import Smpl, keypoints_44, load_points_matrix
from hmr_skel.evaluate.benchmarks import BENCHMARKS
from hmr_skel.open_data.images import make_images
from hmr_skel.open_data.labels import make_labels

ROWS = 6
GENDERS = np.array(["m", "f", "male", "female", "m", "f"])
NAMES = {
    "3dpw": ["imageFiles/walk_0{}/image_0000{}.jpg"] * ROWS,
    "emdb": ["P0/0{}_outdoor/images/0000{}.jpg"] * ROWS,
    "spec-syn": ["images/{}_{}.jpg"] * ROWS,
    "h36m-p2": ["S9_Posing_{}.55011271_00000{}.jpg"] * ROWS,
    "moyo": ["pose_{}/YOGI_Cam_01/f_0000{}.jpg"] * ROWS,
    "coco": ["val2017/{}{}.jpg"] * ROWS,
}
"""Filled with the number of the recording (two rows each) and that of the row."""


@dataclass(frozen=True)
class StandIn:
    """Where they are, and what they were made of."""

    folder: Path
    labels: dict[str, np.ndarray]
    keypoints_3d: np.ndarray  # [N 44 3] of the neutral SMPL


def write_stand_in(folder: Path, bodies: Path) -> StandIn:
    """`labels/` and `images/` of all benchmarks."""
    source = folder / "source"
    make_labels(source / "labels.npz", ROWS, 3, bodies)
    make_images(source / "labels.npz", source / "images", bodies, workers=1)
    labels = dict(np.load(source / "labels.npz"))
    keypoints_3d = _keypoints_3d(labels, bodies)
    (folder / "labels").mkdir()
    content = {
        **{name: _camerahmr(labels) for name in ("3dpw", "emdb", "spec-syn")},
        "h36m-p2": _hmr2(labels, keypoints_3d, as_bytes=True),
        "coco": _hmr2(labels, keypoints_3d, as_bytes=False),
        "moyo": _moyo(labels),
        "moyo-hard": _moyo(labels),
    }
    for name, arrays in content.items():
        benchmark = BENCHMARKS[name]
        names = [text.format(i // 2, i) for i, text in enumerate(NAMES[name.removesuffix("-hard")])]
        key = "img_paths" if benchmark.format == "moyo" else "imgname"
        arrays[key] = np.array(names).astype("S") if name == "h36m-p2" else np.array(names)
        np.savez(folder / "labels" / benchmark.labels, **arrays)
        for i, image in enumerate(names):
            target = folder / "images" / benchmark.images / image
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / "images" / labels["imgname"][i], target)
    return StandIn(folder, labels, keypoints_3d)


def _camerahmr(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {key: labels[key] for key in ("center", "scale", "pose_cam", "shape", "cam_int", "gtkps")}
    return arrays | {"gender": GENDERS}


def _hmr2(labels: dict[str, np.ndarray], points: np.ndarray, as_bytes: bool) -> dict[str, np.ndarray]:
    """Scale in px: one number a row in one file, two in the other."""
    side = 200 * labels["scale"]
    homogeneous = np.concatenate((points, np.ones((ROWS, 44, 1))), -1)
    arrays = {"center": labels["center"], "scale": side if as_bytes else np.stack((0.7 * side, side), 1)}
    for kind, whole in (("2d", labels["gtkps"]), ("3d", homogeneous)):
        arrays[f"body_keypoints_{kind}"], arrays[f"extra_keypoints_{kind}"] = whole[:, :25], whole[:, 25:]
    return arrays


def _moyo(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pose = labels["pose_cam"]
    smpl = {"global_orient": pose[:, :3], "body_pose": pose[:, 3:], "betas": labels["shape"]}
    width = 200 * labels["scale"]
    return {
        "names": np.array([f"row{i}" for i in range(ROWS)]),
        "centers": labels["center"],
        "scales": np.stack((np.where(np.arange(ROWS) % 2, width, 0.5 * width), width), 1),  # every other one is square
        "smpl": np.array(smpl, object),
        "extra_info": np.array({"dataset_name": "MoYo"}, object),
    }


def _keypoints_3d(labels: dict[str, np.ndarray], bodies: Path) -> np.ndarray:
    smpl = Smpl.load(bodies / "SMPL_NEUTRAL.pkl")
    pose = torch.from_numpy(labels["pose_cam"]).reshape(-1, 24, 3)
    posed = smpl(pose[:, 0], pose[:, 1:], *(torch.from_numpy(labels[key]) for key in ("shape", "trans_cam")))
    points = load_points_matrix(bodies / "SMPL_to_J19.pkl") @ posed.vertices
    return keypoints_44(posed.joints, points).numpy()
