"""The recipe `vit_b` at its real size: two processes, a kill, a resumed run, evaluation and prediction.

Some 2.5 minutes on two cores that others use as well, and 4 GB in each process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hmr_skel.model.checkpoint import load_network
from hmr_skel.train.log import read_log
from tests.model.test_published import vitpose_shapes
from tests.train.small_run import MANIFEST

TIMEOUT = 1200
STEPS, SAMPLES = 20, 4  # of all processes together


def run(*words: str, **environment: str) -> subprocess.Popen:
    # Two processes on a few cores: threads that wait for one another would take most of the time.
    settings = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "hmr_skel.cli", *words]
    return subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)


def result(*words: str) -> dict:
    """What a command prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "hmr_skel.cli", *words, "--json"], capture_output=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().strip().splitlines()[-1])


def both(line: list[str]) -> list[subprocess.Popen]:
    """The two processes of a run, in the environment that torchrun makes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [run(*line, **world, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]


@pytest.mark.slow
@pytest.mark.extra
def test_vit_b_trains_in_two_processes_is_killed_goes_on_and_serves(samples, open_body_dir, tmp_path):
    # Random weights in the published file's layout.
    torch.manual_seed(0)
    weights = {name: 0.02 * torch.randn(shape) for name, shape in vitpose_shapes(768, 12).items()}
    weights |= {name: torch.ones(768) for name in weights if "norm" in name and name.endswith("weight")}
    torch.save({"state_dict": weights}, tmp_path / "vitpose.pth")
    root = samples.images["near"].root
    manifest, out = tmp_path / "vit_b.toml", tmp_path / "vit_b"
    manifest.write_text(MANIFEST.format(bodies=open_body_dir, near=root))
    where = ["--manifest", str(manifest), "--data", str(samples.path), "--device", "cpu"]
    line = ["train", "--recipe", "vit_b", "--vitpose", str(tmp_path / "vitpose.pth"), "--out", str(out), *where]
    line += ["--workers", "0", "--log-every", "1", "--checkpoint-every", "5"]
    for change in (f"epochs={STEPS * SAMPLES / 12}", f"batch_size={SAMPLES}", "micro_batch=2", "compile=False"):
        line += ["--set", change]

    processes = both(line)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not (lines := read_log(out / "log.jsonl")) or lines[-1]["step"] < 8:
            assert all(process.poll() is None for process in processes)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGKILL)
        _, printed = processes[0].communicate(timeout=TIMEOUT)
        processes[1].communicate(timeout=TIMEOUT)
        assert [process.returncode for process in processes] == [2, -signal.SIGKILL]
        assert "process 0 of 2: another process of the run" in printed

        processes = both(line)
        ends = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ends
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=TIMEOUT)
    steps = read_log(out / "log.jsonl")
    assert [entry["step"] for entry in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    network, info = load_network(out / "network.safetensors")
    assert (info.recipe, info.details["step"], network.config.vit.depth) == ("vit_b", STEPS, 12)
    moved = network.state_dict()["backbone.blocks.11.mlp.fc1.weight"] - weights["blocks.11.mlp.fc1.weight"]
    assert 0 < float(moved.abs().max()) < 0.02

    assert result("evaluate", str(out), *where)
    images = [str(path) for path in sorted(Path(root).glob("*.jpg"))[:2]]
    network_file = ["--network", str(out / "network.safetensors"), "--device", "cpu", "--whole-image", "--focal", "500"]
    found = result("predict", *images, *network_file, "-o", str(tmp_path / "found"), "--no-overlays")
    assert found["people"] == 2
