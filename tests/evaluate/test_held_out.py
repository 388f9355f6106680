"""Errors of networks on held-out rows: of one that knows the labels, of the mean body, of what lacks labels."""

from dataclasses import replace

import pytest
import torch

from hmr_skel.data.load import load_shards
from hmr_skel.data.samples import SampleDataset
from hmr_skel.errors import UserError
from hmr_skel.evaluate.held_out import ROOT, HeldOut, evaluate_held_out, mean_body, mean_q
from hmr_skel.evaluate.metrics import mpjpe_mm
from hmr_skel.model.decoder import Estimate
from hmr_skel.model.network import Prediction
from hmr_skel.model.pose_rep import q_to_rep, q_to_rotmat
from hmr_skel.rows import SkelParams
from tests.data.sample_set import SampleSet, write_sample_set


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> SampleSet:
    """12 rows to train on, and 8 held out that have a camera."""
    return write_sample_set(tmp_path_factory.mktemp("samples"), held_out=2)


@pytest.fixture(scope="module")
def held_out(samples, open_body_dir) -> HeldOut:
    return HeldOut.open(samples.path, samples.images, open_body_dir, torch.device("cpu"), quiet=True)


class Oracle:
    """Answers with the labels of the rows in their order; its coarse estimate has another shape."""

    def __init__(self, dataset: SampleDataset, has_coarse: bool = True) -> None:
        found = [dataset.sample(i) for i in range(len(dataset))]
        self.q, self.betas = (torch.stack([getattr(s, f) for s in found]) for f in ("q", "betas"))
        self.next, self.has_coarse = 0, has_coarse

    def __call__(self, images, geometry) -> Prediction:
        rows = slice(self.next, self.next + len(images))
        self.next += len(images)
        camera = torch.tensor([0.9, 0.1, -0.1]).expand(len(images), 3)
        final = Estimate(q_to_rep(self.q[rows]), self.betas[rows], camera)
        return Prediction((replace(final, betas=final.betas + 1), final), geometry, self.has_coarse)


def test_who_knows_the_labels_makes_no_errors(held_out, samples):
    found, left_out = evaluate_held_out([Oracle(held_out.dataset)], mean_body(samples.path), held_out, batch_size=3)
    errors = found[0]
    assert left_out == 0
    assert errors["final"]["pve_mm"].shape == (8,)
    assert errors["final"]["pve_mm"].max() < 0.01
    assert (errors["coarse"]["pve_mm"] > 1).all()
    assert (errors["mean_pose"]["pve_mm"] > 10).all()


def test_joints_are_compared_with_the_labels_keypoints(held_out, samples):
    oracle, body = Oracle(held_out.dataset), held_out.body
    found, _ = evaluate_held_out([oracle], mean_body(samples.path), held_out)
    label = torch.stack([held_out.dataset.sample(i).keypoints_3d[:, :3] for i in range(8)])
    points = body.keypoints(SkelParams(oracle.q, oracle.betas, torch.zeros(8, 3)))
    torch.testing.assert_close(found[0]["final"]["mpjpe_mm"], mpjpe_mm(points, label, ROOT), rtol=1e-4, atol=0.1)
    constant = mean_body(samples.path)
    points = body.keypoints(SkelParams(constant.q, constant.betas, torch.zeros(3))).expand(8, -1, -1)
    torch.testing.assert_close(found[0]["mean_pose"]["mpjpe_mm"], mpjpe_mm(points, label, ROOT), rtol=1e-4, atol=0.1)


def test_several_networks_in_one_pass(held_out, samples):
    mean = mean_body(samples.path)
    both, _ = evaluate_held_out([Oracle(held_out.dataset), Oracle(held_out.dataset, has_coarse=False)], mean, held_out)
    assert set(both[0]) == {"mean_pose", "coarse", "final"}
    assert set(both[1]) == {"mean_pose", "final"}
    torch.testing.assert_close(both[0]["final"], both[1]["final"])


def test_rows_without_labels_are_left_out_and_counted(held_out, samples, monkeypatch):
    """The first row has no SKEL label, the second no nose."""
    whole, _ = evaluate_held_out([Oracle(held_out.dataset)], mean_body(samples.path), held_out)
    oracle, original = Oracle(held_out.dataset), SampleDataset.sample

    def partly(self, index, *more):
        sample = original(self, index, *more)
        points = sample.keypoints_3d.clone()
        if index == 1:
            points[0] = torch.tensor([torch.nan, torch.nan, torch.nan, 0.0])
        return replace(sample, keypoints_3d=points, has_skel=sample.has_skel & (index != 0))

    monkeypatch.setattr(SampleDataset, "sample", partly)
    found, left_out = evaluate_held_out([oracle], mean_body(samples.path), held_out)
    assert left_out == 2
    for stage, metrics in found[0].items():
        for metric, values in metrics.items():
            torch.testing.assert_close(values, whole[0][stage][metric][2:])


def test_the_mean_body_is_that_of_the_training_rows(samples):
    train = load_shards(samples.path, split="train")
    mean = mean_body(samples.path)
    torch.testing.assert_close(mean.betas, torch.from_numpy(train["skel_betas"]).mean(0))
    torch.testing.assert_close(mean.q[3:], torch.from_numpy(train["skel_q"]).mean(0)[3:])


def test_the_mean_of_rotations_about_one_axis_is_the_one_between():
    """Across the wrap of the angle, where the mean angle is the opposite one."""
    q = torch.zeros(2, 46)
    q[:, 0] = torch.tensor([3.0, -3.0])
    mean = mean_q(q)
    expected = torch.zeros(46)
    expected[0] = torch.pi
    torch.testing.assert_close(q_to_rotmat(mean)[0], q_to_rotmat(expected)[0], atol=1e-5, rtol=0)


def test_a_dataset_without_held_out_shards_is_one_clear_message(open_body_dir, tmp_path):
    samples = write_sample_set(tmp_path, held_out=0)
    with pytest.raises(UserError, match=r"no shard of split 'test'"):
        HeldOut.open(samples.path, samples.images, open_body_dir, torch.device("cpu"), quiet=True)
