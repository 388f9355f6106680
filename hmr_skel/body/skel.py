"""SKEL: from 46 anatomical degrees of freedom to skin, joints, joint frames and bone meshes.

Written from the description of the model (Keller et al. 2023, "From skin to skeleton") and the layout of its files,
without code of the published package. Metres, radians; at rest y is up and the body faces +z. Any leading batch shape.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmr_skel.body.assets import SKEL_FILES, load_skel_arrays
from hmr_skel.body.dofs import DOFS, NUM_DOFS
from hmr_skel.body.joints import SKEL_PARENTS, SKEL_TO_CORRECTIVE_SLOT
from hmr_skel.body.lbs import BodyModel, blend, bone_transforms, chain, picked, relative, skin
from hmr_skel.body.moving_joints import moving_offsets
from hmr_skel.body.open_body.export import model_file
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.body.skel_shape import SkelShape, bone_orientation, bone_scales
from hmr_skel.errors import UserError
from hmr_skel.shapes import Float

# The joint whose rotation fills each of SMPL's corrective slots 1..23 (the later one if two share it), or -1.
CORRECTIVE_JOINTS = tuple(
    max((j for j, slot in enumerate(SKEL_TO_CORRECTIVE_SLOT) if slot == wanted), default=-1) for wanted in range(1, 24)
)


@dataclass(frozen=True)
class SkelOutput:
    """A posed body, m, in the frame of `transl`."""

    vertices: Float[Tensor, "*batch V 3"]
    joints: Float[Tensor, "*batch 24 3"]
    joint_frames: Float[Tensor, "*batch 24 3 3"]  # R_j K_j, the axes of the bones in the world
    skeleton_vertices: Float[Tensor, "*batch Vb 3"] | None = None


class Skel(BodyModel):
    """The SKEL body model of one gender.

    Attributes beside those of `BodyModel`: `gender`, `skeleton_faces` (numpy int64 [F 3]), and as tensors
    `learned_rotmat` [24 3 3], `apose_rotmat` [24 3 3], `apose_offset` [24 3], `bone_template` [Vb 3], `bone_weights`,
    `bone_weights_rigid` [Vb 24], `axes` [24 3 3] (joint, order, axis). `posedirs` [171 3V] has only
    the slots that SKEL fills.
    """

    learned_rotmat: Tensor
    apose_rotmat: Tensor
    apose_offset: Tensor
    bone_template: Tensor
    bone_weights: Tensor
    bone_weights_rigid: Tensor
    axes: Tensor
    dof_index: Tensor

    _BUFFERS = (
        "template", "shapedirs", "posedirs", "joint_regressor", "weights", "learned_rotmat", "apose_rotmat",
        "apose_offset", "bone_template", "bone_weights", "bone_weights_rigid",
    )  # fmt: skip

    def __init__(
        self, arrays: dict[str, Tensor], faces: np.ndarray, skeleton_faces: np.ndarray, gender: str | None = None
    ) -> None:
        super().__init__({name: arrays[name] for name in self._BUFFERS}, faces)
        self.gender = gender
        self.skeleton_faces = skeleton_faces
        axes, index = _axis_table()
        self.register_buffer("axes", torch.from_numpy(axes).to(self.template), persistent=False)
        self.register_buffer("dof_index", torch.from_numpy(index).to(self.template.device), persistent=False)

    @classmethod
    def load(
        cls,
        path: str | Path,
        gender: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Skel":
        """Read `skel_male.pkl` or `skel_female.pkl`, version 1.1.1.

        Args:
            path: the file; with `gender` its folder, or `open` for the open body.
            gender: male or female; by default the file's name decides.
            device: of the tensors.
            dtype: of the tensors.

        Raises:
            UserError: the file is missing, damaged, of another version, or its joint tree is not SKEL's.
        """
        path = model_file(path, SKEL_FILES, gender)
        arrays = load_skel_arrays(path)
        parents, joints = arrays["osim_kintree_table"].tolist()
        parent_of = dict(zip(joints, parents, strict=True))
        # The root's parent is -1, which an unsigned table stores as its largest number.
        tree = (-1, *(parent_of.get(joint) for joint in range(1, 24)))
        if tree != SKEL_PARENTS:
            raise UserError(f"{path}: its joint tree is not SKEL's (parents {tree}).")
        filled = [9 * slot + i for slot, joint in enumerate(CORRECTIVE_JOINTS) if joint >= 0 for i in range(9)]
        tensors = {
            "template": arrays["skin_template_v"],
            "shapedirs": arrays["shapedirs"][:, :, :10].transpose(2, 0, 1).reshape(10, -1),
            "posedirs": arrays["posedirs"].reshape(-1, 207).T[filled],
            "joint_regressor": arrays["J_regressor_osim"],
            "weights": arrays["skin_weights"],
            "learned_rotmat": arrays["per_joint_rot"],
            "apose_rotmat": arrays["apose_rel_transfo"][:, :3, :3],
            "apose_offset": arrays["apose_rel_transfo"][:, :3, 3],
            "bone_template": arrays["skel_template_v"],
            "bone_weights": arrays["skel_weights"],
            "bone_weights_rigid": arrays["skel_weights_rigid"],
        }
        if gender is None:
            gender = next((g for g in ("female", "male") if g in Path(path).stem.lower()), None)
        # Tables are computed in float64 and rounded once.
        model = cls(
            {name: torch.tensor(np.ascontiguousarray(a), dtype=torch.float64) for name, a in tensors.items()},
            faces=arrays["skin_template_f"].astype(np.int64),
            skeleton_faces=arrays["skel_template_f"].astype(np.int64),
            gender=gender,
        )
        return model.to(device=device, dtype=dtype)

    def at_vertices(self, vertices: Tensor) -> "Skel":
        """The same body with only the skin vertices `vertices` [K], but the joints of the whole body."""
        arrays = {name: getattr(self, name) for name in self._BUFFERS}
        for name in ("shapedirs", "posedirs"):
            arrays[name] = arrays[name].unflatten(-1, (-1, 3))[:, vertices].flatten(1)
        arrays |= {name: arrays[name][vertices] for name in ("template", "weights")}
        arrays["joint_regressor"] = arrays["joint_regressor"][:, vertices]
        few = Skel(arrays, self.faces, self.skeleton_faces, self.gender)
        few.joint_template, few.joint_shapedirs = self.joint_template, self.joint_shapedirs
        return few

    def prepare_shape(
        self, betas: Float[Tensor, "*batch 10"], joint_offset: Float[Tensor, "*batch 24 3"] | None = None
    ) -> SkelShape:
        """Compute all that depends only on betas. `joint_offset`, m, is added to the rest joints."""
        rest, joints = self.shaped(betas)
        if joint_offset is not None:
            joints = joints + joint_offset
        offsets = relative(joints, SKEL_PARENTS)
        bones = bone_orientation(offsets, self.learned_rotmat, self.apose_offset)
        return SkelShape(rest, joints, offsets, bones, bones @ self.apose_rotmat.mT)

    def dof_rotmats(self, q: Float[Tensor, "*batch 46"]) -> Float[Tensor, "*batch 24 3 3 3"]:
        """The axis rotations of each joint's first, second and third dof; the identity if a joint has fewer."""
        padded = torch.cat((q, torch.zeros_like(q[..., :1])), -1)
        return rotvec_to_rotmat(padded[..., self.dof_index].unsqueeze(-1) * self.axes)

    def local_rotmat(self, q: Float[Tensor, "*#batch 46"], shape: SkelShape) -> Float[Tensor, "*batch 24 3 3"]:
        """L_j = N_j P_j N_j^T, the rotation of each joint relative to its parent; the identity at q = 0."""
        first, second, third = self.dof_rotmats(q).unbind(-3)
        return shape.dof_frame @ third @ second @ first @ shape.dof_frame.mT

    def correctives(self, local: Float[Tensor, "*batch 24 3 3"]) -> Float[Tensor, "*batch V 3"]:
        """SMPL's pose correctives, m, with SKEL's joint rotations in SMPL's slots."""
        filled = picked(local, [j for j in CORRECTIVE_JOINTS if j >= 0], -3)
        feature = filled - torch.eye(3, dtype=local.dtype, device=local.device)
        return blend(self.posedirs, feature.flatten(-3))

    def forward(
        self,
        q: Float[Tensor, "*batch 46"],
        betas: Float[Tensor, "*batch 10"],
        transl: Float[Tensor, "*batch 3"],
        skeleton: bool = False,
        joint_offset: Float[Tensor, "*batch 24 3"] | None = None,
    ) -> SkelOutput:
        """Skin, joints and joint frames; with `skeleton=True` also the bone meshes."""
        shape = self.prepare_shape(betas, joint_offset)
        return self.pose(q, shape, transl, skeleton)

    def pose(
        self,
        q: Float[Tensor, "*#batch 46"],
        shape: SkelShape,
        transl: Float[Tensor, "*#batch 3"],
        skeleton: bool = False,
    ) -> SkelOutput:
        """Pose a prepared shape. Batch shapes broadcast: one shape in many poses, or one pose of many shapes."""
        local = self.local_rotmat(q, shape)
        rotmat, position = chain(local, shape.offsets + moving_offsets(q, shape.joints), SKEL_PARENTS)
        transforms = bone_transforms(rotmat, position, shape.joints)
        vertices = skin(self.weights, transforms, shape.rest + self.correctives(local))
        bones = None
        if skeleton:
            bones = skin(self.bone_weights, transforms, self.bone_rest(shape)) + transl.unsqueeze(-2)
        return SkelOutput(
            vertices + transl.unsqueeze(-2), position + transl.unsqueeze(-2), rotmat @ shape.bone_rotmat, bones
        )

    def bone_rest(self, shape: SkelShape) -> Float[Tensor, "*batch Vb 3"]:
        """The bone meshes in the T-pose of this shape, scaled to it."""
        scales = bone_scales(shape.offsets, self.apose_offset, shape.rest, self.template)
        placed = torch.cat((shape.bone_rotmat * scales.unsqueeze(-2), shape.joints.unsqueeze(-1)), -1)
        return skin(self.bone_weights_rigid, placed, self.bone_template.expand(*placed.shape[:-3], -1, -1))


