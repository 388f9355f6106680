"""Starting our commands as a user would, away from the user's Prefect, and ending them for sure."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900.0
"""Against hanging, also beside other work: ten seconds or so are usual."""


def environment(home: Path) -> dict[str, str]:
    """The environment of a newcomer: a home of its own, nothing of Prefect configured, no telemetry.

    Prefect's database alone is shared by all tests of a run: making one takes longer than what is tested.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "HMR_SKEL", "PYTEST"))}
    own = {"HOME": str(home), "HMR_SKEL_DATA": "data", "PREFECT_HOME": str(prefect_home(home)), "DO_NOT_TRACK": "1"}
    return kept | own | {"OMP_NUM_THREADS": "1"}  # as in conftest.py


def prefect_home(home: Path) -> Path:
    """Of the test whose folder is `home`: beside those of all tests, and of all workers of pytest-xdist."""
    base = home.parent.parent if home.parent.name.startswith("popen-") else home.parent
    return base / "prefect"


def hmr_skel(*arguments: str) -> list[str]:
    """The command line of `hmr-skel`."""
    return [sys.executable, "-m", "hmr_skel.cli", *arguments]


def wait_until(there: Callable[[], object], alive: subprocess.Popen, log: Path) -> None:
    """Until something is there, as long as the process that is to bring it about lives."""
    deadline = time.monotonic() + TIMEOUT_S
    while not there():
        assert alive.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def run(
    command: Sequence[str], home: Path, cwd: Path = ROOT, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end, with `extra` in the environment."""
    return subprocess.run(
        command,
        env=environment(home) | dict(extra or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def running(
    command: Sequence[str], home: Path, log: Path, cwd: Path = ROOT, extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """A process whose output goes to `log`; killed at the end, should it still be there."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            env=environment(home) | dict(extra or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=30)


def processes_with(home: Path) -> list[str]:
    """Command lines of living processes that have `home` as HOME: whatever `running` left behind. Linux only."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone, or somebody else's
            continue
    return [command for command in found if command.strip()]
