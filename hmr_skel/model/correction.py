"""A last correction, by what an estimate cannot know: how far its keypoints are from those that the stem has found.

It is not the paper's. The decoder sees the tokens that the coarse estimate was made of, and in a network as small as
`tiny` it adds nothing (docs/network.md). But an estimate can be held against the picture's keypoints.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr_skel.body.joints import KEYPOINTS_44
from hmr_skel.model.decoder import CUE_WIDTH, Estimate
from hmr_skel.model.pose_rep import rep_to_rotmat
from hmr_skel.model.stem import cell_centers, keypoint_pairs

_ESTIMATE = 144 + 10 + 3
_KEYPOINTS = 2 * len(KEYPOINTS_44)
# Factors that bring what the perceptrons see to a spread of about 1. Without them the perceptrons learn too slowly:
# from image to image, most joints turn by a tenth of a radian, and cameras, cues and keypoints differ by as little.
_TURN_SCALE, _CAMERA_SCALE, _CUE_SCALE, _SKETCH_SCALE, _WAY_SCALE = 4.0, 8.0, 5.0, 4.0, 16.0


class Correction(nn.Module):
    """Corrects an estimate once. Nothing before it gets a gradient from it: the rest trains as it would without."""

    def __init__(self, hidden: int, *, camera: bool) -> None:
        super().__init__()
        given = _ESTIMATE + (CUE_WIDTH if camera else 0)
        # The network contains no body model, so a perceptron learns from one where an estimate's keypoints are.
        self.sketch = _perceptron(given, hidden, _KEYPOINTS)
        self.correct = _perceptron(given + 2 * _KEYPOINTS, hidden, _ESTIMATE)
        last = self.correct[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self,
        estimate: Estimate,
        mean: Estimate,
        cue: Float[Tensor, "B 3"] | None,
        maps: Float[Tensor, "B 44 h w"],
    ) -> tuple[Estimate, Float[Tensor, "B 44 2"]]:
        """The corrected estimate, and the sketch: where the given estimate's keypoints are, in crop coordinates.

        Args:
            mean: the mean body.
            cue: see `camera_cue`.
            maps: of the stem, log of the probability that a keypoint is in a cell.
        """
        estimate = Estimate(estimate.rep.detach(), estimate.betas.detach(), estimate.camera.detach())
        turned = rep_to_rotmat(estimate.rep)[..., :2] - rep_to_rotmat(mean.rep)[..., :2]
        parts = [
            _TURN_SCALE * turned.flatten(1),
            estimate.betas - mean.betas,
            _CAMERA_SCALE * (estimate.camera - mean.camera),
            *([] if cue is None else [_CUE_SCALE * cue]),
        ]
        sketch = self.sketch(torch.cat(parts, 1)).unflatten(1, (-1, 2))
        drawn = sketch.detach()
        found = maps.detach().flatten(2).exp() @ cell_centers(*maps.shape[-2:]).to(maps)
        # The stem orders a pair by the picture, not by the body's sides. The estimate tells which of them is meant.
        mirrored = keypoint_pairs(maps.device)[0]
        own, other = found - drawn, found[:, mirrored] - drawn
        far, far_crossed = (way.norm(dim=-1) for way in (own, other))
        straight = far + far[:, mirrored] <= far_crossed + far_crossed[:, mirrored]
        way = torch.where(straight.unsqueeze(-1), own, other)
        seen = torch.cat((*parts, _SKETCH_SCALE * drawn.flatten(1), _WAY_SCALE * way.flatten(1)), 1)
        rep, betas, camera = self.correct(seen).split((144, 10, 3), 1)
        return estimate.corrected(Estimate(rep.unflatten(1, (24, 6)), betas, camera)), sketch


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers)
