"""Coverage-guided fuzzing of what reads other people's files, without tools beside Python.

Inputs that reach lines of ours that none has reached before are kept and mutated further. Same seed, same inputs (if
the readers themselves are deterministic); each has a limit of time, and must end in a result or in one `UserError`. A
file may ask for much memory: what a reader gets is limited, and being out of it counts as a refusal. An audit hook
watches what a reader opens, writes, starts and connects to.
"""

import contextlib
import faulthandler
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

import hmr_skel
from hmr_skel.errors import UserError
from tools.drill.fuzz_target import Target
from tools.drill.fuzz_watch import Watch
from tools.drill.mutation import mutated

LIMIT_S = 10
LIMIT_BYTES = 2 * 2**30
MAX_INPUT_BYTES = 10_000_000
"""Of which the limits are promised; mutations that are larger are cut."""
_PACKAGE = str(Path(hmr_skel.__file__).parent)


@dataclass
class Finding:
    """An input that was not read or refused as it should be."""

    target: str
    what: str
    data: bytes


@dataclass
class Campaign:
    """What fuzzing one target came to."""

    target: str
    executions: int = 0
    refused: int = 0
    lines: int = 0
    """Of ours, that were reached."""
    seconds: float = 0.0
    corpus: list[bytes] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    slowest_s: float = 0.0
    memory_bytes: int = 0
    """By how much the process grew."""


class _TooSlow(BaseException):
    """Not an Exception: no reader may take it for damage."""


def fuzz(
    target: Target,
    folder: Path,
    watch: Watch,
    *,
    executions: int,
    seed: int,
    seconds: float = float("inf"),
    corpus: Sequence[bytes] = (),
    progress: Callable[[Campaign], object] | None = None,
) -> Campaign:
    """Read `executions` inputs, or as many as there is time for.

    Args:
        target: by whom.
        folder: for the inputs; what a reader leaves there is removed.
        watch: of this process.
        executions: how many, the seeds among them.
        seed: of the mutations.
        seconds: to stop after.
        corpus: inputs of former runs, to start from too.
        progress: called after each, with what came of all so far.
    """
    seeds = target.seeds()
    result = Campaign(target.name, corpus=list(seeds))
    rng, waiting, reached = Random(seed), [*corpus, *reversed(seeds)], set()
    for data in seeds:  # imports open files and take memory
        read_once(target, folder, data, watch, Campaign(""), set())
    start, start_bytes = time.monotonic(), peak_bytes()
    with memory_limit(LIMIT_BYTES):
        while result.executions < executions and result.seconds < seconds:
            data = waiting.pop() if waiting else mutated(rng.choice(result.corpus), result.corpus, rng)
            data = data[:MAX_INPUT_BYTES]
            found: set[tuple[str, int]] = set()
            read_once(target, folder, data, watch, result, found)
            if found - reached:
                reached |= found
                if data not in seeds:
                    result.corpus.append(data)
            result.lines, result.seconds = len(reached), time.monotonic() - start
            result.memory_bytes = peak_bytes() - start_bytes
            if progress is not None:
                progress(result)
    return result


def fuzz_table(campaigns: Sequence[Campaign]) -> str:
    """A line per reader."""
    heads = ("inputs", "a second", "refused", "lines", "kept", "findings", "slowest, s", "memory, MB")
    lines = [f"{'reader':<26}" + "".join(f"{head:>{len(head) + 3}}" for head in heads)]
    for one in campaigns:
        slow, memory = f"{one.slowest_s:.2f}", f"{one.memory_bytes / 1e6:.0f}"
        rate = f"{one.executions / max(one.seconds, 1e-9):.0f}"
        values = (one.executions, rate, one.refused, one.lines, len(one.corpus), len(one.findings), slow, memory)
        cells = (f"{value:>{len(head) + 3}}" for value, head in zip(values, heads, strict=True))
        lines.append(f"{one.target:<26}" + "".join(cells))
    return "\n".join(lines)


def read_once(
    target: Target, folder: Path, data: bytes, watch: Watch, result: Campaign, found: set[tuple[str, int]]
) -> None:
    """Read one input; what is wrong with that goes to `result`, lines of ours that it reached to `found`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / f"input{target.suffix}"
    path.write_bytes(data)
    start, what = time.monotonic(), ""
    with watch.on(folder) as seen, _limited(), _traced(found), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(path)
        except (UserError, MemoryError):
            result.refused += 1
        except _TooSlow:
            what = f"not read within {LIMIT_S} s"
        except Exception as error:
            what = f"{type(error).__name__}: {error}"[:300]
    result.executions += 1
    result.slowest_s = max(result.slowest_s, time.monotonic() - start)
    for text in ([what] if what else []) + [f"does {event}" for event in seen]:
        result.findings.append(Finding(target.name, text, data))


@contextlib.contextmanager
def memory_limit(more_bytes: int) -> Generator[None]:
    """What this process may take, beside what it has: beyond, it is out of memory."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def _limited() -> Generator[None]:
    """The time limit; beyond twice of it, inside native code, the process ends with a traceback."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    faulthandler.dump_traceback_later(2 * LIMIT_S, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _traced(found: set[tuple[str, int]]) -> Generator[None]:
    """Collect the lines of ours that run."""

    def local(frame: FrameType, event: str, argument: object):
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def start(frame: FrameType, event: str, argument: object):
        return local if frame.f_code.co_filename.startswith(_PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(start)
    try:
        yield
    finally:
        sys.settrace(before)


def peak_bytes() -> int:
    """The most that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data_bytes() -> int:
    """What RLIMIT_DATA counts: private memory that can be written, touched or not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmData in /proc/self/status")
