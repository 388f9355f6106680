"""The tables of a pair of bodies."""

from dataclasses import replace

import pytest
import torch

import fitting
from fitting.stages import spread
from hmr_skel.body import dofs
from hmr_skel.body.skel import Skel


def test_stages_move_their_own_dofs_and_weigh_their_own_vertices(model):
    lower, upper, coarse, finer, full = model.stages
    assert lower.dofs.tolist() == list(range(3, 17))
    assert upper.dofs.tolist() == list(range(17, 46))
    assert coarse.dofs.tolist() == finer.dofs.tolist() == full.dofs.tolist() == list(range(3, 46))
    bone = model.skel.weights.argmax(1)
    for stage in model.stages:
        assert float(stage.importance.sum()) == pytest.approx(1, abs=1e-5)
        if stage.stage.vertices:
            assert len(stage.vertices) == stage.stage.vertices
        if stage.stage.part != "full":
            assert set(bone[stage.vertices].tolist()) <= set(stage.bones)
        weighted = stage.joint_importance.nonzero().flatten().tolist()
        assert weighted == stage.bones
        assert float(stage.joint_importance.sum()) == pytest.approx(stage.stage.joint_weight)
    assert [len(stage.vertices) == len(bone) for stage in (coarse, finer, full)] == [False, False, True]


def test_spread_takes_every_bone_its_share(skel):
    bone = skel.weights.argmax(1)
    picked = spread(bone, 1000)
    assert len(picked) == 1000 == len(picked.unique())
    assert torch.equal(picked, picked.sort().values)
    share = torch.bincount(bone, minlength=24) / len(bone)
    found = torch.bincount(bone[picked], minlength=24) / len(picked)
    assert float((share - found).abs().max()) < 2e-3


@pytest.mark.parametrize("table", dofs.LIMIT_TABLES)
def test_the_prior_is_finite_and_the_box_is_the_tables(prepared, table):
    model = prepared(replace(fitting.recipe("default"), limits=table))
    bounds = torch.from_numpy(dofs.limits(table))
    for stage in model.stages:
        assert bool(stage.prior.isfinite().all())
        assert bool((stage.prior > 0).all())
        assert torch.equal(torch.stack((stage.low, stage.high), 1), bounds[stage.dofs])


def test_gender_is_needed_and_kept(smpl, skel, model):
    assert model.skel_gender == "male"
    arrays = {name: getattr(skel, name) for name in Skel._BUFFERS}
    nameless = Skel(arrays, skel.faces, skel.skeleton_faces)
    config = fitting.recipe("default")
    with pytest.raises(ValueError, match="give skel_gender"):
        fitting.prepare(smpl, nameless, config)
    assert fitting.prepare(smpl, nameless, config, "female").skel_gender == "female"
