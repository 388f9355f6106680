"""The table of second moments gives what a sum over vertices gives."""

import pytest
import torch

from fitting.stages import MomentTable, monomials


def test_monomials_make_every_product_of_two_once():
    betas = torch.tensor([[2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0]])
    primes = [1, *betas[0].int().tolist()]
    products = sorted(a * b for i, a in enumerate(primes) for b in primes[i:])
    assert sorted(monomials(betas)[0].int().tolist()) == products


@pytest.mark.parametrize("bones", [list(range(1, 24)), [1, 2, 3, 4, 5]])
def test_table_is_the_sum_over_vertices(skel, bones):
    generator = torch.Generator().manual_seed(2)
    vertices = torch.randperm(6890, generator=generator)[:300].sort().values
    importance = torch.rand(300, generator=generator)
    joint_importance = torch.rand(24, generator=generator)
    betas = torch.randn(3, 10, generator=generator)
    table = MomentTable(skel, vertices, importance, joint_importance, bones)
    found = table.at(betas).double()
    shape = skel.prepare_shape(betas)
    rest = torch.cat((shape.rest[:, vertices], torch.ones(3, 300, 1)), -1).double()
    joints = torch.cat((shape.joints, torch.ones(3, 24, 1)), -1).double()
    weights = skel.weights[vertices].double()
    outer = rest[..., :, None] * rest[..., None, :]
    pairs = set(zip(table.first.tolist(), table.second.tolist(), strict=True))
    for index, (m, n) in enumerate(zip(table.first.tolist(), table.second.tolist(), strict=True)):
        expected = (importance.double() * weights[:, m] * weights[:, n]).view(-1, 1, 1) * outer
        expected = expected.sum(1)
        if m == n:  # an anatomical joint is one more point of its bone
            expected = expected + joint_importance[m].double() * joints[:, m, :, None] * joints[:, m, None, :]
        torch.testing.assert_close(found[:, index], expected, rtol=1e-5, atol=1e-5)
    # Every pair of moving bones that shares a vertex is there, once.
    shared = (weights.T @ weights) > 0
    for m in bones:
        assert (m, m) in pairs
        assert all(((m, n) in pairs) == bool(shared[m, n]) for n in bones if n > m)
    assert all(m <= n and m in bones and n in bones for m, n in pairs)
