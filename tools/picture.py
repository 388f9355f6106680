"""Make the README's picture: a step of a walk as annotated with SMPL, as fitted with SKEL, and the bones inside.

hmr-skel convert walk.npz -o walk.parquet --body-models open
python -m tools.picture walk.parquet --rows 100 160 5 -o docs/walk.gif
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from hmr_skel.body.open_body.export import models_folder
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.load import load_shards
from hmr_skel.predict.pictures import encode_animation
from hmr_skel.render import ANNOTATION, BONE, PAPER, SKIN, mesh_part, portrait
from hmr_skel.render.body import VEIL
from hmr_skel.render.scene import Part
from hmr_skel.report.bodies import pose_row

SIZE, FRAME_MS = (300, 400), 67
CAPTIONS = "annotated: SMPL", "fitted: SKEL's skin", "SKEL's bones inside it"
TURN = cv2.Rodrigues(np.array([0.0, np.radians(50), 0.0]))[0].astype(np.float32)


def walk(clip: Path, rows: range, models: Path) -> list[np.ndarray]:
    """A picture [H W 3] of each of these rows of a converted clip."""
    table, bodies, frames = load_shards(clip), Bodies(models), []
    posed = [pose_row(table, row, bodies).in_camera().faced() for row in rows]
    around = np.concatenate([(one.skin - one.skin.mean(0)) @ TURN for one in posed])
    for one in posed:
        smpl, skel = bodies.smpl(one.row["smpl_gender"]), bodies.skel(one.row["skel_gender"])
        target, skin, bones = ((mesh - one.skin.mean(0)) @ TURN for mesh in (one.target, one.skin, one.bones))
        inside = [mesh_part(bones, skel.skeleton_faces, BONE), mesh_part(skin, skel.faces, SKIN, VEIL)]
        shown = [mesh_part(target, smpl.faces, ANNOTATION)], [mesh_part(skin, skel.faces, SKIN)], inside
        drawn = [_drawn(parts, around, text) for parts, text in zip(shown, CAPTIONS, strict=True)]
        frames.append(np.concatenate(drawn, 1))
    return frames


def _drawn(parts: list[Part], around: np.ndarray, caption: str) -> np.ndarray:
    picture = portrait(parts, "front", *SIZE, around=around)
    strip = np.full((28, SIZE[0], 3), np.round(255 * np.array(PAPER)), np.uint8)
    (width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    place = ((SIZE[0] - width) // 2, 16)
    cv2.putText(strip, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (70, 70, 70), 1, cv2.LINE_AA)
    return np.concatenate((picture, strip))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--rows", nargs=3, type=int, required=True, metavar="N", help="first, end, step")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    frames = walk(args.clip, range(*args.rows), models_folder("open"))
    args.out.write_bytes(encode_animation(frames, FRAME_MS, FRAME_MS, dither=3))
