"""Draw the report's pictures: single rows from several sides and for the viewer, and the mean error on the surface."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from hmr_skel.body.dofs import DOF_NAMES, NUM_DOFS
from hmr_skel.body.skel import Skel
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.images import ImageRule, UnreadableImage, decode, image_rules
from hmr_skel.data.manifest import Manifest
from hmr_skel.render.body import ANNOTATION, BONE, SKIN, VEIL, heat_colors, heat_stops, mesh_part
from hmr_skel.render.camera import View
from hmr_skel.render.scene import EVEN, STUDIO, Part, overlay, portrait
from hmr_skel.report.bodies import Measured, PosedRow, choose_picks, choose_sample, measure, pose_row
from hmr_skel.report.charts import nice_step
from hmr_skel.report.gather import ERRORS, Dataset
from hmr_skel.report.tables import STATUSES
from hmr_skel.report.viewer import pack_faces, pack_scene, thin_bones, three_js

Show = Literal["both", "skin", "skeleton", "heat", "annotation"]
WIDTH, HEIGHT = 400, 500
"""The side of a picture, px."""
_WEBP_QUALITY = 88


@dataclass(frozen=True)
class Figure:
    """A picture with its caption. Without a picture, `uri` is None and `alt` says why."""

    caption: str
    alt: str
    uri: str | None


@dataclass(frozen=True)
class ShownFit:
    """A row with its pictures."""

    title: str
    line: str  # its name, and its errors
    figures: list[Figure]


@dataclass(frozen=True)
class Pictures:
    """All parts of the page that need body models."""

    fits: list[ShownFit]
    high_mm: float  # end of the colour scale of single fits
    surface: list[Figure]  # the mean error on a body, and the end of its colour scale
    surface_high_mm: float
    measured: Measured | None  # None if nothing was fitted
    scenes: str  # JSON: the rows as meshes, for the viewer
    three_js: str | None  # the viewer's library; None for a page without a viewer


def draw_pictures(
    dataset: Dataset, manifest: Manifest, progress: Callable[[int], object] = lambda rows: None
) -> Pictures:
    """Draw everything that needs body models. Raises `UserError` if one is missing or damaged."""
    bodies, rules = Bodies(manifest.body_models.path), image_rules(manifest)
    posed = {title: pose_row(dataset.rows, row, bodies) for title, row in choose_picks(dataset).items()}
    sample = choose_sample(dataset)
    measured = measure(dataset.rows, sample, bodies, progress) if len(sample) else None
    high = 1.0 if measured is None else _scale_end(measured.high_mm)
    models = {gender: bodies.skel(gender) for gender in dict.fromkeys(one.row["skel_gender"] for one in posed.values())}
    bones = {gender: thin_bones(skel) for gender, skel in models.items()}
    fits, meshes = [], []
    for title, one in posed.items():
        gender = one.row["skel_gender"]
        facts = _facts(one)
        line = [facts[0][1], *(f"{term} {text}" for term, text in facts[1:-1]), facts[-1][1]]
        fits.append(ShownFit(title, " · ".join(line), fit_figures(one, models[gender], rules, high)))
        meshes.append(pack_scene(title, one.faced(), bones[gender][0], facts) | {"gender": gender})
    surface, surface_high = [], 0.0
    if measured is not None:
        surface_high = _scale_end(float(np.quantile(measured.by_vertex_mm, 0.99)))
        skel = next(iter(models.values()))
        surface = surface_figures(_standing(skel), skel.faces, measured.by_vertex_mm, surface_high)
    faces = {gender: pack_faces(models[gender], faces) for gender, (_, faces) in bones.items()}
    scenes = json.dumps({"rows": meshes, "faces": faces, "heat": heat_stops(33), "high_mm": high})
    scenes = scenes.replace("<", "\\u003c")  # a name may contain </script>
    return Pictures(fits, high, surface, surface_high, measured, scenes, three_js())


def _scale_end(value: float) -> float:
    """A round number slightly above a value, for the end of a scale."""
    step = nice_step(value, 10)
    return float(np.ceil(value / step) * step)


def _facts(posed: PosedRow) -> list[tuple[str, str]]:
    """The facts about a row: its name, errors, status."""
    row, words = posed.row, dict(zip(ERRORS, ("v2v", "worst vertex", "joints"), strict=True))
    errors = [(words[name], f"{row[name]:.2f} mm") for name in ERRORS if row[name] is not None]
    return [("row", row["row_id"]), *errors, ("status", STATUSES.get(row["status"], row["status"]))]


@torch.no_grad()
def _standing(skel: Skel) -> np.ndarray:
    """The vertices of the mean body with lowered arms, y up, facing +z."""
    q, betas, transl = (torch.zeros(n).to(skel.template) for n in (NUM_DOFS, 10, 3))
    for side, lowered in (("r", 0.9), ("l", -0.9)):
        q[DOF_NAMES.index(f"shoulder_{side}_x")] = lowered
    return skel(q, betas, transl).vertices.numpy()


def fit_figures(posed: PosedRow, skel: Skel, rules: Mapping[str, ImageRule], high_mm: float) -> list[Figure]:
    """Draw a row over its image, then alone: annotated mesh, fitted skin, skeleton, and error on the surface.

    `front` shows the front of the body, in any direction that it faces in the image.

    Args:
        posed: the row.
        skel: its body model, for the faces.
        rules: the places of each source's images.
        high_mm: end of the colour scale of errors.
    """
    shown: list[tuple[str, str, Show, View]] = [
        ("SKEL skin", "the skin of the SKEL body", "skin", "front"),
        ("Bones inside it", "the skeleton under a translucent skin", "both", "front"),
        ("From the side", "the same, seen from the side", "both", "side"),
    ]
    faced = posed.faced()
    around = faced.skin
    if faced.target is not None:
        around = np.concatenate((faced.skin, faced.target))
        shown = [
            ("Annotated SMPL mesh", "the annotated SMPL mesh", "annotation", "front"),
            ("Fitted SKEL skin", "the skin of the SKEL body", "skin", "front"),
            ("Bones inside it", "the skeleton under a translucent skin", "both", "front"),
            ("Distance, front", "the distance to the annotated mesh as colours", "heat", "front"),
            ("Distance, back", "the same distances, seen from behind", "heat", "back"),
        ]
    figures = [_over_the_image(posed, shown_parts(posed, skel, "both", high_mm), rules)]
    for caption, alt, show, view in shown:
        light, parts = EVEN if show == "heat" else STUDIO, shown_parts(faced, skel, show, high_mm)
        picture = portrait(parts, view, WIDTH, HEIGHT, around, light=light)
        figures.append(Figure(caption, f"{posed.row['row_id']}: {alt}", data_uri(picture)))
    return figures


def shown_parts(posed: PosedRow, skel: Skel, show: Show, high_mm: float) -> list[Part]:
    """A row as the parts of a picture. `annotation` and `heat` (up to `high_mm`) need a fitted row."""
    bones = mesh_part(posed.bones, skel.skeleton_faces, BONE)
    if show == "skeleton":
        return [bones]
    if show == "skin":
        return [mesh_part(posed.skin, skel.faces, SKIN)]
    if show == "both":
        return [bones, mesh_part(posed.skin, skel.faces, SKIN, VEIL)]
    assert posed.target is not None
    assert posed.distances_mm is not None
    if show == "annotation":
        return [mesh_part(posed.target, skel.faces, ANNOTATION)]
    return [Part(posed.skin, skel.faces, heat_colors(posed.distances_mm, high_mm))]


def surface_figures(
    vertices: Float[np.ndarray, "V 3"], faces: np.ndarray, by_vertex_mm: Float[np.ndarray, "V"], high_mm: float
) -> list[Figure]:
    """Draw the mean distance of each vertex on a body at rest (y up), from the front, the side and behind."""
    warm = Part(vertices * np.array([1, -1, -1], np.float32), faces, heat_colors(by_vertex_mm, high_mm))
    views: dict[View, str] = {"front": "from the front", "side": "from the side", "back": "from behind"}
    pictures = {caption: portrait([warm], view, 340, 460, light=EVEN) for view, caption in views.items()}
    return [
        Figure(caption, f"mean distance on the surface, {caption}", data_uri(picture))
        for caption, picture in pictures.items()
    ]


def data_uri(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """An RGB picture as a WebP data URI."""
    written, content = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY])
    assert written
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode()


def image_of(
    row: Mapping[str, Any], rule: ImageRule | None, as_stored: bool = True
) -> UInt8[np.ndarray, "H W 3"] | str:
    """The image of a row by its source's rule, RGB; or why there is none. `as_stored` as in `decode`."""
    if rule is None:
        return "no image: the manifest names no image_root for this source"
    if not row.get("imgname"):
        return "no image: the row names none"
    try:
        image, _ = decode(rule.file(row["imgname"]).read_bytes(), 1.0, as_stored)
    except OSError:
        return f"no image: {row['imgname']} is not there (make images renders those of the default dataset)"
    except UnreadableImage as error:
        return f"no image: {row['imgname']} {error}"
    return np.ascontiguousarray(image[..., ::-1])


