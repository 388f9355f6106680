"""SMPL betas to SKEL betas."""

import numpy as np
import pytest
import torch

from fitting.shape import FAR, converted, copied


def _vertices(model, betas):
    return (model.template.double().flatten() + betas @ model.shapedirs.double()).unflatten(-1, (-1, 3))


def _rms(shape_map):
    return float(((shape_map.offset**2).sum() + (shape_map.matrix**2).sum()).div(10).sqrt())


def test_without_a_ridge_it_is_least_squares_with_a_free_translation(smpl, skel):
    shape_map = converted(smpl, skel, betas_rms=1e3)
    betas = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    free = np.tile(np.eye(3), (6890, 1))
    design = np.concatenate((skel.shapedirs.double().T.numpy(), free), 1)
    right = (_vertices(smpl, betas) - _vertices(skel, torch.zeros(1, 10, dtype=torch.float64))).flatten(1).T.numpy()
    expected = np.linalg.lstsq(design, right, rcond=None)[0][:10].T
    np.testing.assert_allclose(shape_map(betas).numpy(), expected, atol=1e-4)


def test_ridge_reaches_the_size_asked_for(smpl, skel):
    plain = converted(smpl, skel, 1e3)
    assert torch.equal(converted(smpl, skel, _rms(plain) * 1.01).matrix, plain.matrix)  # small enough as it is
    shape_map = converted(smpl, skel, 0.6)
    assert _rms(plain) > _rms(shape_map) == pytest.approx(0.6, abs=1e-6)
    # In expectation over standard normal betas.
    betas = torch.randn(20_000, 10, generator=torch.Generator().manual_seed(5))
    assert float(shape_map(betas).square().mean().sqrt()) == pytest.approx(0.6, rel=0.02)


def test_conversion_beats_copying_in_the_t_pose(smpl, skel, model):
    betas = torch.randn(8, 10, generator=torch.Generator().manual_seed(6))
    wanted = _vertices(smpl, betas.double())

    def distance_mm(skel_betas):
        apart = wanted - _vertices(skel, skel_betas.double())
        return float((apart - apart.mean(1, keepdim=True)).norm(dim=-1).mean() * 1000)

    assert torch.equal(copied(torch.device("cpu"))(betas), betas)
    assert distance_mm(model.shape(betas)) < 0.5 * distance_mm(betas)
    alone = torch.cat([model.shape(betas[i : i + 1]) for i in range(8)])
    assert torch.equal(model.shape(betas), alone)


def test_a_shape_that_no_body_has_is_bounded_as_near_as_the_bound_allows(smpl, skel):
    shape_map = converted(smpl, skel, 2.2)
    generator = torch.Generator().manual_seed(7)
    people = torch.randn(2000, 10, generator=generator).double()
    signs = torch.randint(0, 2, (500, 10), generator=generator).double() * 2 - 1
    nobody = torch.cat((2 * signs, 4 * signs))
    plain, found = shape_map.offset + nobody @ shape_map.matrix, shape_map(nobody)
    bound = nobody.norm(dim=1).clamp_min(FAR * float(shape_map.usual))
    over = plain.norm(dim=1) > bound
    assert 50 < int(over.sum()) < 950
    assert torch.equal(found[~over], plain[~over])
    torch.testing.assert_close(found.norm(dim=1)[over], bound[over], rtol=1e-6, atol=0)
    # At the nearest point the error's gradient points along the betas: any other of that norm changes the body more.
    slope = (plain - found)[over] @ shape_map.gram
    torch.testing.assert_close(torch.cosine_similarity(slope, found[over]), torch.ones(int(over.sum())).double())
    # A row alone is the row among others; people as they are keep their shapes, but for one in a hundred.
    assert torch.equal(shape_map(nobody[over][:1].float()), found[over][:1].float())
    assert shape_map.is_unusual(nobody).all()
    assert shape_map.is_unusual(people).double().mean() < 0.02
    assert not copied(torch.device("cpu")).is_unusual(people[:50] / 2).any()
