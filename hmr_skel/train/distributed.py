"""Run one process, or several with one GPU each, as `torchrun` has set in the environment.

hmr-skel train --recipe vit_h                                  # one process
torchrun --nproc-per-node 8 -m hmr_skel.cli train --recipe vit_h   # eight
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""A run ends if another process does not answer for this time; reading 3 million rows takes longest."""


@dataclass(frozen=True)
class Group:
    """This process and its place among those of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """Whether `value` is true in any process."""
        if self.size == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def process_group(device: str) -> Generator[Group, None, None]:
    """Join the processes that torchrun has started; without torchrun, this process is alone.

    With several processes, the device `auto` or `cuda` gives each one GPU. Raises `UserError` if there is no such
    device, if there are fewer GPUs than processes, or if another process is lost.
    """
    environment = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"} | os.environ
    size, rank, local = (int(environment[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    own = resolve_device(device)
    if size == 1:
        yield Group(0, 1, own)
        return
    if own.type == "cuda":
        if own.index is not None:
            raise UserError(f"--device {device} with {size} processes: expected cuda, which gives each its own GPU.")
        if local >= torch.cuda.device_count():
            raise UserError(
                f"{size} processes, but this machine has {torch.cuda.device_count()} GPUs: one process a GPU "
                "(torchrun --nproc-per-node)."
            )
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Group(rank, size, own)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"process {rank} of {size}: another process of the run has ended or does not answer: {error}. See "
            "its messages. Run the same command again to resume from the last checkpoint."
        ) from error
    finally:
        dist.destroy_process_group()
