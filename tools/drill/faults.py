"""Disturb running builds at seeded moments, finish them, and compare each with an undisturbed build.

Kills are done to a whole `hmr-skel dataset --workers 2`: a flow, and two workers on Dask. All builds of a drill share a
Prefect server. The other faults are done to processes that build without Prefect (`injection.py`). Linux only.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from flows.verify import first_difference
from hmr_skel.commands.output import table
from hmr_skel.data.atomic import is_temporary
from hmr_skel.data.verify import verify_files
from hmr_skel.errors import UserError
from tools.drill.injection import CRASH_ROWS, FAILED, Injection, start_worker
from tools.processes import descendants

TIMEOUT_S = 300.0
"""For one build, which takes seconds to half a minute. One that takes longer is ended, and its dataset has failed."""
NAMED = r"Perhaps it ran out of memory\."
"""The flow's message about a shard that has ended several workers."""
RESTARTS = 3
"""How often a build is started again, at most; once is enough unless something is wrong."""


@dataclass(frozen=True)
class Setting:
    """The small dataset of a drill."""

    manifest: Path
    undisturbed: Path
    """The dataset as it should be."""
    shards: int
    seconds: float
    """The time of one process for it, once its models are loaded."""
    flow_s: float = 0.0
    """The time of a whole `hmr-skel dataset --workers 2`."""
    server: Mapping[str, str] = field(default_factory=dict)
    """What Prefect's clients need in their environment."""


@dataclass(frozen=True)
class Cost:
    """The damage that a fault left: all numbers are zero and `equal` is true if there is none."""

    lost: int
    """Rows that are neither kept nor rejected."""
    duplicated: int
    """Rows that are there more than once."""
    half_files: int
    """Files that cannot be read, have other bytes than was recorded, or are temporary."""
    equal: bool
    """Whether every column of every shard equals the undisturbed dataset's."""


@dataclass(frozen=True)
class Result:
    """One dataset after its faults."""

    fault: str
    cases: int
    """How many faults were done to it."""
    cost: Cost
    notes: tuple[str, ...] = ()
    """Other things that went wrong."""

    @property
    def passed(self) -> bool:
        return self.cost == Cost(0, 0, 0, True) and not self.notes


Fault = Callable[[Setting, Path, Random, int], Iterator[Result]]
"""(setting, empty folder, generator, number of cases) -> a result for each dataset, as soon as it is there."""


# --- the cost of a fault ---


def cost(out: Path, undisturbed: Path, *, rounding: bool = False) -> Cost:
    """Compare a finished dataset with the undisturbed one; with `rounding`, fitted columns as rows in other batches."""
    wanted, found = _rows(undisturbed), _rows(out)
    try:
        report = verify_files(out)
        count = len(report.problems) + len(report.not_built)
    except UserError:  # there is nothing at all: every row is lost
        count = 0
    temporary = [path for path in out.rglob("*") if is_temporary(path)]
    return Cost(
        lost=(wanted - found).total(),
        duplicated=sum(count - 1 for count in found.values() if count > 1),
        half_files=count + len(temporary),
        equal=equal_datasets(out, undisturbed, rounding=rounding),
    )


def _rows(out: Path) -> Counter:
    """How often each row (source, number) is kept or rejected. Files that cannot be read have none."""
    found: Counter = Counter()
    for path in (*(out / "data").glob("[!.]*.parquet"), *(out / "rejects").glob("[!.]*.parquet")):
        try:
            table = pq.read_table(path, columns=["source", "source_row"])
        except (pa.ArrowException, OSError):
            continue
        found.update(zip(table["source"].to_pylist(), table["source_row"].to_pylist(), strict=True))
    return found


def equal_datasets(one: Path, two: Path, *, rounding: bool = False) -> bool:
    """Whether two datasets have the same shards with equal values in every column of data and rejects, to the bit; with
    `rounding`, fitted columns as `verify` allows them."""
    for folder in ("data", "rejects"):
        names = [sorted(path.name for path in (out / folder).glob("[!.]*.parquet")) for out in (one, two)]
        if names[0] != names[1]:
            return False
        for name in names[0]:
            first, second = (pq.read_table(out / folder / name) for out in (one, two))
            if first.schema != second.schema or len(first) != len(second):
                return False
            for a, b in zip(first.to_pylist(), second.to_pylist(), strict=True):
                # As texts: not-a-number differs from itself.
                if first_difference(a, b, loose=False) if rounding and folder == "data" else str(a) != str(b):
                    return False
    return True


# --- a whole `hmr-skel dataset --workers 2` ---


