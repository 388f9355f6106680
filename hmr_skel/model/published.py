"""Load published weights into this project's modules: ViTPose's encoder, and all of SKEL-CF.

Such files are pickles. They are read with `weights_only=True`, and only their tensors are used. An empty object
replaces anything else in them (configurations of OmegaConf or yacs, callbacks), and none of its code runs.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmr_skel.errors import UserError
from hmr_skel.foreign import load_torch
from hmr_skel.model.config import NetworkConfig
from hmr_skel.model.network import Network
from hmr_skel.model.vit import Vit

# Rules from the names of the published SKEL-CF network to ours, applied in this order.
_RENAMED = (
    (r"^decoder\.transformer\.pos_embedding$", "decoder.position"),
    (r"^decoder\.transformer\.layers\.(\d+)\.0\.", r"decoder.layers.\1.self_attention."),
    (r"^decoder\.transformer\.layers\.(\d+)\.1\.", r"decoder.layers.\1.cross_attention."),
    (r"^decoder\.transformer\.layers\.(\d+)\.2\.", r"decoder.layers.\1.feed_forward."),
    (r"\.fn\.to_qkv\.", ".qkv."),
    (r"\.fn\.to_kv\.", ".key_value."),
    (r"\.fn\.to_q\.", ".query."),
    (r"\.fn\.to_out\.0\.", ".out."),
    (r"\.fn\.net\.0\.", ".fc1."),
    (r"\.fn\.net\.3\.", ".fc2."),
    (r"^decoder\.poses_decoder\.", "heads.pose."),
    (r"^decoder\.betas_decoder\.", "heads.betas."),
    (r"^decoder\.cam_decoder\.", "heads.camera."),
    (r"^decoder\.to_pose_embedding\.", "decoder.embed_pose."),
    (r"^decoder\.to_betas_embedding\.", "decoder.embed_betas."),
    (r"^decoder\.to_cam_embedding\.", "decoder.embed_camera."),
    (r"^decoder\.mean_poses$", "heads.mean_rep"),
    (r"^decoder\.mean_betas$", "heads.mean_betas"),
    (r"^decoder\.mean_cam$", "heads.mean_camera"),
)


def load_vitpose(vit: Vit, path: str | Path) -> None:
    """Fill the encoder from `vitpose_backbone.pth`, or from the checkpoint of a network that contains it.

    Checkpoints of ViTPose, 4D-Humans, HSMR and CameraHMR work: their names of the encoder begin with `backbone.`, and
    other names are ignored. Raises `UserError` if the file is missing or damaged, or its encoder has another size.
    """
    content = load_torch(Path(path), foreign=True)
    found = content.get("state_dict", content) if isinstance(content, dict) else content
    if isinstance(found, dict):
        within = {str(name): tensor for name, tensor in found.items() if str(name).startswith("backbone.")}
        found = within or found
    unused = ("cls_token", "keypoint_head.", "head.")
    state = checked_state(found, vit, path, "ViTPose's encoder", prefix="backbone.", unused=unused)
    vit.load_state_dict(state)


def load_skel_cf(path: str | Path, config: NetworkConfig | None = None) -> tuple[Network, bool]:
    """The published SKEL-CF network (or one of `config`) from `best.pth`, and whether its weights are averaged.

    The published weights are averaged (EMA). A file without averaged weights gives those of the last step. Raises
    `UserError` if the file is missing, damaged, or contains another network.
    """
    content = load_torch(Path(path), foreign=True)
    entries = content if isinstance(content, dict) else {}
    averaged = "ema_model" in entries
    weights = entries.get("ema_model" if averaged else "model")
    if not isinstance(weights, dict):
        found = ", ".join(map(str, entries)) or type(content).__name__
        raise UserError(f"{path}: not a SKEL-CF checkpoint: expected an entry 'ema_model' or 'model', found {found}.")
    named = {_renamed(str(name).removeprefix("model.")): tensor for name, tensor in weights.items()}
    with torch.device("meta"):
        network = Network(config or NetworkConfig())
    unused = ("updates", "cam_model.", "skel_model.")
    state = checked_state(named, network, path, "the SKEL-CF network", unused=unused)
    network.load_state_dict(state, assign=True)
    return network, averaged


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def checked_state(
    found: Any, module: nn.Module, path: str | Path, what: str, prefix: str = "", unused: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The tensors of `found` for `module.load_state_dict`, float32 where the module has floats.

    Args:
        found: the state dict in the file.
        module: the module to load; may be on the meta device.
        path: the file, for messages.
        what: the expected content, for messages.
        prefix: text that may precede all names.
        unused: beginnings of names to ignore.

    Raises:
        UserError: tensors are missing, unknown, or of another shape; the message names all of them.
    """
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: does not hold {what}, but a {type(found).__name__}.")
    tensors = {str(name).removeprefix(prefix): tensor for name, tensor in found.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}
    wanted = module.state_dict()
    # Only training uses the step counter of batch norm; older files do not have it.
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    extra = [name for name in tensors if name not in wanted]
    misshaped = [
        f"{name} {_shape(tensor)} in place of {_shape(wanted[name])}"
        for name, tensor in tensors.items()
        if name in wanted and (not _is_dense(tensor) or _core(tensor) != _core(wanted[name]))
    ]
    problems = [
        f"{len(names)} {text} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for text, names in (("missing", missing), ("unknown", extra), ("of another shape", misshaped))
        if names
    ]
    if problems:
        raise UserError(f"{path}: does not hold {what}; tensors are {'; '.join(problems)}.")
    state = {name: tensors[name].reshape(like.shape).to(like.dtype) for name, like in wanted.items() if name in tensors}
    counters = {name: torch.zeros(like.shape, dtype=like.dtype) for name, like in wanted.items() if name not in state}
    return state | counters


def _is_dense(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided


def _shape(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{list(tensor.shape)}{'' if _is_dense(tensor) else ' (sparse)'}"


def _core(tensor: Tensor) -> tuple[int, ...]:
    """The shape without leading ones, since the published means have a batch axis and ours do not."""
    shape = tuple(tensor.shape)
    while shape and shape[0] == 1:
        shape = shape[1:]
    return (144,) if shape == (24, 6) else shape
