"""Faults, done to a running build at seeded moments; then it is started again, and the dataset compared.

Every fault takes a folder of its own, ends with the build finished, and says what it cost. Kills of the flow and of
its server are in `prefect_faults.py`.
"""

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from tools.drill.damage import Cost, cost, states
from tools.drill.injection import Injection
from tools.drill.worker import FAILED, start_worker

KILL_WORKER = "kill -9 of the worker"
RESTARTS = 3
"""After so many a build should be done."""
TIMEOUT_S = 300.0
"""For one worker; it takes seconds."""


@dataclass(frozen=True)
class Setting:
    """What a drill is done to."""

    manifest: Path
    undisturbed: Path
    """The dataset as it should be."""
    shards: int
    seconds: float
    """What an undisturbed worker takes to build it, once its models are loaded."""


@dataclass(frozen=True)
class Result:
    """What one fault came to."""

    fault: str
    cost: Cost
    restarts: int
    again: int
    """Complete shards that were built again."""
    note: str = ""
    """What else went wrong; empty if nothing."""

    @property
    def passed(self) -> bool:
        clean = not (self.cost.lost or self.cost.duplicated or self.cost.half_files or self.again or self.note)
        return clean and self.cost.equal


Fault = Callable[[Setting, Path, Random], Result]
"""(setting, empty folder, generator) -> result."""


def run_worker(setting: Setting, out: Path, injection: Injection | None = None) -> int:
    """A worker to its end; returns its exit status (negative: the signal that ended it)."""
    worker, _ = start_worker(setting.manifest, out, injection, out.with_suffix(".log"))
    worker.join(TIMEOUT_S)
    if worker.exitcode is None:
        worker.kill()
        raise TimeoutError(f"a worker was not done after {TIMEOUT_S:.0f} s, see {out.with_suffix('.log')}")
    return worker.exitcode


def finish(fault: str, setting: Setting, out: Path, *, note: str = "") -> Result:
    """Start again until it is done, and compare."""
    before, restarts = states(out), 0
    while True:
        restarts += 1
        status = run_worker(setting, out)
        if status == 0:
            break
        if restarts == RESTARTS:
            note = note or f"not done after {restarts} restarts (exit status {status})"
            break
    return compare(fault, setting, out, before, restarts, note=note)


def compare(
    fault: str,
    setting: Setting,
    out: Path,
    before: Mapping[str, tuple[int, int]],
    restarts: int,
    *,
    note: str = "",
    rounding: bool = False,
) -> Result:
    """The dataset beside the undisturbed one. `before`: `states` of the moment before the restart."""
    after = states(out)
    again = sum(after.get(name) != state for name, state in before.items())
    return Result(fault, cost(out, setting.undisturbed, rounding=rounding), restarts, again, note)


def _signalled(name: str, number: signal.Signals) -> Fault:
    def fault(setting: Setting, folder: Path, rng: Random) -> Result:
        out = folder / "out"
        worker, opened = start_worker(setting.manifest, out, log=out.with_suffix(".log"))
        opened.poll(TIMEOUT_S)
        worker.join(rng.uniform(0, setting.seconds))
        if worker.pid is not None and worker.exitcode is None:
            os.kill(worker.pid, number)
        worker.join(TIMEOUT_S)
        return finish(name, setting, out)

    return fault


def _injected(name: str, make: Callable[[Setting, Random], Injection]) -> Fault:
    def fault(setting: Setting, folder: Path, rng: Random) -> Result:
        out = folder / "out"
        status = run_worker(setting, out, make(setting, rng))
        return finish(name, setting, out, note="" if status == FAILED else f"exit status {status}")

    return fault


def _out_of_memory(setting: Setting, folder: Path, rng: Random) -> Result:
    """Nothing fails and nothing is started again: the batch halves. Beside the plain solver with memory enough."""
    plain, out = folder / "plain", folder / "out"
    statuses = [
        run_worker(setting, where, Injection(memory_rows=rows))
        for where, rows in ((plain, 10**6), (out, rng.randint(1, 3)))
    ]
    said = out.with_suffix(".log").read_text().count("out of memory at a batch")
    note = "" if statuses == [0, 0] and said == 1 else f"exit statuses {statuses}, said {said} times"
    beside = replace(setting, undisturbed=plain)
    return compare("out of device memory", beside, out, {}, 0, note=note, rounding=True)


