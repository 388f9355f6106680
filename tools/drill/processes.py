"""A whole `hmr-skel dataset`, as a user would start it, and what its processes hold. Linux only (`/proc`)."""

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self


def flow_command(manifest: Path, out: Path) -> list[str]:
    """The command line."""
    command = [sys.executable, "-m", "hmr_skel.cli", "dataset", "--manifest", str(manifest), "--out", str(out)]
    return [*command, "--device", "cpu"]


def flow_environment(prefect_home: Path) -> dict[str, str]:
    """Ours, with nothing of the user's Prefect in it: its database is in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return kept | {"PREFECT_HOME": str(prefect_home), "DO_NOT_TRACK": "1"}


def children(pid: int) -> list[int]:
    """Process numbers of a process's children; none where it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):  # each thread has its own
            found += map(int, path.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


@dataclass(frozen=True)
class Usage:
    """What some processes hold together."""

    rss_mb: float = 0.0
    """Resident memory. Pages that several share count for each; mapped files are in it as far as they were read."""
    own_mb: float = 0.0
    """Of it, what no file is behind: what would have to be freed."""
    files: float = 0.0
    """Open ones: sockets and pipes too."""
    threads: float = 0.0

    @classmethod
    def of(cls, pids: Iterable[int]) -> Self:
        """Now. A process that is gone holds nothing."""
        return cls(*map(sum, zip(*map(_usage, pids), strict=True))) if (pids := list(pids)) else cls()

    def most(self, other: Self) -> Self:
        """The larger of each figure."""
        return type(self)(*map(max, astuple(self), astuple(other)))


def _usage(pid: int) -> tuple[float, ...]:
    try:
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        status = {name.rstrip(":"): values[0] for name, *values in lines if values}
        memory = [float(status.get(name, 0)) / 1024 for name in ("VmRSS", "RssAnon")]  # a zombie has none
        return (*memory, float(len(os.listdir(f"/proc/{pid}/fd"))), float(status["Threads"]))
    except OSError:
        return (0.0, 0.0, 0.0, 0.0)


def proportional_mb(pids: Iterable[int]) -> float | None:
    """Memory with shared pages shared out among the processes that have them; None where the system does not say."""
    total = 0.0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except ProcessLookupError:
            continue
        except OSError:
            return None
        total += sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024
    return total
