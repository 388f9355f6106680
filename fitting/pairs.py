"""Pairs of bones that share vertices, and how their moments add up to a matrix over dofs.

A dof moves the bones below its joint as one, so two dofs' entry of the Gauss-Newton matrix is a sum of world moments
Q_mn over the bones m below the one and n below the other. Which pairs meet is a matter of the tree alone: it is worked
out once, as one 0/1 matrix from pairs of bones to the pairs of joints that have anything in common.
"""

import torch
from torch import Tensor

from fitting.part import MovingPart


class BonePairs:
    """For a part and the bone pairs m <= n of its moment table.

    Attributes: `first`, `second` [P] the pairs; `apart` the numbers of those with m < n, which count both ways.
    """

    def __init__(self, part: MovingPart, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first, second
        self.apart = (first != second).nonzero().squeeze(1)
        rows = torch.cat((first, second[self.apart]))
        columns = torch.cat((second, first[self.apart]))
        count = len(part.joints)
        upper = torch.triu_indices(count, count, device=first.device)
        meets = part.below[upper[0]][:, rows] * part.below[upper[1]][:, columns]
        blocks = meets.any(1).nonzero().squeeze(1)
        self.one, self.other = upper[:, blocks]  # rows of `part.joints`, one <= other
        self.meets = meets[blocks].contiguous()  # [blocks, P and the mirrored pairs]
        self.entries = self._entries(part)

    def _entries(self, part: MovingPart) -> Tensor:
        """Where each entry of the matrix [D D] stands among the blocks [blocks 3 3], flat; one past the end is zero."""
        number = {pair: i for i, pair in enumerate(zip(self.one.tolist(), self.other.tolist(), strict=True))}
        nothing = 9 * len(number)
        slots = part.slots.tolist()
        flat = []
        for k in slots:
            for inner in slots:
                here, mirrored = (k // 3, inner // 3), (inner // 3, k // 3)
                if here in number:
                    flat.append(9 * number[here] + 3 * (k % 3) + inner % 3)
                else:
                    flat.append(9 * number[mirrored] + 3 * (inner % 3) + k % 3 if mirrored in number else nothing)
        return torch.tensor(flat, device=part.slots.device)

    def gauss_newton(self, twists: Tensor, transforms: Tensor, second_moments: Tensor) -> Tensor:
        """sum over bone pairs of tr(W_k Q_mn W_l^T), [B D D].

        Args:
            twists: [B J 3 3 4] W by joint of the part and order.
            transforms: [B 24 4 4] G.
            second_moments: [B P 4 4] M_mn; Q_mn = G_m M_mn G_n^T.
        """
        batch = len(twists)
        world = transforms[:, self.first] @ second_moments @ transforms[:, self.second].mT
        both = torch.cat((world, world[:, self.apart].mT), 1).flatten(2).transpose(0, 1)
        sums = (self.meets @ both.reshape(both.shape[0], -1)).unflatten(1, (batch, 4, 4))
        by_joint = twists.transpose(0, 1).contiguous()
        left = by_joint[self.one].flatten(2, 3) @ sums  # [blocks B (order i) d]
        blocks = left.unflatten(2, (3, 3)).flatten(3) @ by_joint[self.other].flatten(3).mT  # [blocks B order order']
        flat = blocks.transpose(0, 1).flatten(1)
        flat = torch.cat((flat, torch.zeros_like(flat[:, :1])), 1)
        size = round(len(self.entries) ** 0.5)
        return flat[:, self.entries].unflatten(1, (size, size))