def _source_cut(setting: Setting, folder: Path, rng: Random) -> Result:
    """The label file is cut short while it is being read, and mended later."""
    out = folder / "out"
    labels = folder / "labels.npz"
    source = setting.manifest.with_name("labels.npz")
    labels.write_bytes(source.read_bytes())
    manifest = folder / setting.manifest.name
    manifest.write_text(setting.manifest.read_text().replace(str(source), str(labels)))
    here = Setting(manifest, setting.undisturbed, setting.shards, setting.seconds)
    worker, opened = start_worker(manifest, out, log=out.with_suffix(".log"))
    opened.poll(TIMEOUT_S)
    worker.join(rng.uniform(0, setting.seconds / 2))
    size, moment = labels.stat().st_size, labels.stat().st_mtime_ns
    os.truncate(labels, rng.randrange(size // 2))
    worker.join(TIMEOUT_S)
    note = "" if worker.exitcode in (0, FAILED) else f"exit status {worker.exitcode}"
    labels.write_bytes(source.read_bytes())
    os.utime(labels, ns=(moment, moment))
    return finish("source cut short", here, out, note=note)


def _two_workers(setting: Setting, folder: Path, rng: Random) -> Result:
    """Two independent builds: each shard is built by one of them. One ends early where the other has the last."""
    out, logs = folder / "out", [folder / f"{i}.log" for i in range(2)]
    workers = [start_worker(setting.manifest, out, log=log)[0] for log in logs]
    for worker in workers:
        worker.join(TIMEOUT_S)
    statuses = {worker.exitcode for worker in workers}
    times = Counter(index for log in logs for index in built(log))
    note = "" if statuses <= {0, FAILED} else f"exit statuses {statuses}"
    if times != Counter(range(setting.shards)):
        note = note or f"shards were built so many times: {dict(times)}"
    return compare("two workers", setting, out, {}, 0, note=note)


def built(log: Path) -> list[int]:
    """The shards that a worker built, from what it printed; those that were complete already are not among them."""
    return [int(index) for index in re.findall(r"^shard (\d+) of .* rows/s", log.read_text(), re.MULTILINE)]


FAULTS: Mapping[str, Fault] = {
    KILL_WORKER: _signalled(KILL_WORKER, signal.SIGKILL),
    "SIGTERM": _signalled("SIGTERM", signal.SIGTERM),
    "SIGINT": _signalled("SIGINT", signal.SIGINT),
    "disk full while writing": _injected(
        "disk full while writing", lambda s, rng: Injection(full_at_write=rng.randint(1, 2 * s.shards))
    ),
    "disk full at the flush": _injected(
        "disk full at the flush", lambda s, rng: Injection(full_at_flush=rng.randint(1, 3 * s.shards))
    ),
    "source unreadable": _injected(
        "source unreadable", lambda s, rng: Injection(unreadable_at=rng.randint(1, s.shards))
    ),
    "source cut short": _source_cut,
    "out of device memory": _out_of_memory,
    "two workers": _two_workers,
}


def faults_table(results: Sequence[Result]) -> str:
    """A line per fault."""
    heads = ("times", "rows lost", "rows duplicated", "half files", "restarts", "done again", "equal")
    lines = [f"{'fault':<26}" + "".join(f"{head:>{len(head) + 2}}" for head in heads)]
    for fault in [*dict.fromkeys(result.fault for result in results), None]:
        own = [result for result in results if fault in (None, result.fault)]
        values = (
            len(own),
            *(sum(getattr(result.cost, name) for result in own) for name in ("lost", "duplicated", "half_files")),
            sum(result.restarts for result in own),
            sum(result.again for result in own),
            sum(result.cost.equal for result in own),
        )
        cells = (f"{value:>{len(head) + 2}}" for value, head in zip(values, heads, strict=True))
        lines.append(f"{fault or 'all':<26}" + "".join(cells))
    return "\n".join(lines)
