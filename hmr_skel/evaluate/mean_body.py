"""The constant prediction: the mean body of the rows that were trained on, which any network has to beat."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.body.dofs import PELVIS
from hmr_skel.data.load import load_shards
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError
from hmr_skel.model.pose_rep import q_to_rep, q_to_rotmat, rep_to_q

MOST_ROWS = 200_000
"""Spread evenly over the dataset: the mean of more is the same."""
_PELVIS_JOINT = 0


@dataclass(frozen=True)
class MeanBody:
    """In the camera's frame, without a place."""

    q: Float[Tensor, "46"]
    betas: Float[Tensor, "10"]


def mean_body(dataset: str | Place) -> MeanBody:
    """The mean over the training rows of a dataset that have SKEL. Raises `UserError` where there are none."""
    shards = load_shards(dataset, columns=["skel_q", "skel_betas"], split="train")
    some = shards[torch.linspace(0, len(shards) - 1, min(MOST_ROWS, len(shards))).long().numpy()]
    q, betas = torch.from_numpy(some["skel_q"]), torch.from_numpy(some["skel_betas"])
    there = q.isfinite().all(-1) & betas.isfinite().all(-1)
    if not there.any():
        raise UserError(f"{dataset}: no row has a SKEL body. Build the dataset with a fit (`hmr-skel dataset`).")
    return MeanBody(mean_q(q[there]), betas[there].double().mean(0).float())


def mean_q(q: Float[Tensor, "N 46"]) -> Float[Tensor, "46"]:
    """The mean pose: of the pelvis the chordal mean of its rotations, of all other dofs the mean angle."""
    mean = q.double().mean(0)
    u, _, vt = torch.linalg.svd(q_to_rotmat(q.double())[:, _PELVIS_JOINT].mean(0))
    u[:, 2] *= torch.linalg.det(u @ vt)
    rep = q_to_rep(mean)
    rep[_PELVIS_JOINT] = (u @ vt)[:2].flatten()
    mean[PELVIS] = rep_to_q(rep)[PELVIS]
    return mean.float()
