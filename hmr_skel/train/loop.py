"""The training run, top to bottom.

A run is a recipe and a folder. The same call resumes from the last state in the folder and ends with the weights of an
uninterrupted run: on a CPU with the same bits (for the same number of threads).
"""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from hmr_skel.data.images import ImageRule
from hmr_skel.data.samples import SampleDataset, batches
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError
from hmr_skel.evaluate.held_out import mean_body
from hmr_skel.model.checkpoint import NetworkInfo, load_mean, save_network
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Network
from hmr_skel.model.published import load_vitpose
from hmr_skel.train.distributed import Group, process_group
from hmr_skel.train.flops import peak_flops_per_s, training_flops
from hmr_skel.train.log import RunLog
from hmr_skel.train.optimizer import Ema, ema_decay, learning_rate_factor, new_optimizer
from hmr_skel.train.recipes import Recipe, recipe_dict, recipe_text
from hmr_skel.train.state import State, last_state, save_state
from hmr_skel.train.step import accumulate_gradient, side_by_side

STATE, NETWORK = "state.pt", "network.safetensors"
"""The files in a run's folder: the state for resuming, and the averaged weights."""
MOST_SKIPPED_IN_A_ROW = 50
"""A run fails after this number of steps without a finite gradient."""
LITTLE_GAIN = 0.03
"""A decoder that lowers the error of the 3D keypoints by a smaller share is said to add next to nothing."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The places and the device of a run. Except for rounding, the result does not depend on these."""

    dataset: Place
    """The folder with `data/` in it, or its URI."""
    body_models: Path
    """The folder with the SKEL files."""
    images: Mapping[str, ImageRule]
    """The places of each source's images."""
    out: Path
    """The run's folder."""
    vitpose: Path | None = None
    """The file of ViTPose's encoder, for recipes that start from it."""
    device: str = "auto"
    workers: int | None = None
    """Processes that make samples for each training process; 0: none; None: by the number of cores."""
    checkpoint_every: int = 500
    """Steps."""
    log_every: int = 10
    """Steps."""
    fresh: bool = False
    """Start from the beginning, even if the folder has a state."""
    quiet: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    network: Path
    steps: int
    skipped_steps: int
    skipped_samples: int
    seconds: float
    images_per_s: float
    mfu: float
    losses: dict[str, float]
    """The unweighted losses of the last logged steps."""

    def text(self) -> str:
        """Lines for the terminal."""
        speed = f", {self.images_per_s:.1f} images/s, MFU {100 * self.mfu:.1f} %" if self.images_per_s else ""
        loss = f", loss {self.losses['loss']:.4g}" if self.losses else ""
        return (
            f"{self.steps:,} steps in {tqdm.format_interval(self.seconds)}{speed}{loss}; skipped: "
            f"{self.skipped_steps:,} steps without a finite gradient, {self.skipped_samples:,} unreadable images\n"
            f"{self._refinement()}network: {self.network}"
        )

    def _refinement(self) -> str:
        """A line on what the decoder takes off the coarse estimate's error; nothing where there is no such estimate."""
        stages = {"coarse": "coarse", "after the decoder": "decoded", "final": "final"}
        found = {name: self.losses.get(f"{stage}/keypoints_3d") for name, stage in stages.items()}
        coarse, final = found["coarse"], found["final"]
        if not coarse or final is None:
            return ""
        said = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if value is not None)
        gain = 1 - final / coarse
        little = "; the decoder adds next to nothing here, see docs/network.md" if gain < LITTLE_GAIN else ""
        return f"3D keypoints (m, sum) in the end: {said} ({-gain:+.1%}){little}\n"


