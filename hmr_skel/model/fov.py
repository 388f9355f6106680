"""HumanFoV (CameraHMR, Patel and Black 2024): the vertical field of view of a photo, from the whole image. Frozen.

Images are RGB. Parts of the published evaluation feed BGR by mistake; these weights were trained with RGB.
"""

from math import tan
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hmr_skel.foreign import load_torch
from hmr_skel.model.hrnet import NUM_FEATURES, HrNet
from hmr_skel.model.network import normalize
from hmr_skel.model.published import checked_state

INPUT_SIZE = 256
# In the published file, but without a part in the result.
_UNUSED = ("fc2.", "backbone.final_layer.")


class HumanFov(nn.Module):
    """Whole images to vertical fields of view. Always in evaluation mode, without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HrNet()
        self.fc1 = nn.Linear(NUM_FEATURES, 1024)
        self.fc3 = nn.Linear(1024, 2)  # there is no non-linearity between the two
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "HumanFov":
        """Read `cam_model_cleaned.ckpt` of CameraHMR's release.

        Raises:
            UserError: the file is missing, damaged, or holds something else.
        """
        content = load_torch(Path(path), foreign=True)
        found = content.get("state_dict", content) if isinstance(content, dict) else content
        with torch.device("meta"):
            model = cls()
        state = checked_state(found, model, path, "the HumanFoV weights", prefix="model.", unused=_UNUSED)
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(False).to(device)

    def train(self, mode: bool = True) -> "HumanFov":
        return super().train(False)

    def forward(self, images: Float[Tensor, "B 3 256 256"]) -> Float[Tensor, "B"]:
        """Vertical fields of view, rad, of images prepared by `letterbox` and `normalize`."""
        features = self.backbone(images).mean((-1, -2))
        return self.fc3(self.fc1(features))[:, 1]

    @torch.no_grad()
    def intrinsics(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "3 3"]:
        """The camera of one RGB image: square pixels, the principal point in the middle, px."""
        small = torch.from_numpy(letterbox(image)).permute(2, 0, 1)[None]
        device = self.fc1.weight.device
        vfov = self(normalize(small.to(device))).item()
        return intrinsics_from_vfov(vfov, width=image.shape[1], height=image.shape[0])


def letterbox(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "256 256 3"]:
    """The whole image, its longer side scaled to 256 px, in the middle of a white square."""
    import cv2

    height, width = image.shape[:2]
    aspect = width / height
    if width > height:
        width, height = INPUT_SIZE, int(INPUT_SIZE / aspect)
    else:
        width, height = int(INPUT_SIZE * aspect), INPUT_SIZE
    width, height = max(width, 1), max(height, 1)
    canvas = np.full((INPUT_SIZE, INPUT_SIZE, 3), 255, np.uint8)
    top, left = (INPUT_SIZE - height) // 2, (INPUT_SIZE - width) // 2
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    canvas[top : top + height, left : left + width] = resized
    return canvas


def intrinsics_from_vfov(vfov: float, width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """Intrinsics (px) of an image of this size with this vertical field of view (rad)."""
    focal = height / (2 * tan(vfov / 2))
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
