"""Runs end alike whatever happens to them on the way, and however many processes share the work."""

import os
import re
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from hmr_skel.cli import main
from hmr_skel.errors import UserError
from hmr_skel.model.checkpoint import load_network
from hmr_skel.train import loop
from hmr_skel.train.log import read_log
from hmr_skel.train.loop import train
from hmr_skel.train.recipes import differences, recipe_dict
from hmr_skel.train.state import last_state, load_state
from tests.conftest import no_shape_checks, torch_threads
from tests.train.small_run import (
    command,
    killed_as_it_writes_its_state,
    run_printing_into,
    small_recipe,
    small_run,
    weights,
)

pytestmark = pytest.mark.usefixtures("without_shape_checks")
TIMEOUT = 300


@pytest.fixture(scope="module")
def undisturbed(samples, open_body_dir, tmp_path_factory) -> Path:
    """A run of 12 steps. One thread: sums in another order are other sums."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    with no_shape_checks(), torch_threads(1):
        outcome = train(small_recipe(), small_run(samples, open_body_dir, out))
    assert (outcome.steps, outcome.skipped_steps, outcome.skipped_samples) == (12, 0, 0)
    return out


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def start(samples, open_body_dir, forks) -> Callable[..., BaseProcess]:
    """Starts the command in a process of its own, which writes what it prints into a file beside the run."""

    def begin(out: Path, *more: str, target: Callable = run_printing_into, **environment: str) -> BaseProcess:
        line = command(samples, open_body_dir, out, *more)
        process = forks.Process(target=target, args=(printed_by(out), line, environment))
        process.start()
        return process

    return begin


def printed_by(out: Path) -> Path:
    return out.with_suffix(".txt")


@pytest.mark.slow
def test_killed_and_stopped_in_the_middle_it_ends_with_the_same_weights(
    samples, open_body_dir, undisturbed, start, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "disturbed"
    killed = start(out, "--checkpoint-every", "3", target=partial(killed_as_it_writes_its_state, 1))
    killed.join(TIMEOUT)
    assert killed.exitcode == -signal.SIGKILL, printed_by(out).read_text()
    at = load_state(out / "state.pt").step
    assert at == 3
    assert list(out.glob(".*"))  # half of the state after step 6

    (out / "log.jsonl").rename(out / "log-of-the-killed.jsonl")  # whose last lines have been lost with it
    lines = read_log(out / "log-of-the-killed.jsonl")[:at]
    real = loop.accumulate_gradient

    def stops(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    with monkeypatch.context() as patch, torch_threads(1):
        patch.setattr(loop, "accumulate_gradient", stops)
        with pytest.raises(SystemExit, match="143"):
            train(small_recipe(), small_run(samples, open_body_dir, out, quiet=False))
    text = capsys.readouterr().out
    assert f"resuming after step {at} of 12" in text
    assert "run the same command again to resume" in text
    assert load_state(out / "state.pt").step == at + 1

    with torch_threads(1):
        train(small_recipe(), small_run(samples, open_body_dir, out))
    assert same_weights(out, undisturbed)
    ours, theirs = lines + read_log(out / "log.jsonl"), read_log(undisturbed / "log.jsonl")
    assert [line["step"] for line in ours] == list(range(1, 13))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    assert not list(out.glob(".*"))  # what the killed process was writing has been cleared away


def test_the_network_is_the_mean_of_the_weights_and_the_state_goes_on(undisturbed):
    state = load_state(undisturbed / "state.pt")
    network, info = load_network(undisturbed / "network.safetensors")
    assert (info.recipe, info.skel_gender, info.details["step"]) == ("tiny", "male", 12)
    assert not differences(info.details["recipe_fields"], recipe_dict(small_recipe()))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, state.ema[name], rtol=0, atol=0)
    assert any((state.ema[name] - state.model[name]).abs().max() > 1e-6 for name in state.ema)


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(samples, open_body_dir, start, tmp_path, monkeypatch, capsys):
    """The first of them is this one. The environment is what torchrun makes of it."""
    plain = ["--set", "network.vit.drop_path=0.0", "--set", "epochs=1", "--set", "micro_batch=2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    out = tmp_path / "two"
    second = start(out, *plain, **world, RANK="1", LOCAL_RANK="1")
    try:
        with monkeypatch.context() as patch:
            patch.setattr("hmr_skel.train.distributed.TIMEOUT", timedelta(seconds=TIMEOUT))
            patch.setattr("hmr_skel.train.log.plot_log", lambda log, picture: True)  # its test is test_commands.py's
            for name, value in (world | {"RANK": "0", "LOCAL_RANK": "0"}).items():
                patch.setenv(name, value)
            assert main(command(samples, open_body_dir, out, *plain)) == 0
        second.join(TIMEOUT)
    finally:
        second.kill()
    assert (second.exitcode, printed_by(out).read_text()) == (0, "")  # one process speaks
    printed = capsys.readouterr().out
    assert "(2 x 1 x 2)" in printed
    assert printed.count("recipe tiny") == 1
    recipe = small_recipe("network.vit.drop_path=0.0", "epochs=1")
    train(recipe, small_run(samples, open_body_dir, tmp_path / "one"))
    one, two = (read_log(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-3)
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    # AdamW makes a step of any gradient, of one that is rounding too: single weights may differ, not their whole.
    one, two = (torch.cat([found[name].flatten() for name in ours]) for found in (ours, theirs))
    assert (one - two).norm() <= 1e-3 * one.norm()


@pytest.fixture
def spoil(monkeypatch):
    """Make the gradients of some steps NaN."""

    def at(steps) -> None:
        real, calls = loop.accumulate_gradient, iter(range(1000))

        def spoilt(forward, *args):
            losses = real(forward, *args)
            if next(calls) in steps:
                next(forward.parameters()).grad.fill_(float("nan"))
            return losses

        monkeypatch.setattr(loop, "accumulate_gradient", spoilt)

    return at


def test_a_step_without_a_finite_gradient_changes_nothing_and_is_counted(samples, open_body_dir, tmp_path, spoil):
    spoil({2})
    outcome = train(small_recipe("epochs=1"), small_run(samples, open_body_dir, tmp_path))  # 3 steps
    assert outcome.skipped_steps == 1
    spoilt, last = load_state(tmp_path / "state.pt"), read_log(tmp_path / "log.jsonl")[-1]
    assert (spoilt.step, spoilt.skipped_steps) == (3, 1)
    assert all(tensor.isfinite().all() for tensor in spoilt.model.values())
    assert {entry["step"].item() for entry in spoilt.optimizer["state"].values()} == {2.0}
    assert last["skipped_steps"] == 1
    assert "loss" not in last


def test_a_run_that_has_diverged_ends(samples, open_body_dir, tmp_path, spoil, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPPED_IN_A_ROW", 2)
    spoil(range(1000))
    with pytest.raises(UserError, match=r"no finite gradient in 2 steps .* learning_rate"):
        train(small_recipe(), small_run(samples, open_body_dir, tmp_path / "diverged"))


@pytest.mark.parametrize(
    ("coarse", "final", "said"),
    [
        ({"coarse/keypoints_3d": 10.0}, 9.8, r"coarse 10, final 9.8 \(-2.0%\); .* next to nothing .*docs/network.md"),
        ({"coarse/keypoints_3d": 10.0}, 10.5, r"coarse 10, final 10.5 \(\+5.0%\); .* next to nothing"),
        ({"coarse/keypoints_3d": 10.0}, 9.6, r"coarse 10, final 9.6 \(-4.0%\)\n"),
        ({}, 9.6, r"unreadable images\nnetwork: "),
    ],
)
def test_a_run_ends_with_what_the_decoder_adds(coarse, final, said):
    losses = {"loss": 1.0, "final/keypoints_3d": final, **coarse}
    text = loop.Outcome(Path("n.safetensors"), 1, 0, 0, 1.0, 1.0, 0.1, losses).text()
    assert re.search(said, text), text


def test_the_state_of_another_recipe_or_dataset_is_refused(samples, open_body_dir, undisturbed):
    with pytest.raises(UserError, match=r"another run .*losses\.refine: 1\.0, 0\.2.*--fresh"):
        train(small_recipe("losses.refine=0.2"), small_run(samples, open_body_dir, undisturbed))
    with pytest.raises(UserError, match=r"rows of the dataset: 12, 20"):
        last_state(undisturbed / "state.pt", small_recipe(), 20)


def test_what_a_recipe_needs_is_asked_for_before_any_step(samples, open_body_dir, tmp_path):
    run = small_run(samples, open_body_dir, tmp_path / "run")
    with pytest.raises(UserError, match=r"ViTPose's encoder.*--vitpose"):
        train(small_recipe("pretrained_encoder=true"), run)
    with pytest.raises(UserError, match=r"male SKEL bodies.*--set skel_gender=male"):
        train(small_recipe("skel_gender=female"), run)
    with pytest.raises(UserError, match=r"batch of 4 .* micro batches of 3 .* multiple of 3"):
        train(small_recipe("micro_batch=3"), run)
    assert not list(tmp_path.glob("run/*.pt"))


@pytest.mark.usefixtures("forked_workers")
def test_threads_and_workers_make_no_difference(samples, open_body_dir, tmp_path):
    """But for rounding: micro batches side by side, or in turn on one thread; samples by a worker or not. Without
    stochastic depth, which is drawn for each micro batch."""
    recipe = small_recipe("network.vit.drop_path=0.0", "epochs=1", "micro_batch=2")
    for threads in (1, 2):
        with torch_threads(threads):
            train(recipe, small_run(samples, open_body_dir, tmp_path / f"{threads}", workers=threads - 1))
    one, two = (read_log(tmp_path / f"{threads}" / "log.jsonl") for threads in (1, 2))
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