def root_dofs(global_rotmat: Tensor, dof_frame: Tensor) -> Tensor:
    """q[0:3] (tilt, list, rotation) [*b 3], rad, for which the pelvis rotation N P N^T is `global_rotmat` [*b 3 3].

    P = Ry(rotation) Rx(list) Rz(tilt) turns in the frame of the pelvis bone N = K_0 A_0^T, `dof_frame` [*b 3 3]. At a
    list of 90 degrees, tilt and rotation turn about the same axis: tilt is set to 0.
    """
    p = dof_frame.mT @ global_rotmat @ dof_frame
    sine = -p[..., 1, 2]
    cosine = torch.hypot(p[..., 1, 0], p[..., 1, 1])
    tilt = torch.atan2(p[..., 1, 0], p[..., 1, 1])
    rotation = torch.atan2(p[..., 0, 2], p[..., 2, 2])
    locked = cosine < 1e-6
    tilt = torch.where(locked, torch.zeros_like(tilt), tilt)
    rotation = torch.where(locked, torch.atan2(-p[..., 2, 0], p[..., 0, 0]), rotation)
    return torch.stack((tilt, torch.atan2(sine, cosine), rotation), -1)


def root_transl(
    smpl_transl: Tensor, global_rotmat: Tensor, smpl_pelvis: Tensor, skel_pelvis: Tensor, body_offset: Tensor
) -> Tensor:
    """SKEL's translation [*b 3], m, at which bodies that are `body_offset` apart in the T-pose coincide in the world.

    `smpl_pelvis` and `skel_pelvis` [*b 3] are the root joints at rest. The bodies turn about these points, which are
    some centimetres apart, so the translation cannot be copied.
    """
    apart = smpl_pelvis - skel_pelvis
    return smpl_transl + apart + (global_rotmat @ (body_offset - apart).unsqueeze(-1)).squeeze(-1)


def _axis_table() -> tuple[np.ndarray, np.ndarray]:
    """Axes [24 3 3] and dof numbers [24 3] by joint and order; number 46 is a dof that is always zero."""
    axes, index = np.zeros((24, 3, 3)), np.full((24, 3), NUM_DOFS)
    filled = [0] * 24
    for number, dof in enumerate(DOFS):
        axes[dof.joint, filled[dof.joint]] = dof.axis
        index[dof.joint, filled[dof.joint]] = number
        filled[dof.joint] += 1
    return axes, index
