"""`body-models`, an independent SKEL (Apache-2.0), asked in our terms."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hmr_skel.body.skel import Skel
from hmr_skel.rows import SkelParams

# Random poses far beyond what people do, bodies up to five standard deviations from the mean, anywhere in a room.
SPREAD_Q, SPREAD_BETAS, SPREAD_TRANSL = 0.6, 2.0, 3.0


@dataclass(frozen=True)
class Difference:
    """The largest distance between two bodies over all rows."""

    skin_mm: float
    joints_mm: float
    frames: float  # of a matrix entry


def load(path: Path, gender: str) -> torch.nn.Module:
    """The oracle in float64 (what it stores is rounded to float32). Skips where it is not installed."""
    models = pytest.importorskip("body_models.skel.torch", reason="the oracle, body-models, is not installed")
    return models.SKEL(model_path=path, gender=gender).double()


def random_params(rows: int = 8, seed: int = 0) -> SkelParams:
    generator = torch.Generator().manual_seed(seed)
    normal = [torch.randn(rows, n, dtype=torch.float64, generator=generator) for n in (46, 10, 3)]
    q, betas, transl = (x * spread for x, spread in zip(normal, (SPREAD_Q, SPREAD_BETAS, SPREAD_TRANSL), strict=True))
    betas[0], betas[1, 0], q[2] = 0, 5, 0  # the mean body, a giant, the T-pose
    return SkelParams(q, betas, transl)


@torch.no_grad()
def difference(model: Skel, oracle: torch.nn.Module, params: SkelParams) -> Difference:
    """Ours in its own precision against the oracle in float64."""
    q, betas, transl = params.q, params.betas, params.transl
    asked = {
        "body_pose": torch.cat((q[:, :23], q[:, 26:]), -1),
        "head_pose": q[:, 23:26],
        "shape": betas,
        "global_translation": transl,
    }
    vertices, skeleton = oracle.forward_vertices(**asked), oracle.forward_skeleton(**asked)
    given = [x.to(model.template.dtype) for x in (q, betas, transl)]
    ours = model(*given)
    # The oracle's rotations are R_j; our frames are R_j K_j, the bones' own axes.
    bones = model.prepare_shape(given[1]).bone_rotmat
    return Difference(
        skin_mm=_largest_mm(ours.vertices, vertices),
        joints_mm=_largest_mm(ours.joints, skeleton[..., :3, 3]),
        frames=float((ours.joint_frames @ bones.mT - skeleton[..., :3, :3]).abs().max()),
    )


def _largest_mm(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs).norm(dim=-1).max()) * 1000