def _over_the_image(posed: PosedRow, parts: list[Part], rules: Mapping[str, ImageRule]) -> Figure:
    """Draw the body over its image, cut to the person's box; without intrinsics, only the image."""
    row = posed.row
    alt = f"{row['row_id']}: the skeleton over the image, cut to the person's box"
    picture, caption = image_of(row, rules.get(row["source"])), "Image"
    if isinstance(picture, str):
        return Figure(caption, picture, None)
    if row["cam_int"] is not None and row["skel_transl"] is not None:
        picture, caption = overlay(picture, parts, row["cam_int"]), "Skeleton over the image"
    return Figure(caption, alt, data_uri(_cut(picture, row["center"], PX_PER_SCALE * float(np.max(row["scale"])))))


def _cut(
    picture: UInt8[np.ndarray, "H W 3"], center: Float[np.ndarray, "2"], side: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Cut a square box (px), with what is above and below it, from a picture; grey where the picture ends."""
    scale = WIDTH / side
    if scale < 1:  # average first, since a warp samples single pixels
        height, width = (max(round(length * scale), 1) for length in picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        center, scale = center * scale, 1.0
    shift = np.array([WIDTH, HEIGHT]) / 2 - scale * center
    affine = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(picture, affine, (WIDTH, HEIGHT), borderValue=(235, 235, 233))
