"""Evaluate networks on a benchmark: predict bodies from the image of each row, and compare them with the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.body.skel import Skel
from hmr_skel.errors import UserError
from hmr_skel.evaluate.ground_truth import GroundTruth, Truth
from hmr_skel.evaluate.images import CropReader, Intrinsics
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.evaluate.score import Columns, ScoredBody, in_crop, joined, score, stage_columns
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.decoder import Estimate
from hmr_skel.model.network import Network, Prediction
from hmr_skel.model.pose_rep import rep_to_q


@dataclass(frozen=True)
class Method:
    """A function that predicts as a network does."""

    predict: Callable[[Tensor, CropGeometry], Prediction]
    mean: Estimate
    """The estimate that it starts from, one row."""

    @classmethod
    def of(cls, network: Network) -> "Method":
        """The method of a network in evaluation mode."""
        return cls(network, network.heads.mean(1))


@torch.no_grad()
def evaluate_methods(
    methods: Sequence[Method],
    rows: BenchmarkRows,
    reader: CropReader,
    truth: GroundTruth,
    body: Skel,
    intrinsics: Intrinsics,
    *,
    batch_size: int = 64,
    threads: int = 2,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[dict[str, Columns]], np.ndarray]:
    """The columns of each method by stage (mean_pose, coarse, final), and the rows that they belong to.

    If the benchmark has 2D keypoints, the stages `swap_xy_0`, ... and `swap_s_0`, ... take the final body with a camera
    of decoder layer 0, ... (the paper's Table S2): its tx, ty with the final s, or its s with the final tx, ty.

    Args:
        methods: on the body's device, of the body's gender.
        rows, reader, intrinsics: labels, images, and cameras for the networks.
        truth: the ground truth.
        body: SKEL; the truth's regressor gives joints from its skin.
        batch_size, threads: images per batch, and threads that read them.
        progress: called with the number of new rows.

    Raises:
        UserError: an image cannot be read, no row has all labels.
    """
    parts: list[list[dict[str, Columns]]] = [[] for _ in methods]
    kept_rows = []
    scorers = [_Scorer(method.mean, truth, body) for method in methods]
    for some, crops in reader.batches(rows, batch_size, threads):
        geometry = _geometry(some, intrinsics(crops, some)).to(truth.device)
        images = torch.from_numpy(np.stack([crop.image for crop in crops])).to(truth.device)
        expected = truth(some)
        kept_rows.append(some.row[expected.complete.cpu().numpy()])
        if expected.complete.any():
            for method, scorer, found in zip(methods, scorers, parts, strict=True):
                found.append(scorer(method.predict(images, geometry), expected, some.row))
        if progress is not None:
            progress(len(some))
    if not parts[0]:
        raise UserError(f"none of {len(rows):,} rows of {truth.benchmark.title} has all labels: nothing to compare.")
    return [joined(found) for found in parts], np.concatenate(kept_rows)


class _Scorer:
    """Compares the predictions of a method with the truth."""

    def __init__(self, mean: Estimate, truth: GroundTruth, body: Skel) -> None:
        self.rule, self.regressor, self.body, self.mean = truth.benchmark.joints, truth.regressor, body, mean
        self.posed_mean = self._posed(self.mean)

    def __call__(self, prediction: Prediction, truth: Truth, number: np.ndarray) -> dict[str, Columns]:
        count, geometry = len(prediction.final.betas), prediction.geometry
        mean = Estimate(*(values.expand(count, *values.shape[1:]) for values in vars(self.mean).values()))
        stages = {"mean_pose": (mean, self.posed_mean.repeated(count))}
        if prediction.coarse is not None:
            stages["coarse"] = prediction.coarse, self._posed(prediction.coarse)
        stages["final"] = prediction.final, self._posed(prediction.final)
        found = {
            name: stage_columns(estimate, posed, geometry, truth, self.rule, number)
            for name, (estimate, posed) in stages.items()
        }
        if truth.keypoints_2d is not None:
            for name, estimate in swapped(prediction).items():
                points = in_crop(stages["final"][1].joints, estimate.camera, geometry)
                found[name] = score(stages["final"][1], truth, self.rule, points, number=number)
        return found

    def _posed(self, estimate: Estimate) -> ScoredBody:
        """The body at the origin, m, since all 3D errors are relative to a root."""
        vertices = self.body(rep_to_q(estimate.rep), estimate.betas, torch.zeros_like(estimate.camera)).vertices
        return ScoredBody(vertices, self.regressor(vertices))


def swapped(prediction: Prediction) -> dict[str, Estimate]:
    """The final estimate with cameras of the decoder's layers, see `evaluate_methods`."""
    final, found = prediction.final, {}
    for layer, estimate in enumerate(prediction.layers):
        s, xy = estimate.camera[:, :1], estimate.camera[:, 1:]
        found[f"swap_xy_{layer}"] = replace(final, camera=torch.cat((final.camera[:, :1], xy), 1))
        found[f"swap_s_{layer}"] = replace(final, camera=torch.cat((s, final.camera[:, 1:]), 1))
    return found


def _geometry(rows: BenchmarkRows, cam_int: Float[np.ndarray, "B 3 3"]) -> CropGeometry:
    """The geometry that the network gets."""
    center, side, intrinsics = (torch.from_numpy(a) for a in (rows.center, rows.told_side, cam_int))
    return CropGeometry.from_box(center, side, intrinsics)
