"""`make serve`, once for all tests of a run: those of all workers of pytest-xdist share it."""

import fcntl
import json
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.server import free_port
from tests.flows.processes import ROOT, TIMEOUT_S, hmr_skel, prefect_home, processes_with, running, wait_until


@dataclass(frozen=True)
class Served:
    """A running `make serve`."""

    folder: Path
    """That it runs in, which is like the repository's root; the home of its processes."""
    url: str
    """Of its API."""
    password: str

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log"

    @property
    def database(self) -> Path:
        """Prefect's."""
        return prefect_home(self.folder) / "prefect.db"


@contextmanager
def serving(base: Path) -> Iterator[Served]:
    """One in a new folder of `base`. Once told to end, it leaves no process, no file and no warning of Python's."""
    folder = Path(tempfile.mkdtemp(prefix="served-", dir=base))
    data, log = folder / "data", folder / "log"
    (folder / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")  # it enables the plugin
    with running(hmr_skel("serve", "--port", str(free_port())), folder, log, folder) as process:
        wait_until(lambda: "is being served" in log.read_text(), process, log)
        url, password = ((data / name).read_text() for name in (".prefect-api-url", ".prefect-password"))
        yield Served(folder, url, password)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0, log.read_text()
    assert processes_with(folder) == []
    assert list(data.iterdir()) == []
    assert "Warning" not in log.read_text(), log.read_text()


@contextmanager
def shared(base: Path) -> Iterator[Served]:
    """The one of this folder. Who comes first starts it, and stops it when all others have left."""
    note = base / "served.json"
    with (base / "users.lock").open("w") as users, (base / "change.lock").open("w") as change, ExitStack() as own:
        fcntl.flock(change, fcntl.LOCK_EX)
        first = not note.exists()
        if first:
            served = own.enter_context(serving(base))
            note.write_text(json.dumps([str(served.folder), served.url, served.password]))
        else:
            folder, *values = json.loads(note.read_text())
            served = Served(Path(folder), *values)
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(change, fcntl.LOCK_UN)
        try:
            yield served
        finally:
            if first:
                fcntl.flock(change, fcntl.LOCK_EX)
                fcntl.flock(users, fcntl.LOCK_EX)
                note.unlink()
