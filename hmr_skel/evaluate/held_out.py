"""Evaluate a network on a dataset's held-out shards: errors of the coarse estimate, the final one, and the mean body.

The mean body is the mean of the training rows: a constant prediction that any network has to beat.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.body.dofs import PELVIS
from hmr_skel.data.images import ImageRule
from hmr_skel.data.load import load_shards
from hmr_skel.data.samples import SampleDataset, ordered_batches
from hmr_skel.data.selection import SampleConfig
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import JointRule
from hmr_skel.evaluate.ground_truth import MIN_CONFIDENCE_2D, Truth
from hmr_skel.evaluate.score import Columns, ScoredBody, joined, score, stage_columns
from hmr_skel.evaluate.summary import sequences_of
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Prediction
from hmr_skel.model.pose_rep import q_to_rep, q_to_rotmat, rep_to_q
from hmr_skel.rows import SkelParams

MOST_ROWS = 200_000
"""Number of rows for the mean body, evenly spread over the dataset; more rows give the same mean."""
_PELVIS_JOINT = 0


@dataclass(frozen=True)
class MeanBody:
    """A pose in the camera's frame and a shape, without a translation."""

    q: Float[Tensor, "46"]
    betas: Float[Tensor, "10"]


def mean_body(dataset: str | Place) -> MeanBody:
    """The mean over the training rows that have SKEL. Raises `UserError` if there are none."""
    shards = load_shards(dataset, columns=["skel_q", "skel_betas"], split="train")
    some = shards[torch.linspace(0, len(shards) - 1, min(MOST_ROWS, len(shards))).long().numpy()]
    q, betas = torch.from_numpy(some["skel_q"]), torch.from_numpy(some["skel_betas"])
    there = q.isfinite().all(-1) & betas.isfinite().all(-1)
    if not there.any():
        raise UserError(f"{dataset}: no row has a SKEL body. Build the dataset with a fit (`hmr-skel dataset`).")
    return MeanBody(mean_q(q[there]), betas[there].double().mean(0).float())


def mean_q(q: Float[Tensor, "N 46"]) -> Float[Tensor, "46"]:
    """The mean pose, rad: the chordal mean of the pelvis' rotations, and the mean angle of every other dof."""
    mean = q.double().mean(0)
    u, _, vt = torch.linalg.svd(q_to_rotmat(q.double())[:, _PELVIS_JOINT].mean(0))
    u[:, 2] *= torch.linalg.det(u @ vt)
    rep = q_to_rep(mean)
    rep[_PELVIS_JOINT] = (u @ vt)[:2].flatten()
    mean[PELVIS] = rep_to_q(rep)[PELVIS]
    return mean.float()


JOINT_SET = "44 label keypoints, root Pelvis (MPII)"
ROOT = 39
RULE = JointRule(JOINT_SET, "keypoints_44", (ROOT,), tuple(range(44)))
_CLIP = r"^(.*)/[^/]+$"  # images in one folder are from one recording

Predict = Callable[[Tensor, CropGeometry], Prediction]
"""A `Network`, or a function that predicts as one."""
Errors = dict[str, Columns]
"""For each stage (mean_pose, coarse, final): the columns of `score`, and `row`, int64 [N] in the dataset."""


@dataclass(frozen=True)
class HeldOut:
    """The labels of held-out rows.

    Joints are the label's 3D keypoints, or those of the annotated SMPL mesh if the label has none. The mesh, and the
    root for PVE, are from the row's SKEL label. Rows that lack any of them are left out.
    """

    dataset: SampleDataset
    body: SkelKeypoints

    @classmethod
    def open(
        cls,
        path: Place,
        images: Mapping[str, ImageRule],
        body_models: Path,
        device: torch.device,
        quiet: bool = False,
    ) -> "HeldOut":
        """Open a dataset. Raises `UserError` if it, its held-out shards, its images or the body model are missing."""
        dataset = SampleDataset(path, images, SampleConfig(), split="test", augment=False, quiet=quiet)
        return cls(dataset, SkelKeypoints.load(body_models, dataset.gender, device))

    def posed(self, q: Float[Tensor, "B 46"], betas: Float[Tensor, "B 10"]) -> ScoredBody:
        """The body at the origin, m, since all 3D errors are relative to a root."""
        posed = self.body(SkelParams(q, betas, q.new_zeros(len(q), 3)))
        return ScoredBody(posed.vertices, posed.keypoints)

    def batches(self, batch_size: int, workers: int = 0):
        """Batches of all held-out rows, each once."""
        return ordered_batches(self.dataset, batch_size, workers=workers)


@torch.no_grad()
def evaluate_held_out(
    networks: Sequence[Predict],
    mean: MeanBody,
    held_out: HeldOut,
    *,
    batch_size: int = 64,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Errors], int]:
    """The errors per row of several networks on the same rows, and the number of rows left out.

    Args:
        networks: in evaluation mode, on the body's device. `mean_pose` is the same for all of them.
        mean: the constant prediction.
        held_out: the labels.
        progress: called with the number of rows read.

    Raises `UserError` if no row has all labels.
    """
    device = held_out.body.matrix.device
    constant = held_out.posed(mean.q[None].to(device), mean.betas[None].to(device))
    parts: list[list[Errors]] = [[] for _ in networks]
    rows = used = 0
    with held_out.batches(batch_size, workers) as batches:
        for batch in batches:
            rows += len(batch)
            kept = batch.has_skel & (batch.keypoints_3d[..., 3] > 0).all(-1)
            used += int(kept.sum())
            if progress is not None:
                progress(rows)
            if not kept.any():
                continue
            batch = batch.to(device)
            kept = kept.to(device)
            geometry = CropGeometry(batch.center, batch.size, batch.intrinsics, batch.affine)
            label = held_out.posed(batch.q, batch.betas)
            truth = Truth(
                complete=kept,
                joints=batch.keypoints_3d[..., :3],
                vertices=label.vertices,
                mesh_root=label.joints[:, ROOT],
                keypoints_2d=batch.keypoints_2d[..., :2],
                valid_2d=batch.keypoints_2d[..., 2] > MIN_CONFIDENCE_2D,
            )
            row = {"row": batch.row[kept].cpu()}
            # The mean body has no camera, and so no position in the image.
            of_mean = score(constant.repeated(len(batch)), truth, RULE) | row
            for network, found in zip(networks, parts, strict=True):
                prediction = network(batch.image, geometry)
                errors = {"mean_pose": of_mean}
                for name, estimate in (("coarse", prediction.coarse), ("final", prediction.final)):
                    if estimate is not None:
                        posed = held_out.posed(rep_to_q(estimate.rep), estimate.betas)
                        number = batch.row.cpu().numpy()
                        errors[name] = stage_columns(estimate, posed, prediction.geometry, truth, RULE, number) | row
                found.append(errors)
    if not used:
        raise UserError(f"none of {rows:,} held-out rows has a SKEL label and all 44 keypoints: nothing to compare.")
    return [joined(found) for found in parts], rows + batches.skipped - used


def held_out_sequences(errors: Errors, held_out: HeldOut) -> tuple[list[str], list[str | None]]:
    """The image of each compared row, and the recording that it is from."""
    rows = held_out.dataset.labels
    names = [rows[row].imgname for row in errors["mean_pose"]["row"].tolist()]
    return names, sequences_of(names, _CLIP)
