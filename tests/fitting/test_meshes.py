"""Meshes in SMPL's topology: fitted to what they are, from what they say themselves."""

import copy

import pytest
import torch

from fitting import Status, fit_batch, fit_meshes
from fitting.mesh import Placed
from fitting.meshes import STEPS, Inverse, root


@pytest.fixture(scope="module")
def posed(people, smpl):
    return smpl(people.global_orient, people.body_pose, people.betas, people.transl).vertices


def test_a_mesh_is_fitted_as_well_as_its_parameters(people, posed, smpl, skel, model, fits):
    found = fit_meshes(posed, model)[1]
    assert (found.v2v_mm - fits("default").v2v_mm).mean().abs() < 0.3
    estimated, apart = Inverse(smpl)(posed)
    assert (apart < 2.5e-3).all()
    assert (estimated.betas - people.betas).abs().mean() < 0.1
    skin = skel(found.skel.q, found.skel.betas, found.skel.transl).vertices
    torch.testing.assert_close((skin - posed).norm(dim=-1).mean(1) * 1000, found.v2v_mm, rtol=0, atol=5e-3)


def test_the_mesh_itself_is_the_target(posed, skel, model):
    """Not the nearest body of SMPL: this one is bulgier, and its points and joints are those of the mesh."""
    points = torch.zeros(2, 6890)
    points[0, 100], points[1, :50] = 1, 0.02
    bulgy = posed + 0.01 * torch.sin(20 * posed)
    params, found = fit_meshes(bulgy, model)
    assert (found.status != Status.rejected).all()
    skin = skel(found.skel.q, found.skel.betas, found.skel.transl).vertices
    torch.testing.assert_close((skin - bulgy).norm(dim=-1).mean(1) * 1000, found.v2v_mm, rtol=0, atol=5e-3)
    again = fit_batch(params, model, points, Placed(bulgy, *root(params, model.targets.smpl)))
    torch.testing.assert_close(again.target_points, points @ bulgy, rtol=0, atol=1e-5)


def test_what_is_no_body_is_rejected_alone(people, posed, model):
    """Holes in one mesh, another with its vertices in disorder; their neighbours do not notice."""
    bad = posed[[0, 1, 2, 3, 3]]
    bad[0, 17, 2], bad[4] = torch.nan, 1e20
    bad[2] = bad[2, torch.randperm(6890, generator=torch.Generator().manual_seed(0))]
    found = fit_meshes(bad, model)[1]
    assert found.status.tolist()[::2] == [Status.rejected] * 3
    assert found.skel.q[::2].isnan().all()
    at = root(people[:1], model.targets.smpl)
    no_body = fit_batch(people[:1], model, mesh=Placed(bad[4:], *at))  # 1e20 is finite, unlike its square
    assert no_body.status.tolist() == [Status.rejected]
    alone = fit_meshes(posed[1:2], model)[1]
    torch.testing.assert_close(found.skel.q[1:2], alone.skel.q, rtol=0, atol=1e-4)


def test_parameters_are_a_fixed_point(people, posed, smpl, monkeypatch):
    """Steps go on towards the parameters that posed the meshes, the root's place and rotation first."""
    monkeypatch.setattr("fitting.meshes.STEPS", 60)
    assert STEPS < 60
    found, apart = Inverse(copy.deepcopy(smpl).double())(posed.double())
    assert apart.max() < 5e-4
    torch.testing.assert_close(found.global_orient.float(), people.global_orient, rtol=0, atol=2e-3)
