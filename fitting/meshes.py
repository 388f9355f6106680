"""Fit meshes in SMPL's topology: find SMPL's parameters, and start the fit of the mesh from them.

Each bone first gets the rotation that best maps its part of SMPL's mesh to the given one (Kabsch). Then steps make what
is left between the meshes smaller, by rotations and betas at once. A step looks at each bone's part in the bone's own
frame and about its mean, as if bones were apart. There betas and a small turn move vertices, to first order, by what no
pose changes. So all factors are computed once: turns are eliminated, and betas follow from 10 equations (variable
projection). What a step leaves out, such as blending between bones, the next one sees. SMPL's parameters are the fixed
point if it can pose the mesh. SKEL's root keeps the rotation and position of the root.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from fitting.batch import TILE, filled
from fitting.fit import MAX_BETA, MAX_TRANSL, FitResult
from fitting.many import fit_parts
from fitting.mesh import Placed, mesh_basis
from fitting.model import FitModel
from fitting.stages import spread
from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.lbs import relative
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams

STEPS = 2
NO_BODY = 0.05
"""The largest mean distance from SMPL's mesh, m. Beyond it a mesh is not a body, or has another order of vertices."""

_VERTICES = 256  # number of vertices used
_FURTHER = 1.3  # overrelaxation of turns: neighbouring bones turn too
_RIDGE = 3e-9  # m^2, the cost of a beta of 1 against the mean squared distance of vertices


