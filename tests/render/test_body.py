"""Bodies in pictures: the open body, over an image of it that another piece of code made."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from hmr_skel.body.skel import Skel
from hmr_skel.render import body_parts, portrait
from hmr_skel.render.body import VEIL
from hmr_skel.rows import SkelParams


@pytest.fixture(scope="module")
def skel(open_body_dir):
    return Skel.load(open_body_dir / "skel_male.pkl")


@pytest.fixture(scope="module")
def params():
    q = torch.zeros(46)
    q[0], q[3], q[6], q[32] = np.pi, 0.6, 0.8, 1.2  # upright in a camera's frame, a step, a bent elbow
    return SkelParams(q, torch.zeros(10), torch.tensor([0.1, 0.0, 5.0]))


def test_what_is_shown(skel, params):
    skin, bones = body_parts(skel, params, "skin"), body_parts(skel, params, "skeleton")
    both = body_parts(skel, params)
    assert [part.opacity for part in skin] == [1]
    assert [part.opacity for part in bones] == [1]
    assert [part.opacity for part in both] == [1, VEIL]
    np.testing.assert_array_equal(both[0].vertices, bones[0].vertices)
    np.testing.assert_array_equal(both[1].vertices, skin[0].vertices)
    assert len(bones[0].faces) > 20_000
    posed = skel(params.q, params.betas, params.transl, skeleton=True)
    np.testing.assert_allclose(skin[0].vertices, posed.vertices.numpy())


def test_bones_are_seen_through_the_skin_and_stay_inside_it(skel, params):
    around = body_parts(skel, params, "skin")[0].vertices
    drawn = {show: portrait(body_parts(skel, params, show), "front", 256, 256, around).astype(int)
             for show in ("skin", "skeleton", "both")}  # fmt: skip
    background = drawn["skin"][0, 0]
    covered = {show: (np.abs(picture - background).max(-1) > 12) for show, picture in drawn.items()}
    assert 0.3 < covered["skeleton"].sum() / covered["skin"].sum() < 0.8
    outside = covered["skeleton"] & ~binary_dilation(covered["skin"], iterations=1)
    assert outside.sum() < 0.01 * covered["skeleton"].sum()  # toes and finger tips of the open body
    bones = binary_erosion(covered["skeleton"], iterations=2)
    # Under the skin a bone still looks like the bone, and unlike the skin.
    unlike_bone, unlike_skin = (np.abs(drawn["both"] - drawn[k])[bones].mean() for k in ("skeleton", "skin"))
    assert unlike_bone < 0.7 * unlike_skin