def start_flow(setting: Setting, out: Path, **more: str) -> subprocess.Popen:
    """A flow with two workers on Dask; `more` goes into its environment. It says what it does in a log beside `out`."""
    options = ["--manifest", str(setting.manifest), "--out", str(out), "--device", "cpu", "--workers", "2"]
    command = [sys.executable, "-m", "hmr_skel.cli", "dataset", *options, "--server", setting.server["PREFECT_API_URL"]]
    environment = os.environ | setting.server | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"} | more
    with open(_log(out), "ab") as log:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def time_flow(setting: Setting, server: Mapping[str, str], out: Path) -> Setting:
    """The setting with its server, and the time of an undisturbed flow. Raises `RuntimeError` where that fails."""
    setting, start = replace(setting, server=server), time.monotonic()
    if status := _ended(start_flow(setting, out)):
        raise RuntimeError(f"the undisturbed flow failed with exit status {status}, see {_log(out)}")
    return replace(setting, flow_s=time.monotonic() - start)


def kill_workers(setting: Setting, folder: Path, rng: Random, cases: int) -> Iterator[Result]:
    """kill -9 of a worker, up to five times in each build. The flow goes on, and another worker builds the shard."""
    longest = setting.flow_s / 4

    def kill(out: Path, left: int) -> tuple[int, list[str]]:
        nonlocal longest
        kills, flow = 0, start_flow(setting, out)
        _wait(flow, TIMEOUT_S, until=(out / "data").is_dir)
        while kills < min(5, left) and not _wait(flow, rng.uniform(0, longest)):
            if workers := _dask_workers(flow.pid):
                os.kill(rng.choice(workers), signal.SIGKILL)
                kills += 1
        status, notes = _ended(flow), []
        if status != 0 and not re.search(NAMED, _log(out).read_text()):  # a shard that was hit three times is named
            notes.append(f"exit status {status}, see {_log(out)}")
        longest = longest if kills else longest / 2  # the build ended first
        return kills, notes

    yield from _after_kills("kill -9 of a Dask worker", setting, folder, cases, kill)


def kill_flows(setting: Setting, folder: Path, rng: Random, cases: int) -> Iterator[Result]:
    """kill -9 of the flow, again and again until the dataset is complete; then of the next one's."""
    longest = setting.flow_s

    def kill(out: Path, most: int) -> tuple[int, list[str]]:
        nonlocal longest
        kills, left = 0, []
        while kills < most:
            flow, start = start_flow(setting, out), time.monotonic()
            if _wait(flow, rng.uniform(0, longest)):
                if kills == 0:  # a whole build took less time than the one that was timed
                    longest = min(longest, time.monotonic() - start)
                break
            left += descendants(flow.pid)
            flow.kill()
            flow.wait()
            kills += 1
        deadline = time.monotonic() + 60
        while (left := [pid for pid in left if _runs(pid)]) and time.monotonic() < deadline:
            time.sleep(0.2)
        _kill(*left)
        return kills, [f"{len(left)} processes were there a minute after their flow"] if left else []

    yield from _after_kills("kill -9 of the flow", setting, folder, cases, kill)


def _after_kills(
    fault: str, setting: Setting, folder: Path, cases: int, kill: Callable[[Path, int], tuple[int, list[str]]]
) -> Iterator[Result]:
    """Build until `cases` kills are done. `kill` makes one build with at most that many kills; it returns their number
    and notes."""
    killed = number = 0
    while killed < cases:
        if number == 2 * cases:  # builds that end before a kill are few
            raise RuntimeError(f"{killed} kills of {cases} in {2 * cases} builds: the others ended before one")
        out = folder / f"out{number}"
        kills, notes = kill(out, cases - killed)
        yield finish(fault, setting, out, *notes, cases=kills, build=_run_flow)
        killed, number = killed + kills, number + 1


def crashing_shard(setting: Setting, folder: Path, rng: Random, cases: int) -> Iterator[Result]:
    """A shard that kills each worker that builds it: the flow names it, and builds all others."""
    rows = json.loads(next((setting.undisturbed / "meta").glob("shard-00000-*.json")).read_text())["rows"]
    for number in range(cases):
        out, shard = folder / f"out{number}", rng.randrange(setting.shards)
        preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": "tools.drill.injection"}
        flow = start_flow(setting, out, **preload, **{CRASH_ROWS: f"{shard * rows} {(shard + 1) * rows}"})
        status, notes = _ended(flow), []
        if status != FAILED:
            notes.append(f"exit status {status}, expected {FAILED}")
        if not re.search(rf"\b{shard}\b.*{NAMED}", _log(out).read_text()):
            notes.append(f"shard {shard} is not named")
        if len(list((out / "meta").glob("*.json"))) != setting.shards - 1:
            notes.append("not all other shards were built")
        yield finish("shard that kills its worker", setting, out, *notes, build=_run_flow)


def _dask_workers(pid: int) -> list[int]:
    """The workers' processes among those that a flow has started."""
    found = []
    for each in descendants(pid):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes():
                found.append(each)
    return found


