"""Turn the name of a device into a device of this machine."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hmr_skel.errors import UserError

if TYPE_CHECKING:
    import torch


def check_device_name(name: str) -> None:
    """Raise `UserError` if the name is not that of a device on any machine. Does not import torch."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name, re.ASCII):
        raise UserError(f"unknown device {name!r}. Expected auto, cpu, cuda, or cuda:1 and so on.")


def resolve_device(name: str) -> "torch.device":
    """The device `auto`, `cpu`, `cuda`, `cuda:1`... Raises `UserError` if this machine does not have it."""
    check_device_name(name)
    import torch

    if name in ("auto", "cpu"):
        return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(name.partition(":")[2] or 0) >= count:
        found = f"torch {torch.__version__} finds {count} CUDA devices"
        raise UserError(f"no device {name!r}: {found}. Use --device cpu, or set up for GPUs: make setup CUDA=1")
    return torch.device(name)


class DeviceLost(UserError):
    """A CUDA error, after which every CUDA call in this process fails."""


@contextmanager
def no_more_after_cuda_errors(device: "torch.device") -> Generator[None]:
    """Turn torch's CUDA errors into `DeviceLost`, except out-of-memory errors: smaller batches may still work."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" not in str(error):
            raise
        line = str(error).splitlines()[0]
        text = (
            f"{device} failed, and this process cannot use it any more: {line}. Finished work is kept; start the "
            f"command again."
        )
        raise DeviceLost(text) from error
