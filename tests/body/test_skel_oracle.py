"""SKEL against an independent implementation, `body-models` (Apache-2.0), asked in our terms."""

from pathlib import Path

import pytest
import torch

from hmr_skel.body.skel import Skel

# Random poses far beyond what people do, bodies up to five standard deviations from the mean, anywhere in a room.
SPREAD_Q, SPREAD_BETAS, SPREAD_TRANSL = 0.6, 2.0, 3.0


@torch.no_grad()
def assert_same(model: Skel, path: Path, gender: str, most_mm: float) -> None:
    """Skin, joints and rotations of ours in its own precision, and of the oracle in float64."""
    models = pytest.importorskip("body_models.skel.torch", reason="the oracle, body-models, is not installed")
    oracle = models.SKEL(model_path=path, gender=gender).double()
    generator = torch.Generator().manual_seed(0)
    normal = (torch.randn(6, n, dtype=torch.float64, generator=generator) for n in (46, 10, 3))
    q, betas, transl = (x * spread for x, spread in zip(normal, (SPREAD_Q, SPREAD_BETAS, SPREAD_TRANSL), strict=True))
    betas[0], betas[1], q[2] = 0, 5, 0  # the mean body, a giant, the T-pose
    asked = {
        "body_pose": torch.cat((q[:, :23], q[:, 26:]), -1), "head_pose": q[:, 23:26], "shape": betas,
        "global_translation": transl,
    }  # fmt: skip
    vertices, skeleton = oracle.forward_vertices(**asked), oracle.forward_skeleton(**asked)
    q, betas, transl = (x.to(model.template.dtype) for x in (q, betas, transl))
    ours = model(q, betas, transl)
    for found, expected in ((ours.vertices, vertices), (ours.joints, skeleton[..., :3, 3])):
        assert (found.double() - expected).norm(dim=-1).max() < most_mm / 1000
    # The oracle's rotations are R_j; our frames are R_j K_j, the bones' own axes.
    rotations = ours.joint_frames @ model.prepare_shape(betas).bone_rotmat.mT
    assert (rotations - skeleton[..., :3, :3]).abs().max() < 2e-3 * most_mm


def test_random_numbers_in_float64(skel64, skel_file):
    """What is left is the oracle's float32 copies of the files and axes."""
    assert_same(skel64, skel_file, "male", 0.002)


@pytest.mark.parametrize("gender", ["male", "female"])
def test_the_open_body_in_float32(gender, open_body_dir):
    path = open_body_dir / f"skel_{gender}.pkl"
    assert_same(Skel.load(path), path, gender, 0.01)
