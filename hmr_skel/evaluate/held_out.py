"""A network on a dataset's held-out shards: errors of the coarse and of the final estimate, and of the mean body."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr_skel.data.image_files import ImageRule
from hmr_skel.data.loader import ordered_batches
from hmr_skel.data.samples import Batch, SampleConfig, SampleDataset
from hmr_skel.errors import UserError
from hmr_skel.evaluate.mean_body import MeanBody
from hmr_skel.evaluate.metrics import mpjpe_mm, pa_mpjpe_mm, pve_mm
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.keypoints import PosedBody, SkelKeypoints
from hmr_skel.model.network import Prediction
from hmr_skel.rows import SkelParams

JOINT_SET = "44 label keypoints, root Pelvis (MPII)"
ROOT = 39
METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")

Predictor = Callable[[Tensor, CropGeometry], Prediction]
"""A `Network`, or whatever else answers like one."""
Errors = dict[str, dict[str, Float[Tensor, "N"]]]
"""Of what (mean_pose, coarse, final) -> metric -> one number a row."""


@dataclass(frozen=True)
class HeldOut:
    """The labels that predictions are compared with.

    Joints are the label's 3D keypoints (where the label had none, those of the annotated SMPL mesh); the mesh is that
    of the row's SKEL label. Rows that lack any of them are left out.
    """

    dataset: SampleDataset
    body: SkelKeypoints

    @classmethod
    def open(
        cls,
        path: Path,
        images: Mapping[str, ImageRule],
        body_models: Path,
        device: torch.device,
        quiet: bool = False,
    ) -> "HeldOut":
        """Raises `UserError` where the dataset, its held-out shards, images or the body model are not there."""
        dataset = SampleDataset(path, images, SampleConfig(), split="test", augment=False, quiet=quiet)
        return cls(dataset, SkelKeypoints.load(body_models, dataset.gender, device))

    def batches(self, batch_size: int, workers: int = 0):
        """Every held-out row once."""
        return ordered_batches(self.dataset, batch_size, workers=workers)


@torch.no_grad()
def evaluate_held_out(
    networks: Sequence[Predictor],
    mean: MeanBody,
    held_out: HeldOut,
    *,
    batch_size: int = 64,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Errors], int]:
    """Errors row by row of several networks on the same rows, and how many rows were left out.

    Args:
        networks: in evaluation mode, on the body's device. `mean_pose` is the same for all of them.
        mean: the constant prediction.
        held_out: what they are compared with.
        progress: called with the number of rows read.

    Raises `UserError` where no row has all labels.
    """
    device = held_out.body.matrix.device
    constant = _posed_mean(mean, held_out.body)
    parts: list[list[Errors]] = [[] for _ in networks]
    rows = used = 0
    with held_out.batches(batch_size, workers) as batches:
        for batch in batches:
            rows += len(batch)
            kept = _complete(batch)
            used += int(kept.sum())
            if progress is not None:
                progress(rows)
            if not kept.any():
                continue
            batch = batch.to(device)
            kept = kept.to(device)
            geometry = CropGeometry(batch.center, batch.size, batch.intrinsics, batch.affine)
            still = torch.zeros(len(batch), 3, device=device)  # every error is against a root
            label = held_out.body(SkelParams(batch.q, batch.betas, still))
            gt = PosedBody(label.vertices[kept], label.keypoints[kept])
            joints = batch.keypoints_3d[kept, :, :3]
            of_mean = _errors(constant, gt, joints)
            for network, found in zip(networks, parts, strict=True):
                prediction = network(batch.image, geometry)
                stages = {"final": -1} | ({"coarse": 0} if prediction.has_coarse else {})
                errors = {"mean_pose": of_mean}
                for name, stage in stages.items():
                    posed = held_out.body(prediction.skel_params(stage))
                    errors[name] = _errors(PosedBody(posed.vertices[kept], posed.keypoints[kept]), gt, joints)
                found.append(errors)
    if not used:
        raise UserError(f"none of {rows:,} held-out rows has a SKEL label and all 44 keypoints: nothing to compare.")
    return [_joined(found) for found in parts], rows + batches.skipped - used


def means(errors: Errors) -> dict[str, dict[str, float | str]]:
    """Means over rows, and what they are of."""
    return {
        name: {metric: values.double().mean().item() for metric, values in found.items()} | {"joint_set": JOINT_SET}
        for name, found in errors.items()
    }


def _complete(batch: Batch) -> Bool[Tensor, "B"]:
    return batch.has_skel & (batch.keypoints_3d[..., 3] > 0).all(-1)


def _posed_mean(mean: MeanBody, body: SkelKeypoints) -> PosedBody:
    device = body.matrix.device
    return body(SkelParams(mean.q[None].to(device), mean.betas[None].to(device), torch.zeros(1, 3, device=device)))


def _errors(pred: PosedBody, gt: PosedBody, joints: Float[Tensor, "B 44 3"]) -> dict[str, Float[Tensor, "B"]]:
    keypoints, vertices = (points.expand(len(joints), -1, -1) for points in (pred.keypoints, pred.vertices))
    return {
        "mpjpe_mm": mpjpe_mm(keypoints, joints, ROOT).cpu(),
        "pa_mpjpe_mm": pa_mpjpe_mm(keypoints, joints).cpu(),
        "pve_mm": pve_mm(vertices, gt.vertices, keypoints[:, ROOT], gt.keypoints[:, ROOT]).cpu(),
    }


def _joined(parts: Sequence[dict[str, dict[str, Tensor]]]) -> Errors:
    return {
        name: {metric: torch.cat([part[name][metric] for part in parts]) for metric in METRICS} for name in parts[0]
    }
