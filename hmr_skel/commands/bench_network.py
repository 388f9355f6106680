"""`hmr-skel bench train` and `bench predict`: how fast the network learns and answers here."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.errors import UserError

TRAIN = """\
Time training steps of a recipe on made-up samples: images per second, the share of the device's peak that the network's
matrix products reach (MFU), and memory. No dataset is needed; weights start at random. The loader is not timed."""

PREDICT = """\
Time one image from file to body: decoding, the camera's field of view (HumanFoV), the crop, the network, and SKEL's
skin and skeleton. Milliseconds, medians. Weights are random unless --network names a file; no matter for the time."""


def add_commands(actions: argparse._SubParsersAction, count: Callable[[str], int]) -> None:
    """Add `train` and `predict` to `bench`."""

    def add(name: str, short: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=short, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        action.add_argument("--recipe", default="vit_h", metavar="NAME", help="tiny, vit_b or vit_h (default: vit_h)")
        action.add_argument(
            "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field, see `hmr-skel train -h`"
        )
        action.add_argument(
            "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="body models (default: %(default)s)"
        )
        action.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
        action.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
        action.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
        return action

    train = add("train", "images/s, MFU and memory of training", TRAIN)
    train.add_argument("--steps", type=count, default=10, help="timed, after three others (default: %(default)s)")
    train.set_defaults(run=run_train)
    predict = add("predict", "time of one image from file to body", PREDICT)
    predict.add_argument("--image", type=Path, metavar="FILE", help="default: noise of 1280 x 960 px")
    predict.add_argument("--network", type=Path, metavar="FILE", help="network.safetensors (default: random weights)")
    predict.add_argument("--repeats", type=count, default=10, help="after one other (default: %(default)s)")
    predict.set_defaults(run=run_predict)


def run_train(args: argparse.Namespace) -> None:
    """Measure and print."""
    from fitting.machine import machine, peak_memory_mb
    from hmr_skel.commands.bench import Bars
    from hmr_skel.device import resolve_device
    from hmr_skel.train.bench import bench_training
    from hmr_skel.train.recipes import load_recipe

    device = resolve_device(args.device)
    recipe = load_recipe(args.recipe, args.set)
    body = _body(args, recipe.skel_gender, device)
    with Bars(args.quiet) as bars:
        report = bench_training(
            recipe, body, device, steps=args.steps, progress=lambda done, total: bars("steps", done, total)
        )
    report |= {"memory_mb": peak_memory_mb(device), "device": str(device), "machine": machine(device)}
    if not args.quiet:
        print(
            f"{recipe.name} on {device}: {report['images_per_s']:.1f} images/s at batch {report['batch']}, "
            f"MFU {100 * report['mfu']:.1f} % of {report['peak_tflop_per_s']:.3g} TFLOP/s ({report['peak_source']}), "
            f"{report['memory_mb']:,.0f} MB"
        )
    if args.json:
        print(json.dumps(report))


def run_predict(args: argparse.Namespace) -> None:
    """Measure and print."""
    import cv2
    import numpy as np
    import torch

    from fitting.machine import machine
    from hmr_skel.data.crop import box_affine, crop_image, decode
    from hmr_skel.device import resolve_device
    from hmr_skel.model.camera import CropGeometry
    from hmr_skel.model.checkpoint import load_network
    from hmr_skel.model.fov import HumanFov
    from hmr_skel.model.network import Network
    from hmr_skel.train.recipes import load_recipe

    device = resolve_device(args.device)
    recipe = load_recipe(args.recipe, args.set)
    network = Network(recipe.network) if args.network is None else load_network(args.network)[0]
    network, fov = network.to(device).eval(), HumanFov().to(device)
    skel = _body(args, recipe.skel_gender, device).skel
    if args.image is not None and not args.image.is_file():
        raise UserError(f"no image {args.image}.")
    noise = np.random.default_rng(0).integers(0, 256, (960, 1280, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes() if args.image is None else args.image.read_bytes()

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32))[None].to(device)

    @torch.no_grad()
    def once() -> dict[str, float]:
        clock = _Clock(device)
        image = decode(data, shrink=1.0)[0][..., ::-1]
        clock.lap("decode")
        intrinsics = fov.intrinsics(np.ascontiguousarray(image))
        clock.lap("field_of_view")
        center, side = np.array(image.shape[1::-1]) / 2, 0.8 * max(image.shape[:2])
        affine = box_affine(center, side)
        crop = torch.from_numpy(np.ascontiguousarray(crop_image(image, affine).transpose(2, 0, 1)))[None].to(device)
        geometry = CropGeometry(tensor(center), tensor(np.array(side)), tensor(intrinsics), tensor(affine))
        clock.lap("crop")
        params = network(crop, geometry, bf16=recipe.bf16 and device.type == "cuda").skel_params()
        clock.lap("network")
        skel(params.q, params.betas, params.transl, skeleton=True)
        clock.lap("body")
        return clock.laps

    found = [once() for _ in range(args.repeats + 1)][1:]
    parts = {name: 1000 * float(np.median([laps[name] for laps in found])) for name in found[0]}
    total = 1000 * float(np.median([sum(laps.values()) for laps in found]))
    report = {
        "recipe": recipe.name,
        "image_ms": total,
        "parts_ms": parts,
        "repeats": args.repeats,
        "device": str(device),
        "machine": machine(device),
    }
    if not args.quiet:
        listed = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in parts.items())
        print(f"{recipe.name} on {device}: {total:.1f} ms an image ({listed})")
    if args.json:
        print(json.dumps(report))


class _Clock:
    """Seconds between laps, the device's work included."""

    def __init__(self, device) -> None:
        self.device, self.laps = device, {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def _body(args: argparse.Namespace, gender: str, device):
    from flows.sources import make_missing
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.model.keypoints import SkelKeypoints

    manifest = load_manifest(args.manifest)
    if manifest.body_models.kind == "open":
        make_missing(manifest, quiet=True)
    return SkelKeypoints.load(manifest.body_models.path, gender, device)
