"""Crop camera, full image, and back."""

from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from hmr_skel.model.camera import CropGeometry, camera_cue, crop_camera_to_transl, image_to_crop, project


def geometry_of(center, size, focal, principal, focal_y=None) -> CropGeometry:
    intrinsics = [[focal, 0, principal[0]], [0, focal_y or focal, principal[1]], [0, 0, 1]]
    return CropGeometry.from_box(*(torch.tensor(x, dtype=torch.float64) for x in (center, size, intrinsics)))


def test_by_hand():
    """W, H = 640, 480; f = 1000; box of 200 px at (420, 290); s = 0.8, tx = 0.1, ty = -0.2."""
    geometry = geometry_of([420.0, 290.0], 200.0, 1000.0, (320.0, 240.0))
    transl = crop_camera_to_transl(torch.tensor([0.8, 0.1, -0.2]), geometry)
    expected = torch.tensor([0.1 + 2 * 100 / 160, -0.2 + 2 * 50 / 160, 2 * 1000 / 160])
    torch.testing.assert_close(transl, expected.double(), check_dtype=False)
    torch.testing.assert_close(camera_cue(geometry), torch.tensor([0.1, 0.05, 0.2]).double(), check_dtype=False)


numbers = st.floats(-0.5, 0.5)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    st.tuples(st.floats(0.2, 3), numbers, numbers), st.tuples(numbers, numbers), st.floats(300, 3000), st.booleans()
)
def test_the_body_is_seen_where_the_crop_camera_has_it(camera, principal, focal, anamorphic):
    """The origin lands at c + b s t / 2 for any focal length and principal point; in the crop at s t / 2."""
    camera = torch.tensor(camera, dtype=torch.float64)
    point = (320 + 100 * principal[0], 240 + 100 * principal[1])
    geometry = geometry_of([420.0, 290.0], 200.0, focal, point, focal_y=1.3 * focal if anamorphic else None)
    seen = project(crop_camera_to_transl(camera, geometry)[None], geometry.intrinsics)
    torch.testing.assert_close(seen[0], geometry.center + 100 * camera[0] * camera[1:])
    torch.testing.assert_close(image_to_crop(seen, geometry)[0], camera[0] * camera[1:] / 2, rtol=0, atol=1e-6)


def test_the_affine_is_used_as_it_is():
    geometry = geometry_of([420.0, 290.0], 200.0, 1000.0, (320.0, 240.0))
    corners = torch.tensor([[320, 190], [520, 390], [520, 190]]).double()
    expected = torch.tensor([[-0.5, -0.5], [0.5, 0.5], [0.5, -0.5]]).double()
    torch.testing.assert_close(image_to_crop(corners, geometry), expected)
    quarter_turn = torch.tensor([[0, -1, 228], [1, 0, 28]]).double()
    turned = replace(geometry, affine=quarter_turn)
    expected = torch.tensor([[0, 0.25]]).double()
    torch.testing.assert_close(image_to_crop(torch.tensor([[164, 100]]).double(), turned), expected)


def test_without_a_camera_the_crop_is_its_own_photo():
    geometry = CropGeometry.unknown_camera(geometry_of([420.0, 290.0], 200.0, 1000.0, (320.0, 240.0)))
    transl = crop_camera_to_transl(torch.tensor([0.8, 0.1, -0.2]), geometry)
    torch.testing.assert_close(transl, torch.tensor([0.1, -0.2, 2 * 5000 / (256 * 0.8)]), check_dtype=False)
    corner = image_to_crop(torch.tensor([[256, 0]]).double(), geometry)
    torch.testing.assert_close(corner, torch.tensor([[0.5, -0.5]]).double())


@pytest.mark.parametrize("scale", [0.0, -100.0])
def test_impossible_scales_stay_finite_in_front_of_the_camera_and_can_recover(scale):
    camera = torch.tensor([scale, 0.1, 0.1], requires_grad=True)
    transl = crop_camera_to_transl(camera, geometry_of([420.0, 290.0], 200.0, 1000.0, (320.0, 240.0)))
    assert transl.isfinite().all()
    assert transl[2] > 0
    transl[2].backward()
    assert camera.grad.isfinite().all()
    assert camera.grad[0] < 0  # a larger scale brings the body nearer


def test_points_behind_the_camera_stay_finite_and_can_recover():
    geometry = geometry_of([420.0, 290.0], 200.0, 1000.0, (320.0, 240.0))
    points = torch.tensor([[0.3, 0.2, 0.0], [0.3, 0.2, -1.0], [0.3, 0.2, 1e-9]], requires_grad=True)
    seen = project(points, geometry.intrinsics.float())
    assert seen.isfinite().all()
    seen[:, 0].sum().backward()
    assert points.grad.isfinite().all()
    assert (points.grad[:, 2] < 0).all()  # further away is nearer to the image's centre
