"""Measure the network: training steps on random samples, and the prediction for one image from file to body."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from hmr_skel.bench.measures import machine, peak_memory_mb
from hmr_skel.body.skel import Skel
from hmr_skel.data.images import box_affine, crop_image, decode
from hmr_skel.data.samples import Batch
from hmr_skel.model.camera import CROP_SIZE, CropGeometry
from hmr_skel.model.fov import HumanFov
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Network
from hmr_skel.train.flops import peak_flops_per_s, training_flops
from hmr_skel.train.optimizer import Ema, ema_decay, new_optimizer
from hmr_skel.train.recipes import Recipe
from hmr_skel.train.step import accumulate_gradient, side_by_side

_WARM_UP = 3  # untimed steps, which compile and fill caches


def bench_training(
    recipe: Recipe, body: SkelKeypoints, device: torch.device, steps: int, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Time optimiser steps from random weights: network, body, losses, backward, clipping, AdamW, mean.

    The batch is one micro batch, or all micro batches of a step if training computes them in parallel. `body` is on the
    device. The median over steps counts. `progress` gets `steps`, the number done, and the total.
    """
    network = Network(recipe.network, activation_checkpointing=recipe.activation_checkpointing).to(device).train()
    optimizer, ema = new_optimizer(recipe, network), Ema(network)
    flops = training_flops(network)
    if recipe.compile:
        network.backbone.compile()
    stream = itertools.repeat(made_up_batch(recipe.micro_batch))
    times = []
    with side_by_side(network, recipe.accumulate(1), recipe, device) as threads:
        micro_batches = recipe.accumulate(1) if threads is not None else 1
        for number in range(1, _WARM_UP + steps + 1):
            start = time.perf_counter()
            accumulate_gradient(network, body, stream, micro_batches, recipe, device, threads)
            if torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)):  # waits for the device
                optimizer.step()
                ema.update(network, ema_decay(number, recipe.ema_decay, recipe.ema_tau))
            optimizer.zero_grad()
            _wait_for(device)
            times.append(time.perf_counter() - start)
            progress("steps", number, _WARM_UP + steps)
    batch = micro_batches * recipe.micro_batch
    images_per_s = batch / statistics.median(times[_WARM_UP:])
    peak, source = peak_flops_per_s(device, recipe.bf16)
    return {
        "recipe": recipe.name,
        "batch": batch,
        "steps": steps,
        "images_per_s": images_per_s,
        "mfu": images_per_s * flops / peak,
        "gflop_per_image": flops / 1e9,
        "peak_tflop_per_s": peak / 1e12,
        "peak_source": source,
        "memory_mb": peak_memory_mb(device),
        "device": str(device),
        "machine": machine(device),
    }


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def made_up_batch(size: int, seed: int = 0) -> Batch:
    """Samples of noise, with all labels."""
    g = torch.Generator().manual_seed(seed)
    intrinsics = torch.tensor([[600.0, 0, 256], [0, 600, 256], [0, 0, 1]]).expand(size, 3, 3)
    where = CropGeometry.from_box(torch.full((size, 2), 256.0), torch.full((size,), 400.0), intrinsics)
    sure = torch.ones(size, 44, 1)
    return Batch(
        image=torch.randint(256, (size, 3, CROP_SIZE, CROP_SIZE), dtype=torch.uint8, generator=g),
        center=where.center,
        size=where.size,
        intrinsics=where.intrinsics,
        affine=where.affine,
        keypoints_2d=torch.cat((torch.rand(size, 44, 2, generator=g) - 0.5, sure), -1),
        keypoints_3d=torch.cat((torch.randn(size, 44, 3, generator=g), sure), -1),
        q=0.3 * torch.randn(size, 46, generator=g),
        betas=torch.randn(size, 10, generator=g),
        has_skel=torch.ones(size, dtype=torch.bool),
        transl=torch.tensor([0.0, 0.0, 4.0]).expand(size, 3),
        row=torch.arange(size),
    )


def bench_predict(recipe: Recipe, skel: Skel, device: torch.device, repeats: int) -> dict[str, Any]:
    """Median times for an image of noise: `image_ms` in total and `parts_ms`, after an untimed one.

    The network is the recipe's with random weights, on a GPU in the recipe's precision. `skel` is moved to the device.
    """
    network, skel, fov = Network(recipe.network).to(device).eval(), skel.to(device), HumanFov().to(device)
    noise = np.random.default_rng(0).integers(0, 256, (960, 1280, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32))[None].to(device)

    @torch.no_grad()
    def once() -> dict[str, float]:
        laps: dict[str, float] = {}
        begun = time.perf_counter()

        def lap(name: str) -> None:
            _wait_for(device)
            laps[name] = 1000 * (time.perf_counter() - begun) - sum(laps.values())

        pixels = decode(data, shrink=1.0)[0][..., ::-1]
        lap("decode")
        intrinsics = fov.intrinsics(np.ascontiguousarray(pixels))
        lap("field_of_view")
        center, side = np.array(pixels.shape[1::-1]) / 2, 0.8 * max(pixels.shape[:2])
        affine = box_affine(center, side)
        crop = torch.from_numpy(np.ascontiguousarray(crop_image(pixels, affine).transpose(2, 0, 1)))[None].to(device)
        geometry = CropGeometry(tensor(center), tensor(np.array(side)), tensor(intrinsics), tensor(affine))
        lap("crop")
        params = network(crop, geometry, bf16=recipe.bf16 and device.type == "cuda").skel_params()
        lap("network")
        skel(params.q, params.betas, params.transl, skeleton=True)
        lap("body")
        return laps

    found = [once() for _ in range(repeats + 1)][1:]
    return {
        "recipe": recipe.name,
        "image_ms": statistics.median(sum(laps.values()) for laps in found),
        "parts_ms": {name: statistics.median(laps[name] for laps in found) for name in found[0]},
        "repeats": repeats,
        "device": str(device),
        "machine": machine(device),
    }
