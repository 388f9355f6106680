"""One optimiser step's gradient: a batch in micro batches through network, body and losses, and back."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hmr_skel.data.samples import Batch
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Network
from hmr_skel.train.batch import unpack
from hmr_skel.train.losses import total_loss
from hmr_skel.train.recipes import Recipe


def accumulate_gradient(
    forward: Network | DistributedDataParallel,
    body: SkelKeypoints,
    stream: Iterator[Batch],
    micro_batches: int,
    recipe: Recipe,
    device: torch.device,
) -> dict[str, Tensor]:
    """Add the gradient of the next batch to the parameters' `grad`.

    Returns the losses of this process, unweighted but for their sum ("loss"), still on the device: nothing here waits
    for it. With several processes, `grad` is the mean over them.
    """
    losses: dict[str, Tensor] = {}
    for number in range(micro_batches):
        images, geometry, targets = unpack(next(stream).to(device, non_blocking=True))
        # Processes exchange gradients once a step, with the last micro batch.
        waits = isinstance(forward, DistributedDataParallel) and number < micro_batches - 1
        with forward.no_sync() if waits else nullcontext():
            prediction = forward(images, geometry, bf16=recipe.bf16)
            loss, terms = total_loss(prediction, body, targets, recipe.losses)
            (loss / micro_batches).backward()
        for name, value in {"loss": loss.detach(), **terms}.items():
            losses[name] = losses.get(name, torch.zeros_like(value)) + value / micro_batches
    return losses
