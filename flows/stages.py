"""Where the time of a shard goes, in seconds by stage."""

import contextlib
import time
from collections.abc import Iterator

STAGES = ("open", "load", "wait", "read", "check", "fit", "write")
"""open: label files, hashes of models, what is made on first use; load: body models; wait: for the device, which
another shard has. The first is a run's, not a shard's; models may be loaded by either."""


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time in which this is open to a stage's."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def work_seconds(seconds: dict[str, float]) -> float:
    """All but the waiting."""
    return sum(value for stage, value in seconds.items() if stage in STAGES and stage != "wait")
