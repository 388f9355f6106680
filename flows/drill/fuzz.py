"""Coverage-guided fuzzing of what reads other people's files, without tools beside Python.

Inputs that reach lines of ours that none has reached before are kept and mutated further. Same seed, same inputs (if
the readers themselves are deterministic); each has a limit of time and memory, and must end in a result or in one
`UserError`. An audit hook watches what a reader writes, starts and connects to.
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
from flows.drill.fuzz_targets import Target
from flows.drill.mutation import mutated
from hmr_skel.errors import UserError

LIMIT_S = 10
LIMIT_BYTES = 2 * 2**30
_PACKAGE = str(Path(hmr_skel.__file__).parent)
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind",
    "ctypes.dlopen", "pty.spawn", "webbrowser.open", "urllib.Request", "os.putenv", "os.kill",
)  # fmt: skip
_CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


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
    corpus: list[bytes] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    slowest_s: float = 0.0
    memory_bytes: int = 0
    """By how much the process grew."""


class _TooSlow(BaseException):
    """Not an Exception: no reader may take it for damage."""


class Watch:
    """What a reader does beyond reading: events of Python's audit hook, outside the folder that it may use."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)  # for good: hooks cannot be taken out, so it looks only where a folder is set

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments[:1]}")
        elif event in _CHANGING or (event == "open" and self._is_write(arguments)):
            self._note(event, arguments[0])

    @staticmethod
    def _is_write(arguments: tuple) -> bool:
        path, mode, flags = arguments
        if not isinstance(path, str | bytes):  # an open file's number
            return False
        return bool(set(mode or "") & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & 3)

    def _note(self, event: str, path: object) -> None:
        text = path.decode() if isinstance(path, bytes) else str(path)
        if text.startswith((str(self.folder), "/dev/")) or "__pycache__" in text:
            return
        if not Path(text).is_absolute() and event != "open":
            return  # relative to an open folder, as `shutil.rmtree` does
        self.seen.append(f"{event} {text}")

    @contextlib.contextmanager
    def on(self, folder: Path) -> Generator[list[str]]:
        self.folder, self.seen = folder, []
        try:
            yield self.seen
        finally:
            self.folder = None


def fuzz(
    target: Target,
    folder: Path,
    watch: Watch,
    *,
    executions: int,
    seed: int,
    corpus: Sequence[bytes] = (),
    progress: Callable[[int], object] | None = None,
) -> Campaign:
    """Read `executions` inputs.

    Args:
        target: by whom.
        folder: for the inputs; what a reader leaves there is removed.
        watch: of this process.
        executions: how many, the seeds among them.
        seed: of the mutations.
        corpus: inputs of former runs, to start from too.
        progress: called after each.
    """
    result = Campaign(target.name, corpus=[*target.seeds(), *corpus])
    rng, waiting, reached = Random(seed), list(result.corpus), set()
    read_once(target, folder, result.corpus[0], watch, Campaign(""), set())  # imports open files and take memory
    start_bytes = _peak_bytes()
    for _ in range(executions):
        data = waiting.pop() if waiting else mutated(rng.choice(result.corpus), result.corpus, rng)
        found: set[tuple[str, int]] = set()
        known = any(data is one for one in result.corpus)
        read_once(target, folder, data, watch, result, found)
        if found - reached:
            reached |= found
            if not known:
                result.corpus.append(data)
        if progress is not None:
            progress(1)
    result.lines = len(reached)
    result.memory_bytes = _peak_bytes() - start_bytes
    if result.memory_bytes > LIMIT_BYTES:
        result.findings.append(Finding(target.name, f"{result.memory_bytes / 2**30:.1f} GB of memory", b""))
    return result


def fuzz_table(campaigns: Sequence[Campaign]) -> str:
    """A line per reader."""
    heads = ("inputs", "refused", "lines", "kept", "findings", "slowest, s", "memory, MB")
    lines = [f"{'reader':<26}" + "".join(f"{head:>{len(head) + 3}}" for head in heads)]
    for one in campaigns:
        slow, memory = f"{one.slowest_s:.2f}", f"{one.memory_bytes / 1e6:.0f}"
        values = (one.executions, one.refused, one.lines, len(one.corpus), len(one.findings), slow, memory)
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
        except UserError:
            result.refused += 1
        except _TooSlow:
            what = f"not read within {LIMIT_S} s"
        except MemoryError:
            what = "out of memory"
        except Exception as error:
            what = f"{type(error).__name__}: {error}"[:300]
    result.executions += 1
    result.slowest_s = max(result.slowest_s, time.monotonic() - start)
    for text in ([what] if what else []) + [f"does {event}" for event in seen]:
        result.findings.append(Finding(target.name, text, data))


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


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
