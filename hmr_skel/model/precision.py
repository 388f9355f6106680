"""Which part of the network runs in which precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device_type: str, bf16: bool) -> AbstractContextManager:
    """Matrix products in bfloat16 or, `bf16` off, in the precision of their inputs, whatever surrounds the call."""
    if not torch.amp.is_autocast_available(device_type):  # the meta device has no arithmetic at all
        return nullcontext()
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=bf16)
