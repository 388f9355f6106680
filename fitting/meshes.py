"""Fit meshes in SMPL's topology: find SMPL's parameters in closed form, and start the fit of the mesh from them.

Each bone gets the rotation that best maps its part of SMPL's mesh to the given one (Kabsch). With fixed rotations the
mesh is linear in betas, which follow by least squares. Both repeat a few times. If SMPL can pose the mesh, its
parameters are the fixed point. SKEL's root keeps the rotation and position of the root.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from fitting.batch import TILE, filled
from fitting.fit import MAX_BETA, MAX_TRANSL, FitResult
from fitting.many import fit_many
from fitting.mesh import mesh_basis
from fitting.model import FitModel
from fitting.surface import spread
from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.lbs import picked, relative
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams

ROUNDS = 4
NO_BODY = 0.05
"""The largest mean distance from SMPL's mesh, m. Beyond it a mesh is not a body, or has another order of vertices."""

_VERTICES = 256  # number of vertices used
_FURTHER = 1.3  # overrelaxation: 1 takes five rounds instead of four, 1.5 overshoots
_RIDGE = 3e-8  # m^2, the cost of a beta of 1 against the mean squared distance of vertices


class Inverse:
    """Finds SMPL's parameters for meshes, with tables of one SMPL."""

    def __init__(self, smpl: Smpl) -> None:
        self.few = spread(smpl.weights.argmax(1), _VERTICES)
        weights = smpl.weights[self.few]  # [K 24]
        rows = mesh_basis(smpl)
        shape, correctives = rows[:, self.few].split((11, len(rows) - 11))
        self.template = shape[0]
        self.correctives = correctives.mT.flatten(1)  # [207 3K]
        self.weights = weights.T.contiguous()
        # Squares give vertices that several bones move less weight; leaving these out does not converge.
        self.own = weights.square() / weights.square().sum(0).clamp_min(1e-9)  # [K 24] sum to 1 for each bone
        self.joints = torch.cat((smpl.joint_template[None], smpl.joint_shapedirs.unflatten(-1, (24, 3))))  # [11 24 3]
        offset = relative(self.joints, SMPL_PARENTS)
        # A vertex is linear in the bones' rotations and, for fixed rotations, in (1, betas): each bone turns the vertex
        # minus its joint, and the offsets of the joints below it that move the vertex. The root's joint stays at 0.
        listens = weights
        table = torch.einsum("km,nkmy->mykn", weights, shape[:, :, None] - self.joints[:, None])
        for joint in range(23, 0, -1):
            table[SMPL_PARENTS[joint]] += torch.einsum("k,ny->ykn", listens[:, joint], offset[:, joint])
            listens = listens.index_add(1, torch.tensor([SMPL_PARENTS[joint]]).to(self.few), listens[:, joint, None])
        self.table = table.flatten(2).flatten(0, 1)  # [72 11K]

    def __call__(self, vertices: Tensor) -> tuple[SmplParams, Tensor]:
        """The parameters [N] of meshes [N 6890 3], and the mean distance [N] from the mesh that they pose, m; infinite
        if a mesh is not finite, or too far away for an annotation."""
        parts = [self._of(part) for part in vertices.split(TILE)]
        rotmat, betas, transl, apart = (torch.cat(values) for values in zip(*parts, strict=True))
        rotvec = rotmat_to_rotvec(torch.cat((rotmat[:, :1], _local(rotmat)), 1))
        return SmplParams(rotvec[:, 0], rotvec[:, 1:], betas, transl), apart

    def _of(self, vertices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """World rotations [B 24 3 3], betas, translations and distances of meshes [B 6890 3]."""
        # A fixed number of rows, so that the last bits of a row, and its fit, do not depend on their number.
        rows = filled(torch.arange(len(vertices), device=vertices.device))
        mesh = vertices[:, self.few.to(vertices.device)][rows].to(self.template)
        sound = (mesh.abs() <= 2 * MAX_TRANSL).flatten(1).all(1)
        mesh = torch.where(sound[:, None, None], mesh, self.template).mT.contiguous()  # [B 3 K]
        rotmat = _nearest_turn(self._moments(self.template.T.expand_as(mesh), mesh))
        for number in range(ROUNDS):
            basis, rest = self._basis(rotmat)
            betas = self._betas(basis, mesh - rest)
            posed = rest + basis[..., 0] + (basis[..., 1:] @ betas[:, None, :, None]).squeeze(-1)
            if number < ROUNDS - 1:
                rotmat = _small_turn(self._moments(posed, mesh)) @ rotmat
        place = (mesh - posed).mean(2)
        apart = torch.where(sound, (posed + place[:, :, None] - mesh).norm(dim=1).mean(1), inf)
        transl = place - self.joints[0, 0] - betas @ self.joints[1:, 0]
        count = slice(len(vertices))
        return rotmat[count], betas[count], transl[count], apart[count]

    def _basis(self, rotmat: Tensor) -> tuple[Tensor, Tensor]:
        """The mesh of bones turned by [B 24 3 3]: factors of (1, betas) [B 3 K 11], and correctives [B 3 K]."""
        rows = rotmat.transpose(1, 2)  # [B 3 24 3]
        basis = (rows.flatten(2) @ self.table).unflatten(2, (-1, 11))
        eye = torch.eye(3, dtype=rotmat.dtype, device=rotmat.device)
        corrective = ((_local(rotmat) - eye).flatten(1) @ self.correctives).unflatten(1, (1, 3, -1))
        return basis, (rows.mT @ self.weights * corrective).sum(2)

    def _betas(self, basis: Tensor, mesh: Tensor) -> Tensor:
        """Betas [B 10] by least squares, up to a translation."""
        basis = (basis - basis.mean(2, keepdim=True)).flatten(1, 2)  # [B 3K 11]
        wanted = (mesh - mesh.mean(2, keepdim=True)).flatten(1) - basis[..., 0]
        free = basis[..., 1:]
        gram = free.mT @ free
        gram.diagonal(dim1=1, dim2=2).add_(_RIDGE * len(self.few))
        betas = torch.linalg.solve(gram, free.mT @ wanted.unsqueeze(-1)).squeeze(-1)
        return betas.clamp(-MAX_BETA, MAX_BETA)  # for meshes far from SMPL, whose fit uses the mesh itself

    def _moments(self, posed: Tensor, mesh: Tensor) -> Tensor:
        """Mean of y x^T over the vertices of each bone [B 24 3 3], both centred, x of `posed` and y of `mesh`."""
        outer = (mesh[:, :, None] * posed[:, None]).flatten(1, 2)  # [B 9 K]
        means = (torch.cat((outer, posed, mesh), 1) @ self.own).mT  # [B 24 15]
        x, y = means[..., 9:12], means[..., 12:]
        return means[..., :9].unflatten(-1, (3, 3)) - y.unsqueeze(-1) * x.unsqueeze(-2)


def _local(rotmat: Tensor) -> Tensor:
    """The local rotations [B 23 3 3] of the joints except the root, from those of the bones [B 24 3 3]."""
    return picked(rotmat, SMPL_PARENTS[1:], 1).mT @ rotmat[:, 1:]


def _nearest_turn(moments: Tensor) -> Tensor:
    u, _, vt = torch.linalg.svd(moments)
    last = u[..., 2:] * torch.linalg.det(u @ vt)[..., None, None]
    return torch.cat((u[..., :2], last), -1) @ vt


def _small_turn(moments: Tensor) -> Tensor:
    """The nearest rotation, to first order in its angle and somewhat enlarged, since neighbouring bones turn too."""
    odd = moments - moments.mT
    axis = torch.stack((odd[..., 2, 1], odd[..., 0, 2], odd[..., 1, 0]), -1)
    matrix = -(moments + moments.mT) / 2
    matrix.diagonal(dim1=-2, dim2=-1).add_(moments.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) + 1e-9)
    angle = _FURTHER * torch.linalg.solve(matrix, axis.unsqueeze(-1)).squeeze(-1)
    return rotvec_to_rotmat(angle.clamp(-1, 1))


def rooted(vertices: Tensor, params: SmplParams, smpl: Smpl) -> Tensor:
    """Meshes [N 6890 3], m, in the frame of SMPL's root: its joint at the origin, without the global orientation."""
    rotmat, place = root(params, smpl)
    return (vertices.to(place) @ rotmat).sub_(place[:, None] @ rotmat)


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
    smpl = model.targets.smpl
    params, apart = Inverse(smpl)(vertices)
    there = (apart < NO_BODY)[:, None]
    params = replace(params, transl=torch.where(there, params.transl, torch.nan)).to("cpu")
    return params, fit_many(params, model, None, progress, _Rooted(vertices, params, smpl))


@dataclass(frozen=True)
class _Rooted:
    vertices: Tensor
    params: SmplParams
    smpl: Smpl

    def __getitem__(self, rows: slice) -> Tensor:
        return rooted(self.vertices[rows], self.params[rows], self.smpl)
