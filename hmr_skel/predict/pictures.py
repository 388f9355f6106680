"""Draw predictions: overlays on the photograph, the refinement as an animation, and attention maps."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from hmr_skel.body.skel import Skel
from hmr_skel.data.images import CROP_SIZE, box_affine, crop_image
from hmr_skel.model.config import IMAGE_WIDTH
from hmr_skel.predict.frames import Frame
from hmr_skel.predict.people import TOKENS, AttentionMaps, Body, Person
from hmr_skel.render import Part, body_parts, overlay, portrait
from hmr_skel.rows import SkelParams

Picture = UInt8[np.ndarray, "_ _ 3"]

COARSE, FINAL = (0.78, 0.93, 0.72), (0.10, 0.50, 0.22)
"""The colours of the skin before and after refinement, from light to dark green as in the paper's Fig. 5."""
STAGE_MS, LAST_STAGE_MS = 500, 1500
_SIZE = 384  # px, of each picture of an animation
_BAND = 26  # px, of text above pictures
_MAP_HEIGHT = 192  # px, of an attention map


def skel_params(body: Body, stage: int = -1) -> SkelParams:
    """The parameters of a stage."""
    return SkelParams(*(torch.from_numpy(values[stage]) for values in (body.q, body.betas, body.transl)))


def draw_overlay(frame: Frame, people: Sequence[tuple[Person, Body]], skel: Skel) -> Picture:
    """Draw the photograph, and beside it the same with everybody drawn in: bones under a translucent skin.

    People with the same camera hide one another by depth; people with other cameras are drawn over them.
    """
    cameras: dict[bytes, list[tuple[Person, Body]]] = {}
    for person, body in people:
        cameras.setdefault(person.cam_int.tobytes(), []).append((person, body))
    drawn = frame.rgb
    for members in cameras.values():
        parts = [part for _, body in members for part in body_parts(skel, skel_params(body), "both")]
        drawn = overlay(drawn, parts, members[0][0].cam_int)
    return np.concatenate((frame.rgb, drawn), 1)


def draw_refinement(frame: Frame, person: Person, body: Body, skel: Skel, names: Sequence[str]) -> list[Picture]:
    """A picture per stage with its name: the skin over the person's box, and from the side, all framed alike."""
    zoom = np.diag((_SIZE / CROP_SIZE, _SIZE / CROP_SIZE, 1.0))
    affine = zoom @ np.vstack((box_affine(person.box.center, person.box.side), (0, 0, 1)))
    crop = cv2.resize(crop_image(frame.rgb, box_affine(person.box.center, person.box.side)), (_SIZE, _SIZE))
    stages = range(len(body.q))
    parts = [body_parts(skel, skel_params(body, i), "skin", _mixed(i / max(len(stages) - 1, 1))) for i in stages]
    return [
        _titled(
            np.concatenate((overlay(crop, parts[i], affine @ person.cam_int), _side(parts[i], parts[-1])), 1),
            names[i],
        )
        for i in stages
    ]


def draw_attention(person: Person, attention: AttentionMaps) -> Picture:
    """Draw attention maps, a row per decoder layer, a column per token, each scaled to its own maximum."""
    margin = (CROP_SIZE - IMAGE_WIDTH) // 2
    seen = np.ascontiguousarray(person.crop[:, margin : margin + IMAGE_WIDTH])
    rows = []
    for layer, maps in enumerate(attention.numpy(), start=1):
        cells = [_labelled(seen, f"layer {layer}")]
        for token, map in zip(TOKENS, maps, strict=True):
            cells.append(_labelled(_heated(seen, map), f"{token}, at most {100 * map.max():.1f} %"))
        rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows)


def encode_animation(
    pictures: Sequence[Picture], each_ms: int = STAGE_MS, last_ms: int = LAST_STAGE_MS, dither: int = 0
) -> bytes:
    """A GIF that repeats, and rests on its last picture. `dither` is OpenCV's: from -1, most, to 3, none."""
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
    animation.durations = [each_ms] * (len(pictures) - 1) + [last_ms]
    animation.loop_count = 0
    written, data = cv2.imencodeanimation(".gif", animation, [cv2.IMWRITE_GIF_DITHER, dither])
    assert written
    return data.tobytes()


def encode_picture(picture: Picture, kind: str) -> bytes:
    """The bytes of a `.jpg` or `.png`."""
    written, data = cv2.imencode(kind, picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92] if kind == ".jpg" else [])
    assert written
    return data.tobytes()


def _side(parts: Sequence[Part], final: Sequence[Part]) -> Picture:
    """Draw a view from the side. Every stage is moved to the place of the last one, to compare only pose and shape."""
    target = final[0].vertices.mean(0)
    placed = [part.at(part.vertices - part.vertices.mean(0) + target) for part in parts]
    around = np.concatenate([part.vertices for part in final])
    return portrait(placed, "side", _SIZE, _SIZE, around=around, background=(1.0, 1.0, 1.0))


def _mixed(share: float) -> tuple[float, float, float]:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(COARSE, FINAL, strict=True))
    return red, green, blue


def _heated(seen: Picture, map: Float[np.ndarray, "rows columns"]) -> Picture:
    """Draw a map over the picture, with each patch's share at its centre, smooth between."""
    step_y, step_x = (side / patches for side, patches in zip(seen.shape, map.shape, strict=False))
    # Pixel x of the picture is at (x + 0.5) / step - 0.5 patches. (This ignores the patches' margin of 2 px.)
    to_map = np.array([[1 / step_x, 0, 0.5 / step_x - 0.5], [0, 1 / step_y, 0.5 / step_y - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    share = (map / map.max()).astype(np.float32)
    smooth = cv2.warpAffine(share, to_map, seen.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    colors = cv2.applyColorMap((255 * smooth.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)[..., None]
    weight = 0.25 + 0.65 * smooth[..., None]
    return ((1 - weight) * grey + weight * colors).astype(np.uint8)


def _labelled(picture: Picture, text: str) -> Picture:
    """The picture at its final size, with a line of text above and a white margin."""
    width = round(picture.shape[1] * _MAP_HEIGHT / picture.shape[0])
    small = cv2.resize(picture, (width, _MAP_HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(_titled(small, text), 0, 6, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _titled(picture: Picture, text: str) -> Picture:
    band = np.full((_BAND, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(band, text, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate((band, picture))
