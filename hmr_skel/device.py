"""The device that a user names, as one that is there."""

import torch

from hmr_skel.errors import UserError


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`... as a device that is there. Raises `UserError` where it is not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}. Expected auto, cpu, cuda, or cuda:1 and so on.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            build = (
                f"this torch ({torch.__version__}) is built without CUDA"
                if torch.version.cuda is None
                else (f"this machine has {count} CUDA device{'s' if count != 1 else ''}")
            )
            raise UserError(
                f"no device {name!r}: {build}. Use --device cpu, or install a CUDA build: make setup TORCH=... ."
            )
    return device
