"""Second moments of the skin as a table over betas: M_mn = sum_v c_v w_vm w_vn [x; 1][x; 1]^T without the vertices.

The rest skin is linear in betas, so M is quadratic in them: 66 monomials times one 4x4 block per pair of bones that
share vertices. Pose correctives are left out here: they move M by a few per cent, which costs a step now and then
but moves no minimum, because gradients come from the vertices themselves. The tables hold a model's data: they live in
memory only.
"""

import torch
from torch import Tensor

from hmr_skel.body.lbs import picked
from hmr_skel.body.skel import Skel

_PAIRS = [(a, b) for a in range(11) for b in range(a, 11)]


def monomials(betas: Tensor) -> Tensor:
    """The 66 products of [1, betas] with itself, [B 66]."""
    extended = torch.cat((torch.ones_like(betas[:, :1]), betas), 1)
    low, high = zip(*_PAIRS, strict=True)
    return picked(extended, low, 1) * picked(extended, high, 1)


class MomentTable:
    """M(betas) for the bones that a stage moves.

    Attributes: `first`, `second` [P]: the pairs of bones m <= n that share vertices, diagonal pairs included.
    """

    def __init__(
        self, skel: Skel, vertices: Tensor, importance: Tensor, joint_importance: Tensor, bones: list[int]
    ) -> None:
        """`importance` [V] and `joint_importance` [24]: an anatomical joint counts as one more point of its bone."""
        weights = skel.weights[vertices].double()
        moving = torch.tensor(bones, device=weights.device)
        overlap = (weights[:, moving].T @ weights[:, moving]) > 0
        overlap |= torch.eye(len(bones), dtype=torch.bool, device=weights.device)
        pairs = moving[overlap.triu().nonzero()]
        self.first, self.second = pairs.unbind(1)
        rows = torch.cat((skel.template.flatten()[None], skel.shapedirs)).double().unflatten(-1, (-1, 3))[:, vertices]
        homogeneous = torch.cat((rows, torch.zeros_like(rows[..., :1])), -1)  # [11 V 4]
        homogeneous[0, :, 3] = 1
        product = importance.double()[:, None] * weights[:, self.first] * weights[:, self.second]  # [V P]
        blocks = []
        for a, b in _PAIRS:
            outer = homogeneous[a][:, :, None] * homogeneous[b][:, None, :]
            if a != b:  # betas_a betas_b meets twice
                outer = outer + outer.mT
            blocks.append(product.T @ outer.flatten(1))
        table = torch.stack(blocks)  # [66 P 16]
        joints = torch.cat((skel.joint_template.flatten()[None], skel.joint_shapedirs)).double().unflatten(-1, (-1, 3))
        joints = torch.cat((joints, torch.zeros_like(joints[..., :1])), -1)  # [11 24 4]
        joints[0, :, 3] = 1
        diagonal = (self.first == self.second).nonzero().squeeze(1)
        bone = self.first[diagonal]
        for row, (a, b) in enumerate(_PAIRS):
            outer = joints[a, bone][:, :, None] * joints[b, bone][:, None, :]
            if a != b:
                outer = outer + outer.mT
            table[row, diagonal] += joint_importance.double()[bone, None] * outer.flatten(1)
        self.table = table.flatten(1).to(skel.template.dtype)

    def at(self, betas: Tensor) -> Tensor:
        """M [B P 4 4] of betas [B 10]."""
        return (monomials(betas) @ self.table).unflatten(-1, (-1, 4, 4))
