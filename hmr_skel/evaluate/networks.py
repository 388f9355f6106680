"""Networks to evaluate: ours, and the published SKEL-CF."""

from pathlib import Path

from hmr_skel.errors import UserError
from hmr_skel.model.checkpoint import NetworkInfo, load_network
from hmr_skel.model.network import Network
from hmr_skel.model.published import load_skel_cf

PUBLISHED = "published SKEL-CF"


def load_any_network(path: Path, skel_gender: str | None = None) -> tuple[Network, NetworkInfo]:
    """A network in evaluation mode, on the CPU, and what it was trained for: of a file by `train`, or SKEL-CF's
    `best.pth` (.pth, .pt or .ckpt), whose averaged weights are taken and whose body is male.

    Raises:
        UserError: the file is missing, damaged or foreign, or belongs to another gender.
    """
    if path.suffix not in (".pth", ".pt", ".ckpt"):
        return load_network(path, skel_gender=skel_gender)
    if skel_gender not in (None, "male"):
        raise UserError(f"{path}: SKEL-CF was trained on the male SKEL, the {skel_gender} one is asked for.")
    network = load_skel_cf(path).eval()
    return network, NetworkInfo(skel_gender="male", recipe=PUBLISHED)
