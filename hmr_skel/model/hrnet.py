"""HRNet-W48 (Sun et al. 2019): four branches at 1/4 to 1/32 of the image, which exchange what they see.

Only what the field-of-view network needs: inference from published weights, by whose names the modules are called.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CHANNELS = (48, 96, 192, 384)  # of the branches
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
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, relu=False)
        self.conv2, self.bn2 = conv_bn(channels, channels, relu=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut, which is a 1x1 convolution where the width changes."""

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
    """Blocks in each branch, then every branch adds up all of them, brought to its own resolution."""

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
    """From one branch's resolution and width to another's."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_bn(CHANNELS[source], CHANNELS[target], kernel=1, relu=False), up)
    steps = [conv_bn(CHANNELS[source], CHANNELS[source], stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv_bn(CHANNELS[source], CHANNELS[target], stride=2, relu=False))


class HrNet(nn.Module):
    """Normalised images to 720 channels at 1/32: the branches, convolved down to the smallest and side by side."""

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
    """The old branches go on as they are; the last one also starts a new one at half its resolution."""
    new = conv_bn(CHANNELS[num_branches - 2], CHANNELS[num_branches - 1], stride=2)
    return nn.ModuleList([*(nn.Identity() for _ in range(num_branches - 1)), nn.Sequential(new)])
