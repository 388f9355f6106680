"""Other people's weights: stand-in files with exactly the published names."""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from hmr_skel.errors import UserError
from hmr_skel.model.config import VIT_SIZES, NetworkConfig, VitConfig
from hmr_skel.model.network import Network
from hmr_skel.model.published import _renamed, checked_state, load_skel_cf, load_vitpose
from hmr_skel.model.vit import Vit
from tests.model.conftest import SMALL_DECODER
from tests.test_foreign import PYTHON, SHELL, Call, ForeignConfig, omegaconf_config

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


@pytest.fixture
def small() -> NetworkConfig:
    return NetworkConfig(vit=VIT, decoder=SMALL_DECODER, head_hidden=16)


@pytest.fixture
def small_shapes() -> dict[str, tuple]:
    return skel_cf_shapes(width=32, depth=2, layers=3, inner=16, hidden=32, head=16)


SPARSE = ("skin_weights", "skel_weights", "skel_weights_rigid", "J_regressor_osim")
"""Buffers of the published body model that are sparse unless its user asks for dense ones."""


def write_skel_cf(path: Path, state: dict[str, torch.Tensor], sparse: bool = False, **entries: object) -> Path:
    """All that the published trainer writes; `entries` take the place of its own, None: there is no such entry."""
    buffers = {"cam_model.fc1.weight": torch.zeros(2), "skel_model.shapedirs": torch.zeros(3)}
    for name in SPARSE:
        buffers[f"skel_model.{name}"] = torch.eye(3).to_sparse() if sparse else torch.eye(3)
    averaged = {"updates": 1234} | {f"model.{name}": tensor for name, tensor in (state | buffers).items()}
    plain = {name: torch.zeros(()).expand_as(tensor) for name, tensor in state.items()} | buffers
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [weight]}], lr=1e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    weight.sum().backward()
    optimizer.step()
    content = {"model": plain, "ema_model": averaged, "optimizer": optimizer.state_dict(),
               "lr_scheduler": scheduler.state_dict(), "epoch": 29, "cfg": omegaconf_config()} | entries  # fmt: skip
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


def of_lightning(state: dict[str, torch.Tensor], config: object) -> dict:
    """What Lightning's trainer writes, with the class of a callback in the way of its versions before 1.5."""
    best = {"monitor": "val_loss", "best_model_score": torch.tensor(0.5), "best_model_path": "a.ckpt"}
    return {
        "epoch": 3, "global_step": 10, "pytorch-lightning_version": "1.8.6", "state_dict": OrderedDict(state),
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": best, ForeignConfig: best}, "lr_schedulers": [],
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2)}}, "param_groups": []}],
        "loops": {"fit_loop": {"state_dict": {}}}, "hparams_name": "cfg", "hyper_parameters": {"cfg": config},
        "hparams_type": ForeignConfig,
    }  # fmt: skip


CONTAINERS = {
    "the encoder alone": (lambda state: {name.removeprefix("backbone."): state[name] for name in state}, ()),
    "ViTPose": (lambda state: {"state_dict": state, "meta": {"epoch": 210}}, ("keypoint_head.final_layer.weight",)),
    "4D-Humans": (
        lambda state: of_lightning(state, ForeignConfig()),
        ("smpl_head.transformer.pos_embedding", "smpl.betas", "discriminator.D_alljoints_fc1.weight", "initialized"),
    ),
    "HSMR": (lambda state: of_lightning(state, None), ("head.poses_decoder.0.weight", "skel_model.skel_weights")),
    "CameraHMR": (
        lambda state: of_lightning(state, omegaconf_config()),
        ("cam_model.backbone.conv1.weight", "smpl_head.decpose.weight", "smpl_gt.v_template"),
    ),
}
"""Files that contain the encoder: what is written of their state, and names of some other modules' tensors."""


@pytest.mark.parametrize("network", CONTAINERS)
def test_vitpose_loads_from_files_that_contain_it(tmp_path, monkeypatch, network):
    container, others = CONTAINERS[network]
    state = filled(vitpose_shapes(32, 2))
    whole = {f"backbone.{name}": tensor for name, tensor in state.items()} | dict.fromkeys(others, torch.zeros(3))
    torch.save(container(whole), tmp_path / "v.ckpt")
    monkeypatch.delattr("tests.test_foreign.ForeignConfig")
    vit = Vit(VIT)
    load_vitpose(vit, tmp_path / "v.ckpt")
    for name, tensor in vit.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_vitpose_of_another_size_is_refused(tmp_path):
    torch.save({"state_dict": filled(vitpose_shapes(16, 3))}, tmp_path / "v.pth")
    with pytest.raises(UserError, match=r"v\.pth: does not hold ViTPose.*12 unknown \(blocks\.2.*of another shape"):
        load_vitpose(Vit(VIT), tmp_path / "v.pth")


