"""Errors of points: what they ignore, what they do not, and a value by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.evaluate.metrics import mpjpe_mm, pa_mpjpe_mm, pve_mm, similarity_align


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_one_number_per_row_whatever_the_leading_axes(batch):
    pred, gt = points(*batch, 14), points(*batch, 14, seed=1)
    for found in (mpjpe_mm(pred, gt, 0), pa_mpjpe_mm(pred, gt), pve_mm(pred, gt, pred[..., 0, :], gt[..., 0, :])):
        assert found.shape == batch
        assert (found > 0).all()


def test_by_hand():
    """Two joints; the second is 3, 4, 0 cm off once the first ones coincide: 5 cm and 0, 25 mm in the mean."""
    gt = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    pred = torch.tensor([[5.0, 5, 5], [6.03, 5.04, 5]])
    assert mpjpe_mm(pred, gt, root=0).item() == pytest.approx(25, rel=1e-5)
    assert mpjpe_mm(pred, gt, root=1).item() == pytest.approx(25, rel=1e-5)
    assert pve_mm(pred, gt, pred[0], gt[1]).item() == pytest.approx(
        1000 * (1 + (1.03**2 + 0.04**2) ** 0.5) / 2, rel=1e-4
    )


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_the_best_similarity_is_found(seed, scale, motion):
    gt = points(2, 14, seed=seed)
    rotation = rotvec_to_rotmat(torch.tensor(motion[:3]))
    pred = scale * gt @ rotation.mT + torch.tensor(motion[3:])
    assert pa_mpjpe_mm(pred, gt).max() < 0.05
    torch.testing.assert_close(similarity_align(pred, gt), gt, atol=5e-5, rtol=0)


def test_no_other_similarity_is_nearer():
    """Against small changes of the one that was found."""
    pred, gt = points(14), points(14, seed=1)
    found = similarity_align(pred, gt)
    least = (found - gt).square().sum()
    centre = gt.mean(0)
    for seed in range(20):
        small = 0.02 * torch.randn(7, generator=torch.Generator().manual_seed(seed))
        moved = (1 + small[0]) * (found - centre) @ rotvec_to_rotmat(small[1:4]).mT + centre + small[4:]
        assert (moved - gt).square().sum() > least


def test_a_mirrored_body_is_wrong():
    """Left and right exchanged fit by a reflection, which is no motion of a body."""
    gt = points(14)
    mirrored = gt * torch.tensor([-1.0, 1, 1])
    assert pa_mpjpe_mm(mirrored, gt) > 100
    aligned = similarity_align(mirrored, gt)
    handed = [torch.linalg.det((p[1:4] - p[0]).double()).sign().item() for p in (mirrored, aligned)]
    assert handed[0] == handed[1]


def test_points_in_one_place_stay_finite():
    gt = points(14)
    found = similarity_align(torch.ones(14, 3), gt)
    torch.testing.assert_close(found, gt.mean(0).expand(14, 3))
