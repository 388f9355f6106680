"""The mesh as the fit sees it, in blocks; what a visit finds is tested against the objective in test_reduced."""

import pytest
import torch

from fitting.kinematics import Kinematics, Skeleton
from fitting.surface import Surface, spread


@pytest.fixture(scope="module")
def visit(skel):
    """Two bodies seen at some vertices: surface, their residuals, skin, and the visit."""
    generator = torch.Generator().manual_seed(3)
    q = 0.4 * torch.randn(2, 46, dtype=torch.float64, generator=generator)
    q[:, :3] = 0
    betas = torch.randn(2, 10, generator=generator)
    vertices = torch.randperm(6890, generator=generator)[:700].sort().values
    importance = torch.rand(700, generator=generator)
    importance = importance / importance.sum()
    target = 0.3 * torch.randn(2, 3, 700, generator=generator)
    surface = Surface(skel, vertices, importance)
    pose = Kinematics(skel.axes.double(), skel.dof_index).pose(q, Skeleton.of(skel, betas))
    return surface, q, betas, target, pose, surface.visit(target, betas, pose, correctives=True)


def test_blocks_do_not_matter(skel, visit, monkeypatch):
    surface, _, betas, target, pose, moments = visit
    monkeypatch.setattr("fitting.surface._CPU_BLOCK", 97)
    again = Surface(skel, surface.vertices, surface.importance)
    assert len(again.blend.blocks) == 8
    other = again.visit(target, betas, pose, correctives=True)
    torch.testing.assert_close(other.cross, moments.cross, rtol=0, atol=1e-7)
    torch.testing.assert_close(other.corrective, moments.corrective, rtol=0, atol=1e-7)
    torch.testing.assert_close(other.energy, moments.energy, rtol=1e-6, atol=0)


def test_spread_takes_every_bone_its_share(skel):
    bone = skel.weights.argmax(1)
    picked = spread(bone, 1000)
    assert len(picked) == 1000 == len(picked.unique())
    assert torch.equal(picked, picked.sort().values)
    share = torch.bincount(bone, minlength=24) / len(bone)
    found = torch.bincount(bone[picked], minlength=24) / len(picked)
    assert float((share - found).abs().max()) < 2e-3