def test_the_paper_sizes_are_the_published_ones():
    """Every name and shape of the real files, on the meta device."""
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in Vit(VIT_SIZES["vit_h"]).state_dict().items()}
        assert wanted == vitpose_shapes(1280, 32)
        network = Network(NetworkConfig())
    published = filled(skel_cf_shapes(width=1280, depth=32, layers=6, inner=512, hidden=1024, head=256), "meta")
    named = {_renamed(name): tensor for name, tensor in published.items()}
    assert checked_state(named, network, "best.pth", "the SKEL-CF network").keys() == network.state_dict().keys()


@pytest.mark.parametrize("sparse", [False, True])
def test_skel_cf_loads_its_averaged_weights_and_runs(tmp_path, small, small_shapes, geometry, sparse, monkeypatch):
    state = filled(small_shapes)
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")  # as if written on a GPU
    network, averaged = load_skel_cf(write_skel_cf(tmp_path / "best.pth", state, sparse), small)
    assert averaged
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
    assert len(ours) == len(state)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network(torch.randn(1, 3, 256, 256), geometry(1)).final.rep.isfinite().all()


def test_another_network_is_refused_in_one_line(tmp_path, small, small_shapes):
    state = filled(small_shapes)
    del state["decoder.to_pose_embedding.weight"]
    state |= {"decoder.extra": torch.zeros(1), "decoder.cam_decoder.2.bias": torch.zeros(4)}
    state["decoder.cam_decoder.0.bias"] = state["decoder.cam_decoder.0.bias"].to_sparse()
    with pytest.raises(UserError) as error:
        load_skel_cf(write_skel_cf(tmp_path / "best.pth", state), small)
    for part in (
        "1 missing (decoder.embed_pose.weight)", "1 unknown (decoder.extra)", "heads.camera.2.bias [4] in place of [3]",
        "heads.camera.0.bias [16] (sparse) in place of [16]",
    ):  # fmt: skip
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_averaged_are_told_apart(tmp_path, small, small_shapes):
    state = filled(small_shapes)
    network, averaged = load_skel_cf(write_skel_cf(tmp_path / "x.pth", {}, model=state, ema_model=None), small)
    assert not averaged
    assert torch.equal(network.state_dict()["decoder.position"], state["decoder.transformer.pos_embedding"])


# --- what is not run: calls where the trainer's own objects stand ---


def in_a_value(config: DictConfig, call: object) -> dict:
    OmegaConf.set_struct(config, False)
    config._set_flag("allow_objects", True)
    config["value"] = call
    return {"cfg": config}


def as_a_type(config: DictConfig, call: object) -> dict:
    config._metadata.key_type = call
    return {"cfg": config}


PLACES: dict[str, Callable[[DictConfig, object], dict]] = {
    "a value": in_a_value,
    "a type": as_a_type,
    "the config": lambda config, call: {"cfg": call},
}


@pytest.mark.parametrize("place", PLACES)
def test_calls_in_the_file_do_not_run(tmp_path, small, small_shapes, monkeypatch, place):
    """First they are shown to run where nothing stops them."""
    monkeypatch.chdir(tmp_path)
    # torch refuses a file that names anything of the operating system's module.
    refusal = pytest.raises(UserError, match=r"'posix\.system' is not on the allow-list")
    for call, outcome in ((Call(eval, PYTHON), contextlib.nullcontext()), (Call(os.system, SHELL), refusal)):
        path = write_skel_cf(Path("best.pth"), filled(small_shapes), **PLACES[place](omegaconf_config(), call))
        with contextlib.suppress(Exception):
            torch.load(path, weights_only=False)
        Path("ran").unlink()
        with outcome:
            load_skel_cf(path, small)
        assert not Path("ran").exists()


def test_a_call_among_the_weights_is_no_tensor(tmp_path, small, small_shapes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state: dict = filled(small_shapes) | {"decoder.cam_decoder.2.bias": Call(eval, PYTHON)}
    averaged = {f"model.{name}": tensor for name, tensor in state.items()}
    with pytest.raises(UserError, match=r"heads\.camera\.2\.bias Counter in place of \[3\]"):
        load_skel_cf(write_skel_cf(Path("best.pth"), {}, model=None, ema_model=averaged), small)
    assert not Path("ran").exists()
