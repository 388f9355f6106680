"""Compare a prediction with the truth of a batch: a column per metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import JointRule
from hmr_skel.evaluate.ground_truth import Truth
from hmr_skel.evaluate.metrics import found_keypoints, mpjpe_mm, pa_mpjpe_mm, points_of, pve_mm, root_of
from hmr_skel.model.camera import CropGeometry, crop_camera_to_transl, image_to_crop, project
from hmr_skel.model.decoder import Estimate
from hmr_skel.model.pose_rep import rep_to_q

Columns = dict[str, Tensor]
"""Values per row: those of `mpjpe_mm`, `pa_mpjpe_mm`, `pve_mm`, `pa_pve_mm` [N] that the benchmark has; with 2D
keypoints `found` [N 2 44] and `valid` [N 44], bool, see `pck`; for a SKEL body `q` [N 46]."""


@dataclass(frozen=True)
class ScoredBody:
    """A predicted body, m, along the camera's axes, at any position."""

    vertices: Float[Tensor, "B 6890 3"]
    joints: Float[Tensor, "B J 3"]

    def repeated(self, count: int) -> "ScoredBody":
        """A single body, repeated for `count` rows."""
        return ScoredBody(self.vertices.expand(count, -1, -1), self.joints.expand(count, -1, -1))


def score(
    pred: ScoredBody,
    truth: Truth,
    rule: JointRule,
    in_crop: Float[Tensor, "B 44 2"] | None = None,
    q: Float[Tensor, "B 46"] | None = None,
    number: np.ndarray | None = None,
) -> Columns:
    """The columns of the rows that are `truth.complete`, on the CPU.

    Args:
        pred: the body, with the joints that `rule.regressor` gives.
        truth: the ground truth.
        rule: the joints that count.
        in_crop: the projected keypoints in crop coordinates, for PCK.
        q: the angles of a SKEL body, which become a column.
        number: int64 [B] of the rows, for errors; None: from 0.

    Raises `UserError` if a prediction for a complete row is not finite.
    """
    rows = slice(None) if truth.complete.all() else truth.complete.nonzero().squeeze(1)
    for points in (pred.joints, pred.vertices, in_crop):
        if points is not None and not (finite := points[rows].flatten(1).isfinite().all(1)).all():
            kept = np.flatnonzero(truth.complete.cpu().numpy())
            row = kept[int(finite.logical_not().nonzero()[0])]
            raise UserError(
                f"the prediction for row {row if number is None else number[row]} is not finite. Expected a body for "
                "each row. If it comes from a network that has diverged, take an earlier network."
            )
    columns: Columns = {}
    if truth.joints is not None:
        joints, gt = pred.joints[rows], truth.joints[rows]
        columns["mpjpe_mm"] = mpjpe_mm(joints, gt, rule.root, rule.scored)
        columns["pa_mpjpe_mm"] = pa_mpjpe_mm(points_of(joints, rule.scored), points_of(gt, rule.scored))
        if truth.vertices is not None:
            vertices, gt_vertices = pred.vertices[rows], truth.vertices[rows]
            gt_root = root_of(gt, rule.root) if truth.mesh_root is None else truth.mesh_root[rows]
            columns["pve_mm"] = pve_mm(vertices, gt_vertices, root_of(joints, rule.root), gt_root)
            columns["pa_pve_mm"] = pa_mpjpe_mm(vertices, gt_vertices)
    if truth.keypoints_2d is not None and truth.valid_2d is not None and in_crop is not None:
        columns["valid"] = truth.valid_2d[rows]
        columns["found"] = found_keypoints(in_crop[rows], truth.keypoints_2d[rows], columns["valid"])
    if q is not None:
        columns["q"] = q[rows]
    return {name: values.cpu() for name, values in columns.items()}


def stage_columns(
    estimate: Estimate, pred: ScoredBody, geometry: CropGeometry, truth: Truth, rule: JointRule, number: np.ndarray
) -> Columns:
    """The columns of a network's estimate, with its angles and, if the truth is 2D, its projected keypoints.

    Args:
        estimate: the network's estimate.
        pred: its body, at the origin.
        geometry: the crops, as the network got them.
        truth, rule, number: as in `score`.
    """
    points = in_crop(pred.joints, estimate.camera, geometry) if truth.keypoints_2d is not None else None
    return score(pred, truth, rule, points, rep_to_q(estimate.rep), number)


def in_crop(
    keypoints: Float[Tensor, "B 44 3"], camera: Float[Tensor, "B 3"], geometry: CropGeometry
) -> Float[Tensor, "B 44 2"]:
    """Project the keypoints of a body at the origin by the estimated camera, in crop coordinates."""
    placed = keypoints + crop_camera_to_transl(camera, geometry).unsqueeze(-2)
    return image_to_crop(project(placed, geometry.intrinsics), geometry)


def joined(parts: Sequence[Mapping[str, Columns]]) -> dict[str, Columns]:
    """Concatenate the columns of batches."""
    return {
        name: {column: torch.cat([part[name][column] for part in parts]) for column in columns}
        for name, columns in parts[0].items()
    }