class Inverse:
    """Finds SMPL's parameters for meshes, with tables of one SMPL."""

    def __init__(self, smpl: Smpl) -> None:
        self.few = spread(smpl.weights.argmax(1), _VERTICES)
        weights = smpl.weights[self.few]  # [K 24]
        rows = mesh_basis(smpl)
        shape, correctives = rows[:, self.few].split((11, len(rows) - 11))
        self.template = shape[0]
        self.shape, self.correctives = shape.mT.flatten(1), correctives.mT.flatten(1)  # [11 3K], [207 3K]
        self.weights = weights.T.contiguous()
        # Squares give vertices that several bones move less weight; leaving these out does not converge.
        own = weights.square() / weights.square().sum(0).clamp_min(1e-9)  # [K 24] sum to 1 for each bone
        self.joints = torch.cat((smpl.joint_template[None], smpl.joint_shapedirs.unflatten(-1, (24, 3))))  # [11 24 3]
        self.offsets = relative(self.joints, SMPL_PARENTS).index_fill(1, torch.tensor([0]).to(self.few), 0.0)
        above = torch.eye(24)  # [24 24] 1 for a joint and those above it, whose offsets place it
        for joint in range(1, 24):
            above[joint] += above[SMPL_PARENTS[joint]]
        self.above = above.to(shape)
        self.parents = torch.tensor((0, *SMPL_PARENTS[1:])).to(self.few)
        # For each bone, vertices about their mean, and how each beta moves them there.
        about = shape[:, :, None] - torch.einsum("km,nky->nmy", own, shape)[:, None]  # [11 K 24 3]
        lever, stretch = about[0], about[1:]
        inertia = torch.einsum("km,kmi,kmj->mij", own, lever, lever)
        eye = torch.eye(3).to(inertia)
        inertia = inertia.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * eye - inertia
        self.loose = torch.linalg.inv(inertia + 1e-9 * eye)  # [24 3 3] the turn by a moment
        self.twist = torch.einsum("km,nkmi->min", own, torch.linalg.cross(lever.expand_as(stretch), stretch))
        self.share = weights.mean(0)  # [24]
        gram = torch.einsum("m,km,nkmi,pkmi->np", self.share, own, stretch, stretch)
        turned = torch.einsum("m,min,mij,mjp->np", self.share, self.twist, self.loose, self.twist)
        self.by_pull = torch.linalg.inv(gram - turned + _RIDGE * torch.eye(10).to(gram))  # [10 10] betas
        self.seen = (own[..., None, None] * about.permute(1, 2, 0, 3)).flatten(1)  # [K 24 * 11 * 3]
        self.levers = (own[..., None] * lever).flatten(1)  # [K 24 * 3]

    def __call__(self, vertices: Tensor) -> tuple[SmplParams, Tensor]:
        """The parameters [N] of meshes [N 6890 3], and the mean distance [N] from the mesh that they pose, m; infinite
        if a mesh is not finite, or too far away for an annotation."""
        parts = [self._of(part) for part in vertices.split(TILE)]
        rotmat, betas, transl, apart = (torch.cat(values) for values in zip(*parts, strict=True))
        rotvec = rotmat_to_rotvec(torch.cat((rotmat[:, :1], self._local(rotmat)), 1))
        return SmplParams(rotvec[:, 0], rotvec[:, 1:], betas, transl), apart

    def _of(self, vertices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """World rotations [B 24 3 3], betas, translations and distances of meshes [B 6890 3]."""
        # A fixed number of rows, so that the last bits of a row, and its fit, do not depend on their number.
        rows = filled(torch.arange(len(vertices), device=vertices.device))
        mesh = vertices.index_select(1, self.few.to(vertices.device))[rows].to(self.template)
        sound = (mesh.abs() <= 2 * MAX_TRANSL).flatten(1).all(1)
        mesh = torch.where(sound[:, None, None], mesh, self.template).mT.contiguous()  # [B 3 K]
        rotmat = _nearest_turn(self._moments(mesh))
        betas = mesh.new_zeros(len(mesh), 10)
        for _ in range(STEPS):
            rotmat, betas = self._step(rotmat, betas, mesh - self._posed(rotmat, betas))
        apart = mesh - self._posed(rotmat, betas)
        place = apart.mean(2)
        distance = torch.where(sound, (apart - place[:, :, None]).norm(dim=1).mean(1), inf)
        transl = place - self.joints[0, 0] - betas @ self.joints[1:, 0]
        count = slice(len(vertices))
        return rotmat[count], betas[count], transl[count], distance[count]

    def _posed(self, rotmat: Tensor, betas: Tensor) -> Tensor:
        """The mesh [B 3 K] of bones turned by [B 24 3 3], with the root joint at 0."""
        numbers = torch.cat((torch.ones_like(betas[:, :1]), betas), 1)
        joints, offsets = (
            (numbers @ table.flatten(1)).unflatten(1, (24, 3, 1)) for table in (self.joints, self.offsets)
        )
        place = self.above @ (rotmat[:, self.parents] @ offsets).squeeze(-1)  # [B 24 3]
        bones = torch.cat((rotmat, place.unsqueeze(-1) - rotmat @ joints), -1)  # [B 24 3 4]
        blended = (bones.flatten(2).mT @ self.weights).unflatten(1, (3, 4))  # [B 3 4 K]
        eye = torch.eye(3, dtype=rotmat.dtype, device=rotmat.device)
        rest = numbers @ self.shape + (self._local(rotmat) - eye).flatten(1) @ self.correctives
        return (blended[:, :, :3] * rest.unflatten(1, (1, 3, -1))).sum(2) + blended[:, :, 3]

    def _step(self, rotmat: Tensor, betas: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
        """Better rotations and betas, from the distances `apart` [B 3 K] that are left."""
        seen = rotmat.mT @ (apart @ self.seen).unflatten(2, (24, -1)).transpose(1, 2)  # [B 24 3 33], in bones' frames
        seen = seen.unflatten(3, (11, 3))
        lever = seen[..., 0, :]
        moment = torch.stack([lever[..., j, i] - lever[..., i, j] for i, j in ((1, 2), (2, 0), (0, 1))], -1)
        turn = (self.loose @ moment.unsqueeze(-1)).squeeze(-1)  # [B 24 3]
        pull = seen.diagonal(dim1=2, dim2=4).sum(-1)[..., 1:] - (turn.unsqueeze(-2) @ self.twist).squeeze(-2)
        more = (self.share @ pull - _RIDGE * betas) @ self.by_pull
        turn = turn - (self.loose @ (self.twist @ more[:, None, :, None])).squeeze(-1)
        # Clamped for meshes far from SMPL, whose fit uses the mesh itself.
        betas = (betas + more).clamp(-MAX_BETA, MAX_BETA)
        return rotmat @ rotvec_to_rotmat((_FURTHER * turn).clamp(-1, 1)), betas

    def _local(self, rotmat: Tensor) -> Tensor:
        """The local rotations [B 23 3 3] of the joints except the root, from those of the bones [B 24 3 3]."""
        return rotmat[:, self.parents[1:]].mT @ rotmat[:, 1:]

    def _moments(self, mesh: Tensor) -> Tensor:
        """Mean of y x^T over the vertices of each bone [B 24 3 3], both centred, x of the template and y of `mesh`."""
        return (mesh @ self.levers).unflatten(2, (24, 3)).transpose(1, 2)


def _nearest_turn(moments: Tensor) -> Tensor:
    u, _, vt = torch.linalg.svd(moments)
    last = u[..., 2:] * torch.linalg.det(u @ vt)[..., None, None]
    return torch.cat((u[..., :2], last), -1) @ vt


def root(params: SmplParams, smpl: Smpl) -> tuple[Tensor, Tensor]:
    """The rotation [N 3 3] and position [N 3], m, of SMPL's root joint."""
    pelvis = smpl.joint_template[0] + params.betas.to(smpl.template) @ smpl.joint_shapedirs[:, :3]
    return rotvec_to_rotmat(params.global_orient.to(pelvis)), pelvis + params.transl.to(pelvis)


def fit_meshes(
    vertices: Tensor, model: FitModel, progress: Callable[[int], object] | None = None
) -> tuple[SmplParams, FitResult]:
    """Fit SKEL to meshes [N 6890 3] in SMPL's topology, m; `progress` as in `fit_many`.

    Returns:
        SMPL's parameters [N] nearest to the meshes, on the CPU, and the fit to the meshes. Rows that are not finite, or
        `NO_BODY` or more from SMPL, are `rejected`.
    """
    smpl, count = model.targets.smpl, len(vertices)
    inverse = Inverse(smpl)
    found = SmplParams(torch.empty(count, 3), torch.empty(count, 23, 3), torch.empty(count, 10), torch.empty(count, 3))

    def part(rows: slice) -> tuple[SmplParams, FitModel, None, Placed]:
        params, apart = inverse(vertices[rows])
        there = (apart < NO_BODY)[:, None]
        params = replace(params, transl=torch.where(there, params.transl, torch.nan))
        for name, column in vars(found).items():
            column[rows] = getattr(params, name).cpu()
        return params, model, None, Placed(vertices[rows], *root(params, smpl))

    return found, fit_parts(count, model, part, progress)
