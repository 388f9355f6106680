"""The field of view network: its published names, its input, its camera."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hmr_skel.errors import UserError
from hmr_skel.model.fov import HumanFov, intrinsics_from_vfov, letterbox
from tests.model.test_published import of_lightning
from tests.test_foreign import ForeignConfig


def conv_bn(name: str, norm: str, inputs: int, outputs: int, kernel: int) -> dict[str, tuple]:
    shapes = {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{norm}.num_batches_tracked": ()}
    return shapes | {f"{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}


def published_shapes() -> dict[str, tuple]:
    """Names and shapes of `cam_model_cleaned.ckpt`, written down from the published architecture's description."""
    shapes = conv_bn("conv1", "bn1", 3, 64, 3) | conv_bn("conv2", "bn2", 64, 64, 3)
    for i in range(4):
        block, inputs = f"layer1.{i}", 64 if i == 0 else 256
        shapes |= conv_bn(f"{block}.conv1", f"{block}.bn1", inputs, 64, 1)
        shapes |= conv_bn(f"{block}.conv2", f"{block}.bn2", 64, 64, 3)
        shapes |= conv_bn(f"{block}.conv3", f"{block}.bn3", 64, 256, 1)
    shapes |= conv_bn("layer1.0.downsample.0", "layer1.0.downsample.1", 64, 256, 1)
    shapes |= conv_bn("transition1.0.0", "transition1.0.1", 256, 48, 3)
    for stage, (inputs, outputs) in {1: (256, 96), 2: (96, 192), 3: (192, 384)}.items():
        shapes |= conv_bn(f"transition{stage}.{stage}.0.0", f"transition{stage}.{stage}.0.1", inputs, outputs, 3)
    channels = [48, 96, 192, 384]
    for stage, modules in {2: 1, 3: 4, 4: 3}.items():
        for m in range(modules):
            for branch in range(stage):
                for block in range(4):
                    for n in (1, 2):
                        name = f"stage{stage}.{m}.branches.{branch}.{block}"
                        shapes |= conv_bn(f"{name}.conv{n}", f"{name}.bn{n}", channels[branch], channels[branch], 3)
                for source in range(stage):
                    name = f"stage{stage}.{m}.fuse_layers.{branch}.{source}"
                    if source > branch:
                        shapes |= conv_bn(f"{name}.0", f"{name}.1", channels[source], channels[branch], 1)
                    for step in range(branch - source):
                        outputs = channels[branch] if step == branch - source - 1 else channels[source]
                        shapes |= conv_bn(f"{name}.{step}.0", f"{name}.{step}.1", channels[source], outputs, 3)
    for i, count in ((0, 3), (1, 2), (2, 1)):
        for step in range(count):
            name = f"downsample_stage_{i + 1}"
            shapes |= conv_bn(f"{name}.{3 * step}", f"{name}.{3 * step + 1}", channels[i], channels[i], 3)
    shapes |= {"final_layer.weight": (24, 48, 1, 1), "final_layer.bias": (24,)}
    shapes = {f"backbone.{name}": shape for name, shape in shapes.items()}
    linear = {"fc1": (1024, 720), "fc2": (1024, 1024), "fc3": (2, 1024)}
    return shapes | {f"{k}.weight": v for k, v in linear.items()} | {f"{k}.bias": v[:1] for k, v in linear.items()}


@pytest.fixture(scope="module")
def published_state() -> dict[str, torch.Tensor]:
    """A constant per tensor in the trunk, stored once: the file is small, and a swap of two tensors shows."""
    g, state = torch.Generator().manual_seed(0), {}
    for name, shape in published_shapes().items():
        if not name.startswith("backbone."):
            state[name] = torch.randn(shape, generator=g) / 30
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(5)
        elif len(shape) == 1:
            state[name] = torch.rand(1, generator=g).expand(shape) + 0.5
        else:
            state[name] = ((torch.rand(1, 1, 1, 1, generator=g) - 0.5) / math.prod(shape[1:])).expand(shape)
    return state


@pytest.fixture(scope="module")
def without_numbers() -> HumanFov:
    """It has names and shapes only."""
    with torch.device("meta"):
        return HumanFov()


def test_the_published_names_and_shapes(without_numbers):
    model = without_numbers
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    unused = {n: s for n, s in published_shapes().items() if n.startswith(("fc2.", "backbone.final_layer."))}
    assert wanted | unused == published_shapes()
    # The trunk is published with 65.3 M parameters.
    trunk = sum(p.numel() for n, p in model.backbone.named_parameters() if not n.startswith("downsample"))
    assert trunk / 1e6 == pytest.approx(65.3, abs=0.05)


def test_loads_the_published_file(tmp_path, published_state):
    """Whose names may begin with `model.`. Only its second output counts, and its layers are linear."""
    content = {f"model.{name}": tensor for name, tensor in published_state.items()}
    torch.save(of_lightning(content, ForeignConfig()), tmp_path / "cam.ckpt")
    model, seen = HumanFov.load(tmp_path / "cam.ckpt"), []
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, published_state[name]), name
    assert not any(p.requires_grad for p in model.parameters())
    for module in (model.backbone, model):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    intrinsics = model.intrinsics(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    assert intrinsics[:2, 2].tolist() == [32, 24]
    trunk, angle = seen
    assert trunk.shape == (1, 720, 8, 8)
    hidden = trunk.mean((2, 3)) @ model.fc1.weight.T + model.fc1.bias
    torch.testing.assert_close(angle, hidden @ model.fc3.weight[1] + model.fc3.bias[1])
    np.testing.assert_allclose(intrinsics, intrinsics_from_vfov(angle.item(), width=64, height=48), rtol=1e-6)


def test_another_file_is_refused(tmp_path, published_state):
    path = tmp_path / "cam.ckpt"
    torch.save({"state_dict": {"fc1.weight": torch.zeros(3), "odd": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match=r"HumanFoV.*missing.*1 unknown \(odd\).*1 of another shape \(fc1\.weight"):
        HumanFov.load(path)


def test_stays_frozen_when_a_training_loop_says_train(without_numbers):
    assert not any(module.training for module in nn.ModuleList([without_numbers]).train()[0].modules())


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(100, 200, (64, 192, 0, 256)), (300, 100, (0, 256, 85, 170)), (1, 1000, (127, 128, 0, 256))],
)
def test_letterbox(height, width, box):
    top, bottom, left, right = box
    expected = np.full((256, 256, 3), 255)
    expected[top:bottom, left:right] = 7
    np.testing.assert_array_equal(letterbox(np.full((height, width, 3), 7, np.uint8)), expected)


def test_intrinsics_by_hand():
    """A quarter turn from top to bottom sees as far as it is wide: f = H / 2."""
    expected = [[240, 0, 320], [0, 240, 240], [0, 0, 1]]
    np.testing.assert_allclose(intrinsics_from_vfov(math.pi / 2, width=640, height=480), expected, rtol=1e-6)
