"""How E changes with everything that a fit may move: the root, the betas, the pose. 59 unknowns, in that order.

The pose's solver holds mesh and betas and asks moments; here the mesh is visited for each derivative. The gradient is
that of E itself, from all vertices of the last stage. The matrix is Gauss-Newton's over some of them, the pose
correctives left out: it decides the way to the minimum, not where that is. E is halved throughout.
"""

import torch
from torch import Tensor

from fitting.batch import Batch
from fitting.kinematics import Pose, Skeleton
from fitting.model import FitModel
from fitting.surface import CORRECTED, Blend, spread
from fitting.target import Movable
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.lbs import picked
from hmr_skel.body.rotations import skew

ROOT, BETAS, POSE = slice(0, 6), slice(6, 16), slice(16, 59)
"""The root turns (rotation vector) about the pelvis joint and glides, both in the pelvis's frame; betas; q[3:46]."""

_VERTICES = 345  # of the matrix: with 150 or 1000, rows end alike
_DIFFERENCE = 1e-3  # of a beta, to either side: bones turn with betas by shortest arcs, whose derivative is long
_ABOVE = [SKEL_PARENTS[j] for j in CORRECTED]


class Slope:
    """Gradient and matrix of E over all unknowns. Tables of one model.

    T-poses keep one mean whatever the betas are, as they do where the root is not fitted (`fitting.target`'s d).
    """

    def __init__(self, model: FitModel) -> None:
        self.model, self.tables = model, model.stages[-1]
        skel = model.skel
        bone = skel.weights.argmax(1)
        self.few = spread(bone, min(_VERTICES, len(bone)))
        self.blend = Blend(skel, self.few)
        self.weights = skel.weights[self.few]
        self.directions = skel.shapedirs.unflatten(-1, (-1, 3))[:, self.few]  # [10 K 3]
        self.mean = model.targets.skel_mean[1:].double()  # [10 3] how the mean of the T-pose moves with the betas

    def __call__(self, rows: Batch, q: Tensor) -> tuple[Tensor, Tensor]:
        """dE/2 [B 59] and d2E/2 [B 59 59], float64, of rows [B] at q [B 46]."""
        tables, target = self.tables, rows.target
        pose = self.model.kinematics.pose(q, rows.skeleton)
        by_transforms, by_joints = self._motions(rows, q, pose)
        mesh = target.vertices
        assert isinstance(mesh, Tensor | Movable)
        mesh = mesh if isinstance(mesh, Tensor) else mesh.tensor()
        if not tables.surface.whole:
            mesh = mesh[:, :, tables.surface.vertices]
        seen = tables.surface.visit(mesh, rows.betas, pose, correctives=True, shape=True)
        assert seen.corrective is not None
        assert seen.shape is not None
        # Local rotations R_parent^T R drive the correctives.
        rotmat, turned = pose.rotmat.unsqueeze(1), by_transforms[..., :3]
        by_local = picked(rotmat, _ABOVE, 2).mT @ picked(turned, CORRECTED, 2)
        by_local = by_local + picked(turned, _ABOVE, 2).mT @ picked(rotmat, CORRECTED, 2)
        weight = tables.joint_importance.double()
        apart = (pose.position - target.anatomical_joints.double()) * weight[:, None]
        gradient = _sum(by_joints * apart.unsqueeze(1)) - _sum(by_transforms * seen.cross.mT.unsqueeze(1))
        gradient = gradient + _sum(by_local * seen.corrective.unsqueeze(1))
        gradient[:, BETAS] += seen.shape
        gradient[:, POSE] += tables.prior * q[:, tables.part.dofs]
        joints = by_joints.flatten(2) * weight.sqrt().repeat_interleave(3)
        matrix = self._matrix(rows, pose, by_transforms.float()) + joints @ joints.mT
        matrix.diagonal(dim1=1, dim2=2)[:, POSE] += tables.prior
        return gradient, matrix

    def _motions(self, rows: Batch, q: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        """How bones [B 59 24 3 4] and joints [B 59 24 3] move with each unknown."""
        part = self.tables.part
        twists = self.model.kinematics.twists(q, rows.skeleton, pose).matrix
        dofs = twists[:, part.joints].flatten(1, 2)[:, part.slots]  # [B 43 3 4]
        axes = torch.eye(3, dtype=q.dtype, device=q.device).expand(len(q), 3, 3)
        pivot = rows.skeleton.joints[:, :1].expand_as(axes)
        turns = torch.cat((skew(axes), torch.linalg.cross(pivot, axes).unsqueeze(-1)), -1)
        glides = torch.cat((torch.zeros_like(skew(axes)), axes.unsqueeze(-1)), -1)
        motion = torch.cat((turns, glides, dofs), 1)
        below = torch.cat((torch.ones_like(part.below[:6]), part.below[part.slots // 3])).to(q)
        turned = (motion.unsqueeze(2) @ pose.transforms.unsqueeze(1)) * below[:, :, None, None]
        position = torch.cat((pose.position, torch.ones_like(pose.position[..., :1])), -1)
        moved = (motion @ position.mT.unsqueeze(1)).mT * below[:, :, None]
        shaped, shaped_joints = self._by_betas(rows, q)
        transforms = torch.cat((turned[:, :6], shaped, turned[:, 6:]), 1)
        return transforms, torch.cat((moved[:, :6], shaped_joints, moved[:, 6:]), 1)

    def _by_betas(self, rows: Batch, q: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the betas [B 10 ...], by central differences of the skeleton; with what d takes off."""
        offset = _DIFFERENCE * torch.eye(10, dtype=q.dtype, device=q.device)
        betas = rows.betas.double()[:, None, None] + torch.stack((offset, -offset), 1)  # [B 10 2 10]
        skeleton = Skeleton.of(self.model.skel, betas.flatten(0, 2))
        pose = self.model.kinematics.pose(q.repeat_interleave(20, 0), skeleton)

        def rate(values: Tensor) -> Tensor:
            ahead, behind = values.unflatten(0, (len(q), 10, 2)).unbind(2)
            return (ahead - behind) / (2 * _DIFFERENCE)

        transforms = rate(pose.transforms[:, :, :3])
        transforms[..., 3] -= self.mean.unsqueeze(1)
        return transforms, rate(pose.position) - self.mean.unsqueeze(1)

    def _matrix(self, rows: Batch, pose: Pose, by_transforms: Tensor) -> Tensor:
        """J^T J [B 59 59] of the vertices' mean squared distance."""
        local = picked(pose.local, CORRECTED, 1).float()
        blocks = list(self.blend.posed(rows.betas, local, pose.transforms[:, :, :3].float()))
        rest = torch.cat([block.rest for block in blocks], -1).mT  # [B K 3]
        rotations = torch.cat([block.rotations for block in blocks], -1)  # [B 3 3 K]
        levers = torch.cat((rest, torch.ones_like(rest[..., :1])), -1).unsqueeze(2) * self.weights.unsqueeze(-1)
        by_lever = by_transforms.permute(0, 2, 4, 3, 1).flatten(3).flatten(1, 2)  # [B (24 4) (3 59)]
        jacobian = (levers.flatten(2) @ by_lever).unflatten(2, (3, 59))
        jacobian[..., BETAS] += torch.einsum("bijv,kvj->bvik", rotations, self.directions)
        jacobian = jacobian.flatten(1, 2)
        return (jacobian.mT @ jacobian).double() / len(self.few)


def _sum(products: Tensor) -> Tensor:
    """[B 59 ...] to [B 59]."""
    return products.flatten(2).sum(2)