def train(recipe: Recipe, run: Run) -> Outcome | None:
    """Train until the recipe's last step. Of several processes only the first returns an outcome.

    Raises:
        UserError: a file is missing or does not fit, or nearly no step has a finite gradient.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM stopped the run; the state is saved.
    """
    with ExitStack() as stack:
        group = stack.enter_context(process_group(run.device))
        device = group.device
        accumulate = recipe.accumulate(group.size)

        def say(text: str) -> None:
            if group.first and not run.quiet:
                print(text, flush=True)

        # The first process goes first, since it may have to unpack the dataset's rows.
        if not group.first:
            group.wait()
        dataset = SampleDataset(run.dataset, run.images, recipe.samples, split="train", quiet=run.quiet)
        if group.first:
            group.wait()
        if dataset.gender != recipe.skel_gender:
            raise UserError(
                f"{run.dataset} has {dataset.gender} SKEL bodies, the recipe {recipe.name!r} is for "
                f"{recipe.skel_gender} ones. Use --set skel_gender={dataset.gender}, or a dataset of that gender."
            )
        steps, warmup = recipe.steps(len(dataset)), recipe.warmup_steps(len(dataset))
        body = SkelKeypoints.load(run.body_models, recipe.skel_gender, device)
        state = None if run.fresh else last_state(run.out / STATE, recipe, len(dataset))
        network = new_network(recipe, run, pretrained=recipe.pretrained_encoder and state is None).to(device).train()
        optimizer = new_optimizer(recipe, network)
        ema = Ema(network)
        start = skipped_steps = samples_before = 0
        seconds_before = 0.0
        if state is not None:
            start, skipped_steps, samples_before = state.step, state.skipped_steps, state.skipped_samples
            seconds_before = state.seconds
            try:
                network.load_state_dict(state.model)
                ema.load(state.ema)
                optimizer.load_state_dict(state.optimizer)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{run.out / STATE}: does not fit the network ({error}). Start afresh with --fresh."
                ) from error
        flops_per_image = training_flops(network)
        if recipe.compile:
            network.backbone.compile()
        forward = network if group.size == 1 else DistributedDataParallel(network, gradient_as_bucket_view=True)
        workers = default_workers(group) if run.workers is None else run.workers
        peak, peak_source = peak_flops_per_s(device, recipe.bf16)
        mfu_of_rate = flops_per_image / (peak * group.size)

        parameters = sum(p.numel() for p in network.parameters())
        say(recipe_text(recipe))
        say(
            f"{dataset}: {steps:,} steps of {recipe.batch_size} samples ({group.size} x {accumulate} x "
            f"{recipe.micro_batch}) on {device}; {parameters / 1e6:.1f} M parameters, "
            f"{flops_per_image / 1e9:.1f} GFLOP per image; MFU is relative to {peak / 1e12:.3g} TFLOP/s ({peak_source})"
        )
        if start:
            say(f"resuming after step {start:,} of {steps:,}")

        stream = stack.enter_context(
            batches(
                dataset, recipe.micro_batch, seed=recipe.seed, start=start * accumulate, stop=steps * accumulate,
                rank=group.rank, world_size=group.size, workers=workers, pin_memory=device.type == "cuda",
                ahead=accumulate,
            )
        )  # fmt: skip
        log = stack.enter_context(RunLog(run.out, start, steps, recipe.batch_size, group.first, run.quiet))
        threads = stack.enter_context(side_by_side(forward, accumulate, recipe, device))
        stop = stack.enter_context(StopSignal())
        begin = time.perf_counter()
        skipped_in_a_row = 0

        def save(step: int) -> None:
            if not group.first:
                return
            spent = seconds_before + time.perf_counter() - begin
            skipped_samples = samples_before + stream.skipped
            plain = recipe_dict(recipe)
            details = {"step": step, "steps": steps, "rows": len(dataset), "recipe_fields": plain}
            info = NetworkInfo(skel_gender=recipe.skel_gender, recipe=recipe.name, details=details)
            save_network(run.out / NETWORK, network, info, weights=ema.weights)
            counts = step, skipped_steps, skipped_samples, spent, plain, len(dataset)
            save_state(run.out / STATE, State(*counts, network.state_dict(), ema.weights, optimizer.state_dict()))

        for step in range(start, steps):
            # Only stochastic depth draws random numbers here, so this seed is all the random state.
            torch.manual_seed(random_seed(recipe.seed, step, group.rank))
            rate = recipe.learning_rate * learning_rate_factor(step, steps, warmup, recipe.schedule)
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate

            losses = accumulate_gradient(forward, body, stream, accumulate, recipe, device, threads)
            # All processes have the same gradient, and so take the same decision.
            norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            if torch.isfinite(norm):
                skipped_in_a_row = 0
                optimizer.step()
                ema.update(network, ema_decay(step + 1 - skipped_steps, recipe.ema_decay, recipe.ema_tau))
                log.add({**losses, "gradient_norm": norm})
            else:
                skipped_steps += 1
                skipped_in_a_row += 1
            optimizer.zero_grad()
            if skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
                raise UserError(
                    f"no finite gradient in {skipped_in_a_row} steps up to step {step + 1:,}: the run has diverged. "
                    "Lower learning_rate (--set), and start afresh (--fresh)."
                )

            done = step + 1
            log.advance()
            if done % run.log_every == 0 or done == steps:
                epoch = done * recipe.batch_size / len(dataset)
                more = {"epoch": epoch, "learning_rate": rate, "skipped_steps": skipped_steps}
                log.write(done, group, mfu_of_rate, more)
            stopped = group.any(stop.signalled)
            if done % run.checkpoint_every == 0 or done == steps or stopped:
                save(done)
            if stopped and done < steps:
                say(f"stopped after step {done:,} of {steps:,}; run the same command again to resume")
                stop.leave()
        if not group.first:
            return None
        return Outcome(
            network=run.out / NETWORK,
            steps=steps,
            skipped_steps=skipped_steps,
            skipped_samples=samples_before + stream.skipped,
            seconds=seconds_before + time.perf_counter() - begin,
            images_per_s=log.images_per_s,
            mfu=log.images_per_s * mfu_of_rate,
            losses=log.last,
        )


