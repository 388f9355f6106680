"""The picture of the README: a step of a walk as annotated with SMPL, as fitted with SKEL, and the bones inside.

python -m tools.picture labels.npz --rows 02_01/0000 02_01/000105 02_01/000113 -o docs/walk.gif
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

import fitting
from fitting.many import fit_many
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.predict.pictures import encode_animation
from hmr_skel.render import ANNOTATION, BONE, PAPER, SKIN, mesh_part, portrait
from hmr_skel.render.body import VEIL
from hmr_skel.render.scene import Part
from hmr_skel.rows import SmplParams

SIZE, FRAME_MS = (300, 400), 67
CAPTIONS = "annotated: SMPL", "fitted: SKEL's skin", "SKEL's bones inside it"
TURN = (np.pi, 0.0, 0.0)
"""Of the pelvis: from y up, as bodies are, to y down, as pictures are."""


def walk(labels: Path, wanted: list[str], bodies: Path) -> list[np.ndarray]:
    """A picture [H W 3] of every row whose imgname has one of the `wanted` texts in it, in the order of the file."""
    with np.load(labels, allow_pickle=False) as file:
        rows = np.flatnonzero([any(text in name for text in wanted) for name in file["imgname"].tolist()])
        pose, betas = (torch.from_numpy(file[key][rows]).float() for key in ("pose_cam", "shape"))
    root = torch.tensor(TURN).expand(len(rows), 3)  # each row has a camera of its own: the person faces this one
    params = SmplParams(root, pose[:, 3:].unflatten(1, (23, 3)), torch.zeros_like(betas), torch.zeros(len(rows), 3))
    smpl, skel = Smpl.load(bodies / "SMPL_NEUTRAL.pkl"), Skel.load(bodies / "skel_male.pkl")
    annotated = smpl(params.global_orient, params.body_pose, params.betas, params.transl).vertices.numpy()
    faces = smpl.faces, skel.faces, skel.skeleton_faces
    result = fit_many(params, fitting.prepare(smpl, skel, fitting.recipe("default")))
    with torch.no_grad():
        posed = skel(result.skel.q, result.skel.betas, result.skel.transl, skeleton=True)
    assert posed.skeleton_vertices is not None
    turned = cv2.Rodrigues(np.array([0.0, np.radians(50), 0.0]))[0].astype(np.float32)
    meshes = [mesh @ turned for mesh in (annotated, posed.vertices.numpy(), posed.skeleton_vertices.numpy())]
    around = np.concatenate(meshes[0])
    frames = []
    for smpl_mesh, skin, bones in zip(*meshes, strict=True):
        inside = [mesh_part(bones, faces[2], BONE), mesh_part(skin, faces[1], SKIN, VEIL)]
        shown = [mesh_part(smpl_mesh, faces[0], ANNOTATION)], [mesh_part(skin, faces[1], SKIN)], inside
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--rows", nargs="+", default=[""], help="texts, one of which the imgname of a row must have")
    parser.add_argument("--bodies", type=Path, default=Path("data/open/body_models"))
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    frames = walk(args.labels, args.rows, args.bodies)
    data = encode_animation(frames, FRAME_MS, FRAME_MS, dither=3)
    args.out.write_bytes(data)
    print(f"{args.out}: {len(frames)} frames, {len(data):,} bytes")


if __name__ == "__main__":
    main()
