"""Other people's weights: stand-in files with exactly the published names."""

from pathlib import Path

import pytest
import torch

from hmr_skel.errors import UserError
from hmr_skel.model.config import VIT_SIZES, NetworkConfig, VitConfig
from hmr_skel.model.network import Network
from hmr_skel.model.published import _renamed, checked_state, load_skel_cf, load_vitpose
from hmr_skel.model.vit import Vit

VIT = VitConfig(width=32, depth=2, heads=2)


def vitpose_shapes(width: int, depth: int) -> dict[str, tuple]:
    shapes = {
        "pos_embed": (1, 193, width), "patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,),
        "last_norm.weight": (width,), "last_norm.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        for name, shape in {
            "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
            "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width),
        }.items():  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    return shapes


def skel_cf_shapes(width: int, depth: int, layers: int, inner: int, hidden: int, head: int) -> dict[str, tuple]:
    """Names and shapes of the published network's decoder."""
    shapes = {"transformer.pos_embedding": (1, 1, width)}
    for i in range(layers):
        parts = {
            "0.norm.weight": (width,), "0.norm.bias": (width,), "0.fn.to_qkv.weight": (3 * inner, width),
            "0.fn.to_out.0.weight": (width, inner), "0.fn.to_out.0.bias": (width,),
            "1.norm.weight": (width,), "1.norm.bias": (width,), "1.fn.to_kv.weight": (2 * inner, width),
            "1.fn.to_q.weight": (inner, width), "1.fn.to_out.0.weight": (width, inner), "1.fn.to_out.0.bias": (width,),
            "2.norm.weight": (width,), "2.norm.bias": (width,), "2.fn.net.0.weight": (hidden, width),
            "2.fn.net.0.bias": (hidden,), "2.fn.net.3.weight": (width, hidden), "2.fn.net.3.bias": (width,),
        }  # fmt: skip
        shapes |= {f"transformer.layers.{i}.{name}": shape for name, shape in parts.items()}
    for name, size in {"poses": 144, "betas": 10, "cam": 3}.items():
        shapes |= {f"{name}_decoder.0.weight": (head, width), f"{name}_decoder.0.bias": (head,)}
        shapes |= {f"{name}_decoder.2.weight": (size, head), f"{name}_decoder.2.bias": (size,)}
        shapes[f"mean_{name}"] = (1, size)
    for name, size in {"pose": 147, "betas": 13, "cam": 6}.items():
        shapes |= {f"to_{name}_embedding.weight": (width, size), f"to_{name}_embedding.bias": (width,)}
    return {f"backbone.{k}": s for k, s in vitpose_shapes(width, depth).items()} | {
        f"decoder.{k}": s for k, s in shapes.items()
    }


def filled(shapes: dict[str, tuple], device: str = "cpu") -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape, device=device) for name, shape in shapes.items()}


class ForeignConfig:
    """Like the OmegaConf object in the published file: a class that is not there when the file is read."""

    def __init__(self) -> None:
        self.content = {"lr": 1e-5}


@pytest.fixture
def small() -> NetworkConfig:
    from tests.model.conftest import SMALL_DECODER

    return NetworkConfig(vit=VIT, decoder=SMALL_DECODER, head_hidden=16)


@pytest.fixture
def small_shapes() -> dict[str, tuple]:
    return skel_cf_shapes(width=32, depth=2, layers=3, inner=16, hidden=32, head=16)


def write_skel_cf(path: Path, state: dict[str, torch.Tensor], **entries) -> Path:
    averaged = {"updates": 1234} | {f"model.{name}": tensor for name, tensor in state.items()}
    averaged |= {"model.cam_model.fc1.weight": torch.zeros(2), "model.skel_model.shapedirs": torch.zeros(3)}
    raw = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({"model": raw, "ema_model": averaged, "epoch": 29} | entries, path)
    return path


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_vitpose_loads(tmp_path, prefix, wrapped):
    state = filled(vitpose_shapes(32, 2))
    content = {prefix + name: tensor for name, tensor in state.items()}
    if prefix:
        content |= {"backbone.cls_token": torch.zeros(1, 1, 32), "keypoint_head.final_layer.weight": torch.zeros(17)}
    torch.save({"state_dict": content} if wrapped else content, tmp_path / "v.pth")
    vit = Vit(VIT)
    load_vitpose(vit, tmp_path / "v.pth")
    for name, tensor in vit.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_vitpose_of_another_size_is_refused(tmp_path):
    torch.save({"state_dict": filled(vitpose_shapes(16, 3))}, tmp_path / "v.pth")
    with pytest.raises(
        UserError, match=r"v\.pth: does not hold ViTPose.*12 unknown \(blocks\.2.*of another shape"
    ) as e:
        load_vitpose(Vit(VIT), tmp_path / "v.pth")
    assert "\n" not in str(e.value)


