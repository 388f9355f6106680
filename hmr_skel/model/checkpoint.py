"""Write and read trained networks: safetensors files whose header describes the network as JSON.

A .json file beside it holds the same for people. The file holds no code, and appears whole, by rename.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hmr_skel.errors import UserError
from hmr_skel.model.config import DecoderConfig, NetworkConfig, VitConfig
from hmr_skel.model.network import Network
from hmr_skel.model.published import checked_state, load_skel_cf

FORMAT = "hmr-skel network, version 1"
PUBLISHED = "published SKEL-CF"
"""The beginning of `NetworkInfo.recipe` for a network that others have trained."""


@dataclass(frozen=True, kw_only=True)
class NetworkInfo:
    """What belongs to a network beside its weights."""

    skel_gender: str
    """The gender of the SKEL body that its betas and angles belong to."""
    recipe: str
    """The name of the training recipe."""
    details: dict[str, Any] = field(default_factory=dict)
    """More facts, as JSON: the steps, the whole recipe, the dataset."""


def save_network(
    path: str | Path, network: Network, info: NetworkInfo, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write `path` (.safetensors) and a .json of the same name beside it, each by rename.

    `weights`, for instance averaged ones, replace the network's own; names and shapes are those of its state dict.
    Raises `UserError` if the folder cannot be written.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (weights or network.state_dict()).items()}
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in network.state_dict().items()}
    about = json.dumps({"format": FORMAT, "network": asdict(network.config), **asdict(info)}, indent=2, sort_keys=True)
    temporary, beside = (path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.{end}") for end in ("w", "j"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"about": about})
        beside.write_text(about + "\n")
        os.replace(beside, path.with_suffix(".json"))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {path}: {error}. Choose a folder that is writable and has room.") from error
    finally:
        temporary.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)


def load_network(path: str | Path, *, skel_gender: str | None = None) -> tuple[Network, NetworkInfo]:
    """Read a network (.safetensors; on the CPU, in evaluation mode) and its `NetworkInfo`.

    Raises `UserError` if the file is missing, damaged or of another kind, or if its body is not that of `skel_gender`.
    """
    about, tensors = _read(Path(path))
    try:
        config = config_from_dict(about["network"])
        info = NetworkInfo(**{f.name: about[f.name] for f in dataclasses.fields(NetworkInfo)})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its description does not fit this version of hmr-skel ({error}).") from error
    if skel_gender is not None and info.skel_gender != skel_gender:
        raise UserError(
            f"{path}: this network was trained on the {info.skel_gender} SKEL, expected the {skel_gender} one. Its "
            f"betas "
            "and angles belong to its own body: give a network or a dataset of the same gender."
        )
    with torch.device("meta"):
        network = Network(config)
    network.load_state_dict(checked_state(tensors, network, path, "the network it describes"), assign=True)
    return network.eval(), info


def load_any_network(path: Path, skel_gender: str | None = None) -> tuple[Network, NetworkInfo]:
    """As `load_network`, but also reads SKEL-CF's `best.pth` (.pth, .pt, .ckpt), which is for the male SKEL."""
    if path.suffix.lower() not in (".pth", ".pt", ".ckpt"):
        return load_network(path, skel_gender=skel_gender)
    if skel_gender not in (None, "male"):
        raise UserError(f"{path}: SKEL-CF was trained on the male SKEL, expected the {skel_gender} one.")
    network, averaged = load_skel_cf(path)
    return network.eval(), NetworkInfo(skel_gender="male", recipe=PUBLISHED + ("" if averaged else ", not averaged"))


def load_mean(path: str | Path) -> dict[str, list[float]]:
    """The mean body of `SKEL_mean.npz`, as `Network` takes it: `mean_q` [46], `mean_betas` [10], `mean_camera` [3].

    Raises:
        UserError: the file is missing, damaged, or has other arrays.
    """
    names = {"mean_q": ("poses", 46), "mean_betas": ("betas", 10), "mean_camera": ("cam", 3)}
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {ours: np.asarray(file[theirs], np.float64) for ours, (theirs, _) in names.items()}
    except Exception as error:  # a damaged zip or header can raise any exception
        raise UserError(f"{path}: no mean parameters (expected an .npz with poses, betas, cam): {error}") from error
    for ours, (theirs, size) in names.items():
        if arrays[ours].size != size or not np.isfinite(arrays[ours]).all():
            raise UserError(f"{path}: {theirs} has {arrays[ours].size} entries, expected {size} finite ones.")
    return {name: array.ravel().tolist() for name, array in arrays.items()}


def config_from_dict(config: Mapping[str, Any]) -> NetworkConfig:
    """Undo `dataclasses.asdict`. Raises TypeError or KeyError for unknown or missing entries."""
    parts = dict(config)
    return NetworkConfig(vit=VitConfig(**parts.pop("vit")), decoder=DecoderConfig(**parts.pop("decoder")), **parts)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Train a network first, or give the .safetensors file of one.")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "null"))
            if isinstance(about, dict) and about.get("format") == FORMAT:
                return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged, or not a safetensors file ({error}). Expected a run's network.safetensors, or SKEL-CF's "
            "published best.pth."
        ) from error
    found = about.get("format") if isinstance(about, dict) else None
    raise UserError(f"{path}: not a network of hmr-skel (expected {FORMAT!r} in its header, found {found!r}).")
