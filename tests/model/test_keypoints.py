"""SKEL posed and its 44 keypoints."""

import pytest
import torch

from hmr_skel.errors import UserError
from hmr_skel.model.decoder import HSMR_MEAN_Q
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.rows import SkelParams


def params(*batch: int) -> SkelParams:
    g = torch.Generator().manual_seed(0)
    q = torch.tensor(HSMR_MEAN_Q) + 0.3 * torch.randn(*batch, 46, generator=g)
    return SkelParams(q, torch.randn(*batch, 10, generator=g), torch.randn(*batch, 3, generator=g))


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_the_cheap_way_gives_the_same_keypoints(body, batch):
    posed = body(params(*batch))
    assert posed.vertices.shape == (*batch, 6890, 3)
    torch.testing.assert_close(body.keypoints(params(*batch)), posed.keypoints, rtol=0, atol=1e-5)


def test_float32_under_autocast_and_nothing_to_learn(body):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = body.keypoints(params(2))
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, body.keypoints(params(2)), rtol=0, atol=0)
    assert not list(body.parameters())
    assert not body.state_dict()


def test_each_gender_has_its_own_skin_and_there_is_no_neutral(open_body_dir, body, tmp_path):
    female = SkelKeypoints.load(open_body_dir, "female")
    assert (female.gender, body.gender) == ("female", "male")
    assert (female(params()).vertices - body(params()).vertices).norm(dim=-1).max() > 1e-3
    with pytest.raises(UserError, match="neutral"):
        SkelKeypoints.load(open_body_dir, "neutral")
    with pytest.raises(UserError, match=r"skel_male\.pkl"):
        SkelKeypoints.load(tmp_path, "male")