def test_the_paper_sizes_are_the_published_ones():
    """Every name and shape of the real files, on the meta device."""
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in Vit(VIT_SIZES["vit_h"]).state_dict().items()}
        assert wanted == vitpose_shapes(1280, 32)
        network = Network(NetworkConfig())
    published = filled(skel_cf_shapes(width=1280, depth=32, layers=6, inner=512, hidden=1024, head=256), "meta")
    named = {_renamed(name): tensor for name, tensor in published.items()}
    assert checked_state(named, network, "best.pth", "the SKEL-CF network").keys() == network.state_dict().keys()


def test_skel_cf_loads_its_averaged_weights(tmp_path, small, small_shapes):
    state = filled(small_shapes)
    network = load_skel_cf(write_skel_cf(tmp_path / "best.pth", state), small)
    ours = network.state_dict()
    for published, name in {
        "decoder.transformer.pos_embedding": "decoder.position",
        "decoder.transformer.layers.2.0.norm.bias": "decoder.layers.2.self_attention.norm.bias",
        "decoder.transformer.layers.1.0.fn.to_qkv.weight": "decoder.layers.1.self_attention.qkv.weight",
        "decoder.transformer.layers.1.1.fn.to_kv.weight": "decoder.layers.1.cross_attention.key_value.weight",
        "decoder.transformer.layers.1.1.fn.to_q.weight": "decoder.layers.1.cross_attention.query.weight",
        "decoder.transformer.layers.0.1.fn.to_out.0.bias": "decoder.layers.0.cross_attention.out.bias",
        "decoder.transformer.layers.0.2.fn.net.0.weight": "decoder.layers.0.feed_forward.fc1.weight",
        "decoder.transformer.layers.0.2.fn.net.3.weight": "decoder.layers.0.feed_forward.fc2.weight",
        "decoder.poses_decoder.2.weight": "heads.pose.2.weight",
        "decoder.betas_decoder.0.weight": "heads.betas.0.weight",
        "decoder.cam_decoder.2.bias": "heads.camera.2.bias",
        "decoder.to_cam_embedding.weight": "decoder.embed_camera.weight",
        "decoder.mean_poses": "heads.mean_rep",
        "backbone.blocks.1.mlp.fc2.bias": "backbone.blocks.1.mlp.fc2.bias",
    }.items():
        assert torch.equal(ours[name].flatten(), state[published].flatten()), name
    assert network.heads.mean_rep.shape == (24, 6)
    assert len(ours) == len(state)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_skel_cf_runs_after_loading(tmp_path, small, small_shapes, geometry):
    network = load_skel_cf(write_skel_cf(tmp_path / "best.pth", filled(small_shapes)), small)
    assert network(torch.randn(1, 3, 256, 256), geometry(1)).final.rep.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.to_pose_embedding.weight": None}, r"1 missing \(decoder\.embed_pose\.weight\)"),
        ({"decoder.extra": torch.zeros(1)}, r"1 unknown \(decoder\.extra\)"),
        ({"decoder.cam_decoder.2.bias": torch.zeros(4)}, r"heads\.camera\.2\.bias \[4\] in place of \[3\]"),
    ],
)
def test_other_networks_are_refused_in_one_line(tmp_path, small, small_shapes, change, message):
    state = {name: tensor for name, tensor in (filled(small_shapes) | change).items() if tensor is not None}
    with pytest.raises(UserError, match=message) as error:
        load_skel_cf(write_skel_cf(tmp_path / "best.pth", state), small)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="expected an entry 'ema_model', found state_dict"):
        load_skel_cf(tmp_path / "other.pth")


def test_foreign_objects_in_the_file_are_neither_needed_nor_run(tmp_path, small, small_shapes, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return (eval, ("open('exploded', 'w')",))

    path = write_skel_cf(tmp_path / "best.pth", filled(small_shapes), cfg=ForeignConfig(), bomb=Bomb())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("tests.model.test_published.ForeignConfig")
    load_skel_cf(path, small)
    assert not (tmp_path / "exploded").exists()
