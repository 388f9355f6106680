"""HumanFoV (CameraHMR, Patel and Black 2024), which estimates a photo's vertical field of view from the whole image.

Its trunk is HRNet-W48 (Sun et al. 2019): four branches at 1/4 to 1/32 of the image, which exchange features. Modules
have the names of the published weights. Images are RGB, as in training; parts of the published evaluation give BGR by
mistake.
"""

from math import tan
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hmr_skel.foreign import load_torch
from hmr_skel.model.network import normalize
from hmr_skel.model.published import checked_state

CHANNELS = (48, 96, 192, 384)  # per branch
MODULES = {2: 1, 3: 4, 4: 3}  # exchange modules of stages 2, 3, 4; stage n has n branches
NUM_FEATURES = sum(CHANNELS)
_BLOCKS = 4  # per branch and module, and in layer 1
_STEM, _LAYER1 = 64, 256


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution and batch norm, then a ReLU unless told otherwise."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, relu=False)
        self.conv2, self.bn2 = conv_bn(channels, channels, relu=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, which is a 1x1 convolution if the width changes."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, inner, kernel=1, relu=False)
        self.conv2, self.bn2 = conv_bn(inner, inner, relu=False)
        self.conv3, self.bn3 = conv_bn(inner, outputs, kernel=1, relu=False)
        self.downsample = conv_bn(inputs, outputs, kernel=1, relu=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.downsample(x) + self.bn3(self.conv3(y)))


class Exchange(nn.Module):
    """Blocks in each branch, then each branch sums all branches at its own resolution."""

    def __init__(self, num_branches: int) -> None:
        super().__init__()
        channels = CHANNELS[:num_branches]
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(_BLOCKS))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_resample(source, target) for source in range(num_branches)) for target in range(num_branches)
        )

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        fused = []
        for row in self.fuse_layers:
            total, *others = (resample(x) for resample, x in zip(row.children(), xs, strict=True))
            for other in others:
                total = total + other
            fused.append(F.relu(total))
        return fused


def _resample(source: int, target: int) -> nn.Module:
    """Bring a branch to the resolution and width of another."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_bn(CHANNELS[source], CHANNELS[target], kernel=1, relu=False), up)
    steps = [conv_bn(CHANNELS[source], CHANNELS[source], stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv_bn(CHANNELS[source], CHANNELS[target], stride=2, relu=False))


class HrNet(nn.Module):
    """Normalised images to 720 channels at 1/32: all branches, convolved down to the smallest and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, _STEM, stride=2, relu=False)
        self.conv2, self.bn2 = conv_bn(_STEM, _STEM, stride=2, relu=False)
        rest = (Bottleneck(_LAYER1, 64, _LAYER1) for _ in range(_BLOCKS - 1))
        self.layer1 = nn.Sequential(Bottleneck(_STEM, 64, _LAYER1), *rest)
        self.transition1 = nn.ModuleList(
            [conv_bn(_LAYER1, CHANNELS[0]), nn.Sequential(conv_bn(_LAYER1, CHANNELS[1], stride=2))]
        )
        self.stage2, self.stage3, self.stage4 = (_stage(branches) for branches in (2, 3, 4))
        self.transition2, self.transition3 = (_new_branch(branches) for branches in (3, 4))
        self.downsample_stage_1, self.downsample_stage_2, self.downsample_stage_3 = (
            nn.Sequential(*(layer for _ in range(3 - i) for layer in conv_bn(CHANNELS[i], CHANNELS[i], stride=2)))
            for i in range(3)
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 720 h w"]:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer1(F.relu(self.bn2(self.conv2(x))))
        xs = self.stage2([transition(x) for transition in self.transition1])
        xs = self.stage3([*xs, self.transition2[-1](xs[-1])])
        xs = self.stage4([*xs, self.transition3[-1](xs[-1])])
        down = (self.downsample_stage_1, self.downsample_stage_2, self.downsample_stage_3, nn.Identity())
        return torch.cat([step(x) for step, x in zip(down, xs, strict=True)], 1)


def _stage(num_branches: int) -> nn.Sequential:
    return nn.Sequential(*(Exchange(num_branches) for _ in range(MODULES[num_branches])))


def _new_branch(num_branches: int) -> nn.ModuleList:
    """The old branches continue unchanged; the last one also starts a new branch at half its resolution."""
    new = conv_bn(CHANNELS[num_branches - 2], CHANNELS[num_branches - 1], stride=2)
    return nn.ModuleList([*(nn.Identity() for _ in range(num_branches - 1)), nn.Sequential(new)])


INPUT_SIZE = 256
# These are in the published file but do not affect the result.
_UNUSED = ("fc2.", "backbone.final_layer.")


class HumanFov(nn.Module):
    """Estimate vertical fields of view from whole images, in evaluation mode and without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HrNet()
        self.fc1 = nn.Linear(NUM_FEATURES, 1024)
        self.fc3 = nn.Linear(1024, 2)  # there is no non-linearity between the two
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "HumanFov":
        """Read `cam_model_cleaned.ckpt` of CameraHMR's release. Raises `UserError` if the file is another."""
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
        """Vertical fields of view, rad, of images from `letterbox` and `normalize`."""
        features = self.backbone(images).mean((-1, -2))
        return self.fc3(self.fc1(features))[:, 1]

    @torch.no_grad()
    def intrinsics(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "3 3"]:
        """The intrinsics of one RGB image, px, with square pixels and the principal point in the middle."""
        small = torch.from_numpy(letterbox(image)).permute(2, 0, 1)[None]
        device = self.fc1.weight.device
        vfov = self(normalize(small.to(device))).item()
        return intrinsics_from_vfov(vfov, width=image.shape[1], height=image.shape[0])


def letterbox(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "256 256 3"]:
    """The whole image in the middle of a white square, with its longer side scaled to 256 px."""
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
