"""Boxes to bodies, and bodies to pictures: what is drawn must lie where the person is."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from hmr_skel.errors import UserError
from hmr_skel.model.camera import project
from hmr_skel.model.config import NetworkConfig
from hmr_skel.model.network import Network
from hmr_skel.predict.boxes import square
from hmr_skel.predict.cameras import FocalLength
from hmr_skel.predict.frames import Frame
from hmr_skel.predict.people import Predictor, cut_out, image_to_skel, predict
from hmr_skel.predict.pictures import draw_attention, draw_overlay, draw_refinement, encode_animation, skel_params
from tests.predict.conftest import CAM_INT, HEIGHT, WIDTH

MARGIN = 1.15


@pytest.fixture
def frames(photos) -> list[Frame]:
    return [Frame(photo.file, None, None, photo.rgb) for photo in photos]


@pytest.fixture
def people(photos, frames):
    return [cut_out(f, 0, square(p.corners, MARGIN), CAM_INT) for f, p in zip(frames, photos, strict=True)]


def test_the_known_body_comes_back_through_box_crop_and_camera(photos, people, oracle, skel):
    """The network's frame is the crop; the body's is the camera's."""
    for photo, body in zip(photos, predict(oracle, people), strict=True):
        assert body.q.shape == (2, 46)
        np.testing.assert_allclose(body.transl[-1], photo.params.transl, atol=1e-4)
        found = skel_params(body)
        with torch.no_grad():
            vertices = [skel(p.q, p.betas, p.transl).vertices for p in (found, photo.params)]
        pixels = [project(v, torch.from_numpy(CAM_INT)) for v in vertices]
        assert (pixels[0] - pixels[1]).norm(dim=-1).max() < 0.1


def test_overlays_lie_on_the_person_to_a_pixel(photos, frames, people, oracle, skel):
    """What the overlay changes is the person's silhouette: all of it but an edge of one pixel, and nothing two away."""
    for photo, frame, person, body in zip(photos, frames, people, predict(oracle, people), strict=True):
        picture = draw_overlay(frame, [(person, body)], skel)
        assert picture.shape == (HEIGHT, 2 * WIDTH, 3)
        np.testing.assert_array_equal(picture[:, :WIDTH], photo.rgb)
        changed = (picture[:, WIDTH:] != photo.rgb).any(-1)
        # Inside, a translucent shell over the same colour may leave single pixels as they were.
        inner = binary_erosion(photo.mask, iterations=1)
        assert changed[inner].mean() > 0.995
        assert not changed[~binary_dilation(photo.mask, np.ones((3, 3)), iterations=2)].any()
        assert changed.sum() / photo.mask.sum() < 1.2


@pytest.mark.parametrize("switches", [{"coarse": False}, {"looped": True}, {"camera": False}])
def test_every_variant_of_the_network_predicts(people, small_config, switches):
    torch.manual_seed(1)
    predictor = Predictor(Network(small_config(**switches)).eval(), "male", "", published=False)
    body = predict(predictor, people[:1], attention=True)[0]
    assert len(body.q) == predictor.num_stages
    assert body.attention is not None
    assert body.attention.shape == (3, 3, 8, 6)
    # The body's origin is projected to where the crop's camera says, whatever camera the network believes in.
    box, (_, tx, ty) = people[0].box, body.crop_camera[-1]
    half = box.side * body.crop_camera[-1, 0] / 2
    where = CAM_INT @ body.transl[-1]
    assert body.crop_camera[-1, 0] > 0.1  # smaller scales are taken for 0.1
    np.testing.assert_allclose(where[:2] / where[2], box.center + half * np.array([tx, ty]), atol=1e-2)


def test_attention_is_what_the_layers_take(people, small_config):
    """Weights put back onto the values give what the layer itself gives."""
    from hmr_skel.model.decoder import CrossAttention
    from hmr_skel.predict.people import weights

    torch.manual_seed(2)
    one_head = NetworkConfig(
        vit=small_config().vit, decoder=small_config().decoder.__class__(depth=1, heads=1, head_width=8, hidden=16)
    )
    layer = Network(one_head).decoder.layers[0].cross_attention
    assert isinstance(layer, CrossAttention)
    tokens, image = torch.randn(2, 3, 32), torch.randn(2, 48, 32)
    value = layer.key_value(image).chunk(2, -1)[1]
    torch.testing.assert_close(layer.out(weights(layer, tokens, image) @ value), layer(tokens, image))


def test_attention_maps_mark_the_patch_that_is_looked_at(people):
    attention = torch.full((2, 3, 8, 6), 0.01)
    attention[0, 1, 7, 0] = 0.5  # layer 1, shape token, lower left
    picture = draw_attention(people[0], attention).astype(int)
    cells = picture.reshape(2, picture.shape[0] // 2, 4, picture.shape[1] // 4, 3)
    warmth = cells[0, :, 2, :, 0] - cells[0, :, 2, :, 2]  # red over blue
    row, column = np.unravel_index(np.argmax(warmth), warmth.shape)
    assert row > 0.8 * warmth.shape[0]
    assert column < 0.2 * warmth.shape[1]


def test_refinement_goes_from_light_to_dark_stage_by_stage(frames, people, oracle, skel):
    body = predict(oracle, people)[0]
    pictures = draw_refinement(frames[0], people[0], body, skel, ["coarse estimate", "decoder"])
    assert len(pictures) == 2
    assert pictures[0].shape == pictures[1].shape
    light, dark = (picture[40:, pictures[0].shape[1] // 2 :].min(-1).min() for picture in pictures)
    assert light > dark
    gif = encode_animation(pictures)
    assert gif[:6] == b"GIF89a"


def test_one_call_for_one_picture(photos, frames, oracle):
    focal, boxes = float(CAM_INT[0, 0]), [[float(x) for x in photo.corners] for photo in photos]
    cam_int = FocalLength(focal).of(frames[0])
    people = [cut_out(frames[0], i, square(corners, MARGIN), cam_int) for i, corners in enumerate(np.array(boxes))]
    found = image_to_skel(photos[0].rgb, boxes, network=oracle, focal=focal, margin=MARGIN)
    for body, expected in zip(found, predict(oracle, people), strict=True):
        np.testing.assert_array_equal(body.q, expected.q)
        np.testing.assert_array_equal(body.transl, expected.transl)
    assert image_to_skel(photos[0].rgb, [], network=oracle, focal=focal) == []
    with pytest.raises(UserError, match=r"box 0.*the box is outside.*Expected x1, y1, x2, y2"):
        image_to_skel(photos[0].rgb, [[5000.0, 0.0, 5100.0, 90.0]], network=oracle, focal=focal)
