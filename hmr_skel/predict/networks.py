"""The network to predict with: one that `train` has left, or the published SKEL-CF."""

from dataclasses import dataclass
from pathlib import Path

import torch

from hmr_skel.errors import UserError
from hmr_skel.model.checkpoint import load_network
from hmr_skel.model.network import Network
from hmr_skel.model.published import load_skel_cf

PUBLISHED_SUFFIXES = (".pth", ".pt", ".ckpt")


@dataclass(frozen=True)
class Predictor:
    """A network in evaluation mode and the SKEL that its answers belong to."""

    network: Network
    skel_gender: str
    title: str  # for people
    published: bool

    @property
    def num_stages(self) -> int:
        """Estimates of a prediction: where the decoder starts, and one after each layer (or after the last only)."""
        return 1 + (self.network.decoder.depth if self.network.config.refine else 1)


def load_predictor(path: Path, device: torch.device) -> Predictor:
    """Read a network by its name: .safetensors (ours), or .pth (SKEL-CF's `best.pth`, whose averaged weights count).

    Raises:
        UserError: the file is missing, damaged or foreign.
    """
    kind = path.suffix.lower()
    if kind in PUBLISHED_SUFFIXES:
        network = load_skel_cf(path).eval().to(device)
        return Predictor(network, "male", "SKEL-CF as published", published=True)
    if kind != ".safetensors":
        raise UserError(
            f"{path}: no network. Expected a run's folder or its network.safetensors (make train), or SKEL-CF's "
            "published best.pth."
        )
    network, info = load_network(path)
    title = f"recipe {info.recipe}, step {info.details.get('step')}"
    return Predictor(network.to(device), info.skel_gender, title, published=False)
