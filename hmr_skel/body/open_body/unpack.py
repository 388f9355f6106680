"""Read the packed open body, `open_body.npz` beside this file, into plain arrays.

Metres and radians; y is up, the body faces +z, x is to its left. The asset stores integers, in steps named `*_step`,
and only one half of each symmetric array. `tools/open_body/packing.py` writes it; the two files share `Layout`.
"""

import pathlib
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from hmr_skel.errors import UserError

OPEN_BODY_VERSION = "4"
"""It changes with the content of the asset, and is part of the name of every file cached from it."""
ASSET = pathlib.Path(__file__).with_name("open_body.npz")
GENDERS = ("neutral", "male", "female")
SKEL_GENDERS = ("male", "female")

SMPL_PAIRS = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)
"""Mirror image of each SMPL joint."""
SKEL_PAIRS = (0, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 11, 12, 13, 19, 20, 21, 22, 23, 14, 15, 16, 17, 18)
"""Mirror image of each SKEL joint."""

MIRROR = np.array([-1.0, 1.0, 1.0])
WEIGHT_STEPS = 4096
"""Skin weights are multiples of 1/4096, regressor entries multiples of 1/65535; rows sum to exactly 1."""
REGRESSOR_STEPS = 65535
TEMPLATE_STEP = 5e-5
SHAPE_STEP = 2e-5
POSE_STEP = 2e-4
BONE_STEP = 2e-5


@dataclass(frozen=True)
class GenderedBody:
    """The arrays that differ between the neutral, male and female files."""

    template: np.ndarray  # [6890 3] T-pose skin
    shapedirs: np.ndarray  # [6890 3 10] metres per beta
    posedirs: np.ndarray  # [6890 3 207] metres per entry of the 23 joint rotations minus identity, row-major
    smpl_regressor: np.ndarray  # [24 6890] SMPL joints from the shaped skin
    skel_regressor: np.ndarray  # [24 6890] SKEL's anatomical joints from the shaped skin
    bone_offsets: np.ndarray  # [24 3] SKEL joint in its parent's bone frame
    bone_tilts: np.ndarray  # [24 3 3] default-pose rotation of each bone
    bone_orientations: np.ndarray  # [24 3 3] bone frame to skin frame in the T-pose
    bone_vertices: np.ndarray  # [K 3] bone meshes, each in its own bone's frame; no file has neutral ones


@dataclass(frozen=True)
class OpenBody:
    """The content of all exported files. Vertex numbers are those of the files."""

    version: str
    faces: np.ndarray  # [13776 3] int64, counter-clockwise seen from outside
    mirror: np.ndarray  # [6890] number of the mirrored vertex
    smpl_weights: np.ndarray  # [6890 24]
    skel_weights: np.ndarray  # [6890 24]
    j19_regressor: np.ndarray  # [19 6890] the 19 extra keypoints of 4D-Humans' convention
    h36m_regressor: np.ndarray  # [17 6890] Human3.6M joints in SPIN's order (left leg first)
    bone_faces: np.ndarray  # [L 3] int64
    bone_joint: np.ndarray  # [K] SKEL joint that each bone vertex belongs to
    bone_weights: np.ndarray  # [K 24] posing weights: one-hot except for the vertebrae
    genders: dict[str, GenderedBody]  # By `neutral`, `male`, `female`


def unpack(asset: pathlib.Path = ASSET) -> OpenBody:
    """Read the asset into float64 and int64 arrays. Takes about half a second."""
    try:
        # Opened here, because np.load leaves a damaged file open.
        with asset.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            packed = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{asset}: cannot read the open body ({error}). It is part of hmr-skel: reinstall, or restore the file."
        ) from error
    version = str(packed["version"].item()) if "version" in packed else "unknown"
    if version != OPEN_BODY_VERSION:
        raise UserError(
            f"{asset}: open body version {version}, expected {OPEN_BODY_VERSION}: file and code are of different "
            "releases. Reinstall hmr-skel, or rebuild the file with `python -m tools.open_body` in a checkout."
        )
    layout = Layout(packed["number"].astype(np.int64), packed["num_left"].item())
    smpl_half = packed["smpl_weights"] / WEIGHT_STEPS
    skel_half = packed["skel_weights"] / WEIGHT_STEPS
    return OpenBody(
        version=version,
        faces=layout.faces(undo_difference(packed["faces_left"]).astype(np.int64)),
        mirror=layout.mirror(),
        smpl_weights=layout.whole(smpl_half, smpl_half[:, SMPL_PAIRS]),
        skel_weights=layout.whole(skel_half, skel_half[:, SKEL_PAIRS]),
        j19_regressor=_regressor(packed, "j19", 19, layout),
        h36m_regressor=_regressor(packed, "h36m", 17, layout),
        bone_faces=undo_difference(packed["bone_faces"]).astype(np.int64),
        bone_joint=packed["bone_joint"].astype(np.int64),
        bone_weights=packed["bone_weights"] / 255.0,
        genders={gender: _gendered(packed, gender, layout) for gender in GENDERS},
    )


