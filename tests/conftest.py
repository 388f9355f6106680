"""Fixtures that more than one part of the tests needs."""

import fcntl
import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as hmr_skel/cli.py does; before torch is loaded

import torch

# A busy machine is no failure; the same examples every time, so that a failure is the change's fault.
hypothesis.settings.register_profile("hmr-skel", deadline=None, derandomize=True)
hypothesis.settings.load_profile("hmr-skel")
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def open_body_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The open body's model files, exported once per test run (workers of pytest-xdist share them). Read only."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    directory, done = base / "open_body", base / "open_body.done"
    with (base / "open_body.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            from hmr_skel.body.open_body.export import export_body

            export_body(directory)
            done.touch()
    return directory
