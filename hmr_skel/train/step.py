"""Compute the gradient of an optimiser step, from micro batches through network, body and losses."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hmr_skel.data.samples import Batch
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Network
from hmr_skel.train.losses import total_loss
from hmr_skel.train.recipes import Recipe

Losses = dict[str, Tensor]
Gradient = Sequence[Tensor | None]


def accumulate_gradient(
    forward: Network | DistributedDataParallel,
    body: SkelKeypoints,
    stream: Iterator[Batch],
    micro_batches: int,
    recipe: Recipe,
    device: torch.device,
    threads: ThreadPoolExecutor | None = None,
) -> Losses:
    """Add the gradient of the next batch to the parameters' `grad`.

    Returns the losses of this process, without weights, and "loss", the weighted sum. They stay on the device, so that
    nothing waits for it. With several processes, `grad` is the mean over them. `threads` come from `side_by_side`.
    """
    if threads is not None:
        assert isinstance(forward, Network)
        return _side_by_side(forward, body, stream, micro_batches, recipe, threads)
    losses: Losses = {}
    for number in range(micro_batches):
        # Processes exchange gradients once per step, with the last micro batch.
        waits = isinstance(forward, DistributedDataParallel) and number < micro_batches - 1
        with forward.no_sync() if waits else nullcontext():
            loss, terms = _losses(forward, body, next(stream).to(device, non_blocking=True), recipe)
            (loss / micro_batches).backward()
        _add(losses, loss, terms, micro_batches)
    return losses


@contextmanager
def side_by_side(
    forward: Network | DistributedDataParallel, micro_batches: int, recipe: Recipe, device: torch.device
) -> Iterator[ThreadPoolExecutor | None]:
    """Threads that compute the micro batches of a step in parallel, if that is possible; else None.

    A second core helps operations on small tensors little, but whole micro batches much: on two cores, `tiny` trains on
    a third more images per second (LOG.md). It is not possible with stochastic depth, whose random numbers would depend
    on the order of threads, and not useful on GPUs or with several processes.
    """
    cores = torch.get_num_threads()
    at_once = min(micro_batches, cores)
    alone = device.type == "cpu" and isinstance(forward, Network)
    if not alone or recipe.network.vit.drop_path or recipe.compile or at_once < 2:
        yield None
        return

    try:
        each = (cores // at_once,)
        with ThreadPoolExecutor(at_once, "micro-batch", initializer=torch.set_num_threads, initargs=each) as threads:
            yield threads
    finally:
        torch.set_num_threads(cores)  # MKL has one number for the whole process


def _side_by_side(
    network: Network,
    body: SkelKeypoints,
    stream: Iterator[Batch],
    micro_batches: int,
    recipe: Recipe,
    threads: ThreadPoolExecutor,
) -> Losses:
    """`accumulate_gradient` on threads of a CPU, which adds gradients in the order of micro batches for equal bits."""
    parameters = list(network.parameters())

    def gradient(batch: Batch) -> tuple[Tensor, Losses, Gradient]:
        loss, terms = _losses(network, body, batch, recipe)
        # Not backward(), since threads would add to the same `grad` in random order.
        return loss, terms, torch.autograd.grad(loss / micro_batches, parameters, allow_unused=True)

    losses: Losses = {}
    at_work = [threads.submit(gradient, next(stream)) for _ in range(micro_batches)]
    for future in at_work:
        loss, terms, gradients = future.result()
        for parameter, part in zip(parameters, gradients, strict=True):
            if part is None:
                continue
            # The fused optimiser needs the parameter's memory layout, which autograd.grad does not guarantee.
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter).copy_(part)
            else:
                parameter.grad.add_(part)
        _add(losses, loss, terms, micro_batches)
    return losses


def _losses(forward: Callable, body: SkelKeypoints, batch: Batch, recipe: Recipe) -> tuple[Tensor, Losses]:
    geometry = CropGeometry(batch.center, batch.size, batch.intrinsics, batch.affine)
    return total_loss(forward(batch.image, geometry, bf16=recipe.bf16), body, batch, recipe.losses)


def _add(losses: Losses, loss: Tensor, terms: Losses, micro_batches: int) -> None:
    for name, value in {"loss": loss.detach(), **terms}.items():
        losses[name] = losses.get(name, torch.zeros_like(value)) + value / micro_batches