@dataclass(frozen=True)
class Layout:
    """Order of vertices in the asset: left half, midline, mirrored left half; `number` [V] gives the files' numbers."""

    number: np.ndarray
    num_left: int

    @property
    def num_half(self) -> int:
        return len(self.number) - self.num_left

    def whole(self, half: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """An array over all vertices, in the files' numbers, from one half (left, midline) and its mirror image."""
        result = np.empty((len(self.number), *half.shape[1:]), dtype=half.dtype)
        result[self.number[: self.num_half]] = half
        result[self.number[self.num_half :]] = mirrored[: self.num_left]
        return result

    def mirror(self) -> np.ndarray:
        place = np.arange(len(self.number))
        other = np.concatenate([place[self.num_half :], place[self.num_left : self.num_half], place[: self.num_left]])
        result = np.empty_like(place)
        result[self.number] = self.number[other]
        return result

    def faces(self, left: np.ndarray) -> np.ndarray:
        """All faces from those of the left half [F/2 3], which count vertices by their place in the asset."""
        faces = self.number[left]
        return np.concatenate([faces, self.mirror()[faces][:, ::-1]])


def mirror_posedirs(half: np.ndarray) -> np.ndarray:
    """Pose correctives [V 3 207] of the mirrored vertices."""
    blocks = half.reshape(len(half), 3, 23, 3, 3)
    pairs = np.array(SMPL_PAIRS[1:]) - 1
    return (blocks[:, :, pairs] * MIRROR[:, None, None, None] * MIRROR[:, None] * MIRROR).reshape(half.shape)


def undo_difference(differences: np.ndarray) -> np.ndarray:
    """Undo the packer's differences along the first axis; sums wrap in the array's integer type."""
    return np.cumsum(differences, axis=0, dtype=differences.dtype)


def _gendered(packed: dict[str, np.ndarray], gender: str, layout: Layout) -> GenderedBody:
    template = undo_difference(packed[f"{gender}_template"]) * TEMPLATE_STEP
    shapedirs = undo_difference(packed[f"{gender}_shapedirs"]) * SHAPE_STEP
    # Coefficients are stored for the (vertex, joint) blocks that have any.
    support = np.unpackbits(packed[f"{gender}_pose_support"], axis=1, count=23).astype(bool)
    blocks = np.zeros((layout.num_half, 23, 3, 9))
    blocks[support] = packed[f"{gender}_pose_blocks"].reshape(-1, 3, 9) * POSE_STEP
    posedirs = blocks.transpose(0, 2, 1, 3).reshape(layout.num_half, 3, 207)
    return GenderedBody(
        template=layout.whole(template, template * MIRROR),
        shapedirs=layout.whole(shapedirs, shapedirs * MIRROR[:, None]),
        posedirs=layout.whole(posedirs, mirror_posedirs(posedirs)),
        smpl_regressor=_regressor(packed, f"{gender}_smpl", 24, layout),
        skel_regressor=_regressor(packed, f"{gender}_skel", 24, layout),
        bone_offsets=packed[f"{gender}_bone_offsets"],
        bone_tilts=packed[f"{gender}_bone_tilts"],
        bone_orientations=packed[f"{gender}_bone_orientations"],
        bone_vertices=undo_difference(packed[f"{gender}_bone_vertices"]) * BONE_STEP,
    )


def _regressor(packed: dict[str, np.ndarray], name: str, num_joints: int, layout: Layout) -> np.ndarray:
    regressor = np.zeros((num_joints, len(layout.number)))
    columns = layout.number[packed[f"{name}_columns"]]
    regressor[packed[f"{name}_rows"], columns] = packed[f"{name}_values"] / REGRESSOR_STEPS
    return regressor
