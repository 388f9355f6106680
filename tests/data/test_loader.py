import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from hmr_skel.data.augment import AugmentConfig
from hmr_skel.data.images import ImageRule
from hmr_skel.data.samples import Batch, SampleDataset, batches, ordered_batches
from hmr_skel.data.selection import SampleConfig
from hmr_skel.errors import UserError

FAST = AugmentConfig(degrade_probability=0.0, flip_probability=0.5)


@pytest.fixture
def dataset(sample_set) -> SampleDataset:
    return SampleDataset(sample_set.path, sample_set.images, SampleConfig(augment=FAST))


@pytest.fixture
def own_images(sample_set, tmp_path) -> Path:
    """A copy of the images that may be damaged."""
    shutil.copytree(sample_set.images["near"].root, tmp_path / "images")
    return tmp_path / "images"


def open_with(sample_set, root: Path, **config) -> SampleDataset:
    rules = {name: replace(rule, root=root) for name, rule in sample_set.images.items()}
    return SampleDataset(sample_set.path, rules, SampleConfig(augment=FAST, **config))


def take(stream) -> list[Batch]:
    with stream:
        return list(stream)


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Batch)))


def assert_same(first: Batch, second: Batch) -> None:
    for f in fields(Batch):
        torch.testing.assert_close(getattr(first, f.name), getattr(second, f.name), rtol=0, atol=0, equal_nan=True)


def alive(pids) -> list[int]:
    """Those of the processes that have not ended."""
    there = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            continue
        if state != "Z":
            there.append(pid)
    return there


def children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children()}


def wait_until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_ranks_and_batch_sizes_divide_one_stream(dataset):
    one = joined(take(batches(dataset, 6, seed=3, stop=5)))
    ranks = [take(batches(dataset, 3, seed=3, stop=5, rank=rank, world_size=2)) for rank in range(2)]
    assert_same(joined([batch for pair in zip(*ranks, strict=True) for batch in pair]), one)
    assert_same(joined(take(batches(dataset, 3, seed=3, stop=10))), one)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        batches(dataset, 3, seed=3, rank=2, world_size=2)


def test_resuming_anywhere_goes_on_as_if_nothing_had_happened(dataset):
    undisturbed = take(batches(dataset, 4, seed=1, stop=14))
    for k in (1, 13):  # an epoch is 5 batches
        assert_same(joined(take(batches(dataset, 4, seed=1, start=k, stop=14))), joined(undisturbed[k:]))
    rows = joined(undisturbed).row
    assert sorted(rows[:20].tolist()) == sorted(rows[20:40].tolist()) == list(range(20))
    other = joined(take(batches(dataset, 4, seed=2, stop=14)))
    assert not torch.equal(other.row, rows)


@pytest.mark.usefixtures("forked_workers")
def test_workers_make_no_difference_and_end(dataset):
    before = children()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone = take(batches(dataset, 5, seed=4, start=2, stop=9))
    stream = batches(dataset, 5, seed=4, start=2, stop=9, workers=2)
    first = next(stream)
    workers = children() - before
    assert len(workers) == 2
    assert_same(joined([first, *stream]), joined(alone))
    assert wait_until(lambda: not alive(workers), 300)
    assert torch.equal(torch.get_rng_state(), state)  # the training's own random numbers are untouched


def test_unreadable_images_are_replaced_the_same_way_for_all(sample_set, own_images, caplog):
    for name in ("002.jpg", "011.jpg"):
        (own_images / name).write_bytes(b"no image")
    for name in ("005.jpg", "015.jpg"):
        (own_images / name).unlink()
    dataset = open_with(sample_set, own_images)
    assert "2 of 20 images looked for are not there, such as " in caplog.text
    with batches(dataset, 4, seed=1, stop=20) as stream:
        one = joined(list(stream))
        assert stream.skipped == 4 * 4  # an epoch is 5 batches, and the replacements were readable
    assert not torch.isin(one.row, torch.tensor([2, 5, 11, 15])).any()
    assert len(one) == 80
    named = [record.message for record in caplog.records if record.message.startswith("skipped: ")]
    assert len(named) == 2 + 1  # once per file; of those that are not there one
    assert caplog.text.count("not there; others that are not there are only counted") == 1
    assert any(message.startswith(f"skipped: {own_images / '002.jpg'}: ") for message in named)
    again = joined(take(batches(dataset, 2, seed=1, start=30, stop=40)))
    assert_same(again, one.each(lambda values: values[60:]))


def test_nothing_but_unreadable_images_ends_the_run(sample_set, own_images):
    dataset = open_with(sample_set, own_images)
    for file in own_images.iterdir():
        file.write_bytes(b"")
    with batches(dataset, 2, seed=0) as stream, pytest.raises(UserError, match="9 images in a row are unreadable"):
        next(stream)


def test_evaluation_sees_every_row_once_and_in_order(dataset, own_images, sample_set):
    assert joined(take(ordered_batches(dataset, 8))).row.tolist() == list(range(20))
    for name in ("000.jpg", "001.jpg", "002.jpg"):
        (own_images / name).unlink()
    with ordered_batches(open_with(sample_set, own_images), 3) as stream:
        sizes = [len(batch) for batch in stream]
    assert sizes == [3, 3, 3, 3, 3, 2]  # the whole first batch is missing
    assert stream.skipped == 3


@pytest.mark.usefixtures("forked_workers")
def test_a_workers_mistake_comes_with_its_traceback(sample_set):
    dataset = open_with(sample_set, sample_set.images["near"].root)
    dataset.images["near"] = ImageRule(Path("images"), (("(", ""),))
    with batches(dataset, 2, seed=0, workers=1) as stream:
        with pytest.raises(Exception, match=r"(?s)DataLoader worker.*images.*missing \), unterminated subpattern"):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)


def test_waiting_for_images_has_an_end(sample_set, own_images):
    """A file that never answers, as on a disk that is gone; then a worker that is killed."""
    dataset = open_with(sample_set, own_images)
    for file in own_images.iterdir():
        file.unlink()
        os.mkfifo(file)
    before = children()
    silent = batches(dataset, 2, seed=0, workers=1, timeout=0.5)
    with silent, pytest.raises(UserError, match=r"no batch of images came .*timed out after 0\.5"):
        next(silent)
    assert wait_until(lambda: not children() - before, 300)

    with batches(dataset, 2, seed=0, workers=1, timeout=60.0) as stream:
        (worker,) = children() - before
        threading.Timer(0.5, os.kill, (worker, signal.SIGKILL)).start()  # while the next line waits for it
        with pytest.raises(UserError, match=r"no batch of images came .*fewer workers"):
            next(stream)


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(sample_set, tmp_path):
    """One that is at work, and one that is starting."""
    script = tmp_path / "main.py"
    script.write_text(
        f"""
import multiprocessing, pickle, time
from hmr_skel.data.samples import batches
if __name__ == "__main__":
    dataset = pickle.load(open({str(tmp_path / "set.pickle")!r}, "rb"))
    at_work = batches(dataset, 2, seed=0, workers=1)
    next(at_work), next(at_work)
    starting = batches(dataset, 2, seed=0, workers=1)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""
    )
    dataset = SampleDataset(sample_set.path, sample_set.images, SampleConfig(augment=FAST))
    (tmp_path / "set.pickle").write_bytes(pickle.dumps(dataset))
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as main:
        try:
            workers = [int(pid) for pid in main.stdout.readline().split()]
            assert len(workers) == 2
            assert sorted(alive(workers)) == sorted(workers)
        finally:
            main.kill()
    assert wait_until(lambda: not alive(workers), 60)
