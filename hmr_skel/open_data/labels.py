"""Make the label file of the default dataset: CameraHMR's columns for synthetic people.

`make_labels` draws motion (`motion`), converts it to SMPL (`retarget`), draws a camera (`cameras`), and writes the
columns of CameraHMR's releases.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl, keypoints_44, load_points_matrix
from hmr_skel.open_data.cameras import MARGIN, Views, draw_views, place, project, square_box
from hmr_skel.open_data.motion import FRAMES_PER_CLIP, ClipMotion, clip_motion, clip_rng
from hmr_skel.open_data.retarget import NUM_PERTURBED_AXES, converted_betas, perturb, skel_to_smpl

# Always computed in chunks of this size, so that a row's bytes do not depend on the number of rows.
CLIPS_PER_CHUNK = 48
ROWS_PER_CHUNK = CLIPS_PER_CHUNK * FRAMES_PER_CLIP
_PLACING_STRIDE = 7  # every 7th vertex is enough to place a body in the picture

_COLUMNS = {
    "imgname": ((), "<U16"),
    "center": ((2,), "<f4"),
    "scale": ((), "<f4"),
    "pose_cam": ((72,), "<f4"),
    "shape": ((10,), "<f4"),
    "trans_cam": ((3,), "<f4"),
    "cam_int": ((3, 3), "<f4"),
    "gtkps": ((44, 3), "<f4"),
}


@dataclass(frozen=True)
class _Models:
    smpl: Smpl
    skel: Skel
    points: Tensor  # [40 S] the keypoints' mesh points from the S vertices that any of them needs
    support: Tensor  # int64 [S]


def make_labels(
    path: str | Path,
    rows: int,
    seed: int,
    body_models: str | Path,
    progress: Callable[[int], object] = lambda rows: None,
) -> None:
    """Write a synthetic label file in CameraHMR's format.

    The same arguments give the same bytes (on one machine), and a longer set begins with the shorter one. Rows of a
    clip are consecutive in time; `imgname` is clip/frame. Time is linear in `rows`; memory holds one chunk of 192 rows.

    Args:
        path: the .npz to write; uncompressed, so that it can be memory-mapped.
        rows: at least 1; from 43 clips of 48 rows on, every dof is swept through.
        seed: non-negative.
        body_models: folder with SMPL_NEUTRAL.pkl, skel_male.pkl, whose motion is drawn, and SMPL_to_J19.pkl.
        progress: called with the number of rows done.

    Raises:
        UserError: a model file is missing or damaged.
    """
    if rows < 1 or seed < 0:
        raise ValueError(f"rows must be positive and seed not negative, got {rows} and {seed}")
    path = Path(path)
    models = _load_models(Path(body_models))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        columns = {
            name: np.lib.format.open_memmap(Path(folder) / f"{name}.npy", "w+", dtype, (rows, *shape))
            for name, (shape, dtype) in _COLUMNS.items()
        }
        for start in range(0, rows, ROWS_PER_CHUNK):
            chunk = _make_chunk(start // FRAMES_PER_CLIP, seed, models)
            stop = min(start + ROWS_PER_CHUNK, rows)
            for name, column in columns.items():
                column[start:stop] = chunk[name][: stop - start]
            progress(stop)
        members: dict[str, Any] = columns
        np.savez(Path(folder) / path.name, **members)
        os.replace(Path(folder) / path.name, path)


def _load_models(folder: Path) -> _Models:
    smpl = Smpl.load(folder / "SMPL_NEUTRAL.pkl")
    skel = Skel.load(folder / "skel_male.pkl")
    points = load_points_matrix(folder / "SMPL_to_J19.pkl")
    support = points.any(0).nonzero().squeeze(1)
    return _Models(smpl, skel, points[:, support], support)


@torch.no_grad()
def _make_chunk(first_clip: int, seed: int, models: _Models) -> dict[str, np.ndarray]:
    """All columns of `CLIPS_PER_CHUNK` clips."""
    clips = range(first_clip, first_clip + CLIPS_PER_CHUNK)
    rngs = [clip_rng(seed, clip) for clip in clips]
    motions = [clip_motion(rng, clip, NUM_PERTURBED_AXES) for rng, clip in zip(rngs, clips, strict=True)]
    views = [draw_views(rng, FRAMES_PER_CLIP) for rng in rngs]
    margin = torch.from_numpy(np.concatenate([rng.uniform(*MARGIN, FRAMES_PER_CLIP) for rng in rngs])).float()
    views = Views(**{name: torch.cat([getattr(v, name) for v in views]) for name in vars(views[0])})

    # One shape per clip: [clips 1 10] against [clips frames ...].
    betas = _stack(motions, "betas").unsqueeze(1)
    local = skel_to_smpl(
        _stack(motions, "q"), converted_betas(betas, models.smpl, models.skel), betas, models.skel, models.smpl
    )
    local = perturb(local, _stack(motions, "noise"))
    view = views.rotation_cam_world.float().unflatten(0, (CLIPS_PER_CHUNK, -1))
    orient = view @ rotvec_to_rotmat(_stack(motions, "root_rotvec"))

    body_pose, global_orient = rotmat_to_rotvec(local), rotmat_to_rotvec(orient)
    rows = (CLIPS_PER_CHUNK, FRAMES_PER_CLIP)
    posed = models.smpl(global_orient, body_pose, betas.expand(*rows, 10), torch.zeros(*rows, 3))
    vertices = posed.vertices.flatten(0, 1)
    points = keypoints_44(posed.joints.flatten(0, 1), models.points @ vertices[:, models.support])
    transl = place(vertices[:, ::_PLACING_STRIDE].double(), views).float()
    cam_int = views.cam_int.float()
    center, scale = square_box(project(vertices + transl[:, None], cam_int), margin)

    keypoints = project(points + transl[:, None], cam_int)
    visible = ((keypoints >= 0) & (keypoints <= views.image_size[:, None] - 1)).all(-1, keepdim=True)
    columns = {
        "center": center,
        "scale": scale,
        "pose_cam": torch.cat((global_orient.unsqueeze(-2), body_pose), -2).flatten(0, 1).flatten(1),
        "shape": betas.expand(*rows, 10).flatten(0, 1),
        "trans_cam": transl,
        "cam_int": cam_int,
        "gtkps": torch.cat((keypoints, visible.float()), -1),
    }
    names = np.asarray([f"{clip:06d}/{frame:03d}.jpg" for clip in clips for frame in range(FRAMES_PER_CLIP)])
    return {name: column.numpy() for name, column in columns.items()} | {"imgname": names}


def _stack(motions: list[ClipMotion], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(motion, name) for motion in motions])).float()
