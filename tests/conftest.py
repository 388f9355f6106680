"""Fixtures that more than one part of the tests needs."""

import fcntl
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import jaxtyping
import pytest

os.environ["HMR_SKEL_DATA"] = "data"  # of the working directory, so that a clone's own data stay as they are
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as hmr_skel/cli.py does; before torch is loaded
# Before numpy is: on the small matrices here its threads spend more time on waiting for each other than on the work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Processes with a home of their own, too, find the kernels that are compiled already.
os.environ.setdefault("NUMBA_CACHE_DIR", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))

from tests.skips import pytest_addoption, pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from hmr_skel.convert.fit import Bodies
    from tests.built_dataset import BuiltDataset
    from tests.object_store import ObjectStore

# A busy machine is no failure; the same examples every time, so that a failure is the change's fault.
hypothesis.settings.register_profile("hmr-skel", deadline=None, derandomize=True)
hypothesis.settings.load_profile("hmr-skel")
# A script's background job ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        # Who only shares out the tests need not import torch, for which all would wait.
        import torch

        torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: the last one leaves the other processes without work."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays: collecting garbage need not look at it again."""
    gc.freeze()


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the whole test run: the first of pytest-xdist's workers that asks for it makes it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    directory, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(directory)
            done.touch()
    return directory


@contextmanager
def no_shape_checks() -> Iterator[None]:
    """For tests of many steps: the checks cost three times what is checked, and other tests make them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """For small arrays, whose threads mostly wait for each other, and for sums that must come in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


without_shape_checks = pytest.fixture(no_shape_checks.__wrapped__, name="without_shape_checks")


@pytest.fixture(scope="session")
def bodies_of() -> Callable[..., "Bodies"]:
    """The body models of a folder, loaded and prepared once per test process."""
    from hmr_skel.convert.fit import Bodies

    once = lru_cache(maxsize=None)(Bodies)
    return lambda folder, device="cpu", recipe="default": once(str(folder), str(device), recipe)


@pytest.fixture(scope="package")
def bodies_once(bodies_of) -> Iterator[None]:
    """For packages of tests whose commands would load the same body models again and again."""
    from hmr_skel.convert.fit import Bodies

    original = Bodies.__init__

    def take_over(self: Bodies, *arguments, **options) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bodies, "__init__", original)
            vars(self).update(vars(bodies_of(*arguments, **options)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bodies, "__init__", take_over)
        yield


@pytest.fixture(scope="session")
def forks() -> BaseContext:
    """Starts processes that are forks of one that has imported torch and ours, and has not computed anything."""
    context = multiprocessing.get_context("forkserver")
    modules = ["tests.train.small_run", "hmr_skel.commands.train", "hmr_skel.open_data.images", "torch._dynamo"]
    context.set_forkserver_preload(modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


@pytest.fixture
def forked_workers(forks: BaseContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a loader's workers, where it does not matter how they start: importing torch takes longer than their work."""
    from torch.utils.data import DataLoader

    from hmr_skel.data import samples

    def started(*args, num_workers: int, **options) -> "DataLoader":
        context = options | {"multiprocessing_context": forks if num_workers else None}
        return DataLoader(*args, num_workers=num_workers, **context)

    monkeypatch.setattr(samples, "DataLoader", started)


@pytest.fixture(scope="session")
def open_body_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The open body's model files. Read only."""
    from flows.sources import make_open_body

    return _made_once(tmp_path_factory, "open_body", lambda folder: make_open_body(folder, quiet=True))


@pytest.fixture(scope="session")
def built_dataset(tmp_path_factory: pytest.TempPathFactory, open_body_dir: Path) -> "BuiltDataset":
    """A dataset as the commands build it, with images: see `built_dataset.py`. Read only."""
    from tests.built_dataset import BuiltDataset, build_dataset

    return BuiltDataset(_made_once(tmp_path_factory, "built", lambda root: build_dataset(root, open_body_dir)))


@pytest.fixture(scope="session")
def object_store_server() -> Iterator["ObjectStore"]:
    """A local S3 server, with credentials in the environment that it takes."""
    from tests.object_store import SECRET, serving

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # nothing but the server is asked
        with serving() as store:
            yield store


@pytest.fixture
def object_store(
    object_store_server: "ObjectStore", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator["ObjectStore"]:
    """The server, and a folder of this machine's own for what goes with datasets in it."""
    monkeypatch.setenv("HMR_SKEL_DATA", str(tmp_path / "here"))
    yield object_store_server
    object_store_server.refuse = lambda method, path: False
