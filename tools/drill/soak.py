"""A long run, watched: a whole `hmr-skel dataset`, what its processes and its database hold, minute by minute."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from flows.server import process_group
from hmr_skel.data.manifest import load_manifest
from tools.drill.processes import Usage, descendants, flow_command, flow_environment, proportional_mb
from tools.drill.small import MANIFEST

READ_EVERY_S = 1.0
"""A sample has the most of what is read so often in its time: what is needed at a shard's worst moment."""
_GENERATE = """
[sources.generate]
kind = "open"
rows = {rows}
seed = {seed}
"""
_LEFT = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d) left")


@dataclass(frozen=True)
class Sample:
    """The state of a run, at the end of a stretch of it."""

    seconds: float
    """Since the command was started."""
    shards: int
    """Done."""
    rows: int
    flow: Usage
    """The process that fits, the most of each figure in the stretch."""
    server: Usage
    """All that it started, likewise: Prefect's server."""
    flow_pss_mb: float | None
    server_pss_mb: float | None
    database_bytes: int
    left_s: float | None
    """What the run said last of the time left; None where it has said nothing yet."""
    left_at: float
    """When it said so, in seconds since the start."""


@dataclass(frozen=True)
class Soak:
    """A run that was watched to its end."""

    rows: int
    shards: int
    samples: tuple[Sample, ...]
    status: int
    """Exit status."""
    ended: float
    """When the last shard was done, in seconds since the start."""
    seconds: float
    output: str
    log: str


def write_manifest(folder: Path, body_models: Path, rows: int, shards: int, seed: int) -> Path:
    """The manifest of a dataset of so many rows in about so many shards, of labels that are made on first use."""
    path = folder / "soak.toml"
    labels = folder / "labels.npz"
    path.write_text(
        MANIFEST.format(name="soak", rows_per_shard=-(-rows // shards), body_models=body_models, labels=labels)
        + _GENERATE.format(rows=rows, seed=seed)
    )
    return path


def soak(manifest: Path, folder: Path, *, every_s: float, progress: Callable[[Sample], object]) -> Soak:
    """Run the command to its end; take a sample every so many seconds, the last when all shards are done.

    Args:
        manifest: of `write_manifest`; its labels are made by the run if they are not there.
        folder: for the dataset, Prefect's database, and what the command prints.
        progress: called with every sample.
    """
    loaded = load_manifest(manifest)
    (source,) = loaded.sources
    assert source.generate is not None
    rows, size = source.generate.rows, loaded.rows_per_shard
    shards = -(-rows // size)
    out, home, log, output = folder / "out", folder / "prefect", folder / "log", folder / "output"
    samples: list[Sample] = []
    flow_most = server_most = Usage()
    done, ended = 0, 0.0
    with (
        open(log, "wb") as errors,
        open(output, "wb") as summary,
        process_group(
            [*flow_command(manifest, out), "--json"],
            flow_environment(home),
            stdout=summary.fileno(),
            stderr=errors.fileno(),
        ) as flow,
    ):
        start = time.monotonic()
        due = every_s
        while done < shards and _running(flow, min(READ_EVERY_S, every_s)):
            now = time.monotonic() - start
            started = descendants(flow.pid)
            flow_now, server_now = Usage.of([flow.pid]), Usage.of(started)
            count = len(list((out / "meta").glob("shard-*.json")))
            if count < shards or flow_most == Usage():  # after the last shard the summary reads all files once more
                flow_most, server_most = flow_most.most(flow_now), server_most.most(server_now)
            if count > done:
                done, ended = count, now
            if now < due and done < shards:
                continue
            due += every_s
            left_s, age = time_left(log)
            samples.append(
                Sample(
                    seconds=now,
                    shards=done,
                    rows=min(done * size, rows),
                    flow=flow_most,
                    server=server_most,
                    flow_pss_mb=proportional_mb([flow.pid]),
                    server_pss_mb=proportional_mb(started),
                    database_bytes=sum(path.stat().st_size for path in home.glob("prefect.db*")),
                    left_s=left_s,
                    left_at=now - age,
                )
            )
            flow_most = server_most = Usage()
            progress(samples[-1])
        flow.wait()
        seconds = time.monotonic() - start
    told = output.read_text(), log.read_text()
    return Soak(rows, shards, tuple(samples), flow.returncode, ended, seconds, *told)


def _running(flow: Popen, seconds: float) -> bool:
    """Wait so long; whether it still runs."""
    time.sleep(seconds)
    return flow.poll() is None


def time_left(log: Path) -> tuple[float | None, float]:
    """The time left that a log tells last, and how long ago it was written, in seconds."""
    found = _LEFT.findall(log.read_text(errors="replace"))
    age = max(time.time() - log.stat().st_mtime, 0.0)
    if not found:
        return None, age
    days, hours, minutes, seconds = (int(part or 0) for part in found[-1])
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds, age
