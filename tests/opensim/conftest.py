"""A person in random poses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr_skel.body.dofs import limits
from hmr_skel.convert import Bodies, SkelClip, SmplClip
from hmr_skel.convert.clips import UPRIGHT

SHARED = Path(__file__).parents[3] / "shared" / "data"
MM, DEG = 0.1, 0.01
"""How far a bone may be off in another program."""


def in_skel(clip: SkelClip, bodies: Bodies, world: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Where SKEL puts its joint frames: rotations [N 24 3 3] and places [N 24 3], m, in OpenSim's ground, or in a
    `world` [3 3] of other axes."""
    skel = bodies.skel(clip.gender[0])
    posed = skel(*(torch.from_numpy(value) for value in (clip.q, clip.betas, clip.transl)))
    axes = skel.prepare_shape(torch.from_numpy(clip.betas[0])).dof_frame[0].double().numpy()
    turn = axes.T @ UPRIGHT[clip.smpl.frame]
    turn = turn if world is None else world @ turn
    return turn @ posed.joint_frames.double().numpy(), posed.joints.double().numpy() @ turn.T


@pytest.fixture(scope="session")
def bodies(open_body_dir: Path, bodies_of) -> Bodies:
    return bodies_of(open_body_dir)


@pytest.fixture(scope="session")
def random_clip() -> Callable[..., SkelClip]:
    """Poses all over the table of ranges, of one body, anywhere."""

    def make(rows: int, frame: str = "z-up", gender: str = "male", seed: int = 0, share: float = 1.0) -> SkelClip:
        rng = np.random.default_rng(seed)
        low, high = limits("anatomical").T
        q = np.empty((rows, 46), np.float32)
        q[:, 3:] = share * rng.uniform(low[3:], high[3:], (rows, 43))
        q[:, :3] = rng.uniform([-3, -1.5, -3], [3, 1.5, 3], (rows, 3))
        betas = np.tile(rng.normal(size=10).astype(np.float32), (rows, 1))
        transl = rng.normal(size=(rows, 3)).astype(np.float32)
        pose, genders, none = np.zeros((rows, 24, 3), np.float32), np.full(rows, gender, object), np.zeros(rows, "f4")
        smpl = SmplClip("walk", "walk.npz", "walk", pose, betas, transl, genders, np.arange(rows), True, frame, 30.0)
        return SkelClip(smpl, genders, q, betas, transl, none, none, none, np.full(rows, "converged", object))

    return make
