"""A run of seconds: a few pictures of noise, a recipe that is tiny's with everything small, and a manifest for both."""

import os
import signal
import sys
from itertools import count
from pathlib import Path

import torch

from hmr_skel.cli import main
from hmr_skel.model.checkpoint import load_network
from hmr_skel.train import state
from hmr_skel.train.loop import Run
from hmr_skel.train.recipes import Recipe, load_recipe
from tests.data.sample_set import SampleSet

CHANGES = (
    "network.vit.width=32", "network.vit.depth=1", "network.vit.heads=2", "network.vit.stem_tokens=2",
    "network.vit.drop_path=0.3", "network.decoder.depth=2", "network.decoder.heads=2", "network.decoder.head_width=8",
    "network.decoder.hidden=32", "network.head_hidden=16", "network.correction=16",
    "epochs=4", "batch_size=4", "micro_batch=4", "ema_tau=5.0",
)  # fmt: skip
"""Of 12 rows: 12 steps of 4. Stochastic depth is on: it is what draws random numbers."""

MANIFEST = """
name = "test"
skel_gender = "male"
rows_per_shard = 12
[body_models]
kind = "files"
path = "{bodies}"
[[sources]]
name = "near"
format = "hsmr"
file = "nowhere.npz"
image_root = "{near}"
[[sources]]
name = "far"
format = "hsmr"
file = "nowhere.npz"
image_root = "{near}"
image_path = [["^", "far-"], ["$", ".jpg"]]
"""


def small_recipe(*more: str) -> Recipe:
    return load_recipe("tiny", [*CHANGES, *more])


def small_run(samples: SampleSet, bodies: Path, out: Path, **options) -> Run:
    options = {"workers": 0, "device": "cpu", "log_every": 1, "quiet": True} | options
    return Run(dataset=samples.path, images=samples.images, body_models=bodies, out=out, **options)


def command(samples: SampleSet, bodies: Path, out: Path, *more: str) -> list[str]:
    """The same on the command line; writes the manifest beside the run."""
    manifest = out.with_suffix(".toml")
    manifest.write_text(MANIFEST.format(bodies=bodies, near=samples.images["near"].root))
    changes = [word for change in CHANGES for word in ("--set", change)]
    fixed = ["--workers", "0", "--device", "cpu", "--log-every", "1"]
    where = ["--manifest", str(manifest), "--data", str(samples.path), "--out", str(out)]
    return ["train", *changes, *fixed, *where, *more]


def run_printing_into(file: Path, line: list[str], environment: dict[str, str]) -> None:
    """For a process of its own: run a command, and end with its exit status."""
    with file.open("w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)  # not as the server was set that forked this process: another test may have started it
    sys.exit(main(line))


def killed_as_it_writes_its_state(number: int, *arguments) -> None:
    """`run_printing_into`, whose process is killed with that writing (from 0) half done."""
    real, numbers = state.torch.save, count()

    def save(content: dict, file: Path) -> None:
        if next(numbers) == number:
            file.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        real(content, file)

    state.torch.save = save  # the process has no other use
    run_printing_into(*arguments)


def weights(out: Path) -> dict:
    return load_network(out / "network.safetensors")[0].state_dict()