def new_network(recipe: Recipe, run: Run, pretrained: bool) -> Network:
    """The network at step 0, which depends only on the recipe's seed and the files that it starts from."""
    torch.manual_seed(recipe.seed)
    network = Network(recipe.network, **_mean(recipe, run), activation_checkpointing=recipe.activation_checkpointing)
    if pretrained:
        load_vitpose(network.backbone, encoder_file(recipe, run.vitpose))
    return network


def encoder_file(recipe: Recipe, vitpose: Path | None) -> Path:
    """The file of the encoder that a recipe starts from. Raises `UserError` if it is not named or missing."""
    if vitpose is None or not vitpose.is_file():
        found = "Give its file with" if vitpose is None else f"There is no {vitpose}. Give another file with"
        raise UserError(
            f"the recipe {recipe.name!r} starts from ViTPose's encoder. {found} --vitpose "
            "vitpose_backbone.pth, or start from random weights with --set pretrained_encoder=false."
        )
    return vitpose


def random_seed(seed: int, step: int, rank: int) -> int:
    """A different seed for every step of every process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


def default_workers(group: Group) -> int:
    """The number of loader processes per training process: on a GPU its share of the cores, on a CPU one."""
    cores = (os.cpu_count() or 1) // group.size
    return min(8, max(1, cores - 1)) if group.device.type == "cuda" else int(cores > 1)


def _mean(recipe: Recipe, run: Run) -> dict[str, Any]:
    """The mean body of the recipe, as arguments of `Network`; empty for HSMR's numbers."""
    if recipe.mean == "dataset":
        mean = mean_body(run.dataset)
        return {"mean_q": mean.q.tolist(), "mean_betas": mean.betas.tolist()}
    published = run.body_models / "SKEL_mean.npz"
    return load_mean(published) if published.is_file() else {}


class StopSignal:
    """Inside the `with` block, the first signal only sets a flag; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.signalled = False
        self._number = 0
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self) -> None:
        """End the process as the signal requires: KeyboardInterrupt for Ctrl-C, else exit status 143."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signalled, self._number = True, number