def _wait(process: subprocess.Popen, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Wait so long, or until something is true. Returns whether the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None and not until():
        time.sleep(0.05)
    return process.poll() is not None


def _run_flow(setting: Setting, out: Path) -> int:
    return _ended(start_flow(setting, out))


def _ended(process: subprocess.Popen) -> int:
    """The exit status of a flow, which is killed where it hangs."""
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _kill(process.pid, *descendants(process.pid))
        return process.wait()


def _kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _log(out: Path) -> Path:
    return out.with_suffix(".log")


# --- processes that build without Prefect ---


def two_builds(setting: Setting, folder: Path, rng: Random, cases: int) -> Iterator[Result]:
    """Two independent builds at once: each shard is built by one of them, and left alone by the other."""
    for number in range(cases):
        out, logs = folder / f"out{number}", [folder / f"out{number}-{i}.log" for i in range(2)]
        workers = [start_worker(setting.manifest, out, log=log)[0] for log in logs]
        for worker in workers:
            _join(worker)
        notes = [f"exit status {worker.exitcode}" for worker in workers if worker.exitcode not in (0, FAILED)]
        built = re.findall(r"^shard (\d+) of .* rows/s", "".join(log.read_text() for log in logs), re.MULTILINE)
        if Counter(map(int, built)) != Counter(range(setting.shards)):
            notes.append(f"shards were built so many times: {dict(Counter(built))}")
        yield finish("two independent builds", setting, out, *notes)


def disk_full(setting: Setting, folder: Path, rng: Random, cases: int) -> Iterator[Result]:
    """A limit of file size; or the system's error for a full disk, while a file is written or when it is flushed."""
    sizes = [path.stat().st_size for path in (setting.undisturbed / "data").glob("*.parquet")]
    for number in range(cases):
        out = folder / f"out{number}"
        injection = [
            Injection(largest_file=rng.randrange(4000, max(sizes))),
            Injection(full_at_write=rng.randint(1, 2 * setting.shards)),
            Injection(full_at_flush=rng.randint(1, 3 * setting.shards)),
        ][number % 3]
        status = _run_worker(setting, out, injection)
        notes = () if status == FAILED else (f"exit status {status}, expected {FAILED}",)
        yield finish("disk full", setting, out, *notes)


def source_cut(setting: Setting, folder: Path, rng: Random, cases: int) -> Iterator[Result]:
    """The label file is cut short while it is being read, and mended before the next build."""
    for number in range(cases):
        here = folder / f"case{number}"
        here.mkdir()
        labels, source = here / "labels.npz", setting.manifest.with_name("labels.npz")
        labels.write_bytes(source.read_bytes())
        manifest = here / setting.manifest.name
        manifest.write_text(setting.manifest.read_text().replace(str(source), str(labels)))
        own = replace(setting, manifest=manifest)
        worker, opened = start_worker(manifest, here / "out", log=_log(here / "out"))
        opened.poll(TIMEOUT_S)
        worker.join(rng.uniform(0, setting.seconds / 2))
        state = labels.stat()
        os.truncate(labels, rng.randrange(state.st_size // 2))
        _join(worker)
        notes = () if worker.exitcode in (0, FAILED) else (f"exit status {worker.exitcode}",)
        labels.write_bytes(source.read_bytes())
        os.utime(labels, ns=(state.st_atime_ns, state.st_mtime_ns))
        yield finish("source cut short", own, here / "out", *notes)


def _run_worker(setting: Setting, out: Path, injection: Injection | None = None) -> int | None:
    return _join(start_worker(setting.manifest, out, injection, _log(out))[0])


def _join(worker: BaseProcess) -> int | None:
    """The exit status of a worker, which is killed where it hangs. Negative: the signal that ended it."""
    worker.join(TIMEOUT_S)
    worker.kill()  # no matter to one that has ended
    worker.join()
    return worker.exitcode


def finish(
    fault: str, setting: Setting, out: Path, *notes: str, cases: int = 1, build: Callable = _run_worker
) -> Result:
    """Build what is missing, with a worker or a flow, and compare."""
    for _ in range(RESTARTS):
        status = build(setting, out)
        if status in (0, -signal.SIGKILL):  # -9: it hung, and so would the next
            break
    if status != 0:
        notes += (f"not finished by a new start: exit status {status}, see {_log(out)}",)
    return Result(fault, cases, cost(out, setting.undisturbed), notes)


FAULTS: Mapping[str, tuple[Fault, int]] = {
    "workers": (kill_workers, 20),
    "flows": (kill_flows, 20),
    "crash": (crashing_shard, 3),
    "two": (two_builds, 10),
    "disk": (disk_full, 9),
    "source": (source_cut, 10),
}
"""Name -> the fault, and how many cases a drill has."""


def faults_table(results: Sequence[Result]) -> str:
    """A line for each fault."""
    rows = []
    for fault in [*dict.fromkeys(result.fault for result in results), "all"]:
        own = [result for result in results if fault in ("all", result.fault)]
        row = {"fault": fault, "cases": sum(result.cases for result in own)}
        for head, name in (("rows lost", "lost"), ("rows doubled", "duplicated"), ("half files", "half_files")):
            row[head] = sum(getattr(result.cost, name) for result in own)
        rows.append(row | {"equal": f"{100 * sum(result.cost.equal for result in own) / len(own):.0f} %"})
    return table(rows)
