"""The mesh as the fit sees it: posed vertices, and residuals collapsed to moments."""

import copy

import pytest
import torch

from fitting.kinematics import Kinematics, Skeleton
from fitting.surface import CORRECTED, Surface, spread


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


def _residuals(skel, surface, q, betas, target):
    """Straight from SKEL, float64: rest and residuals [B V 3]."""
    skel64 = copy.deepcopy(skel).double()
    shape = skel64.prepare_shape(betas.double())
    posed = skel64.pose(q, shape, torch.zeros(len(q), 3, dtype=torch.float64)).vertices[:, surface.vertices]
    rest = shape.rest + skel64.correctives(skel64.local_rotmat(q, shape))
    return rest[:, surface.vertices], target.mT.double() - posed


def test_energy_and_distances(skel, visit):
    surface, q, betas, target, _, moments = visit
    _, residuals = _residuals(skel, surface, q, betas, target)
    squared = residuals.square().sum(-1)
    torch.testing.assert_close(moments.squared.double(), squared, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(moments.energy, squared @ surface.importance.double(), rtol=1e-6, atol=0)


def test_cross_moments_by_a_loop(skel, visit):
    surface, q, betas, target, _, moments = visit
    rest, residuals = _residuals(skel, surface, q, betas, target)
    weights = skel.weights[surface.vertices].double()
    for row in range(2):
        for bone in (0, 1, 12, 14, 18, 23):
            expected = torch.zeros(4, 3, dtype=torch.float64)
            for v in weights[:, bone].nonzero().flatten().tolist():
                point = torch.cat((rest[row, v], torch.ones(1, dtype=torch.float64)))
                factor = surface.importance[v].double() * weights[v, bone]
                expected += factor * torch.outer(point, residuals[row, v])
            torch.testing.assert_close(moments.cross[row, bone], expected, rtol=0, atol=1e-7)


def test_correctives_gradient(skel, visit):
    """dE/2 over a joint's local rotation with bones held: one number of the feature, moved."""
    surface, _, betas, target, pose, moments = visit
    for slot, (i, j) in ((CORRECTED.index(2), (0, 1)), (CORRECTED.index(15), (2, 0))):
        energies = []
        for sign in (1, -1):
            moved = copy.deepcopy(pose)
            moved.local[:, CORRECTED[slot], i, j] += sign * 0.5
            energies.append(surface.visit(target, betas, moved).energy)
        expected = (energies[0] - energies[1]) / 2  # E is quadratic in the feature: the difference is exact
        torch.testing.assert_close(moments.corrective[:, slot, i, j], expected, rtol=1e-3, atol=1e-7)
    assert surface.visit(target, betas, pose).corrective is None


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
