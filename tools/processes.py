"""Find child processes and their memory. Linux only (`/proc`)."""

import contextlib
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """The process numbers of a process's children, their children, and so on; empty if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):  # each thread has its own
            found += map(int, path.read_text().split())
    return [each for child in found for each in (child, *descendants(child))]


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process, MB: anonymous pages, and all. Zero if the process has ended."""
    try:
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        status = {words[0]: float(words[1]) / 1024 for words in lines if words and words[0] in ("RssAnon:", "VmRSS:")}
    except OSError:
        status = {}
    return status.get("RssAnon:", 0.0), status.get("VmRSS:", 0.0)
