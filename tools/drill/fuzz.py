"""Fuzzing: mutated files for everything that reads other people's files, guided by coverage.

An input that reaches new lines of ours is kept and mutated further. Each input must end in a result or in one
`UserError` within 10 s; it may ask for 2 GB of memory, and beyond that it counts as refused. An audit hook watches what
a reader opens, writes, starts and connects to. The same seed gives the same inputs. A reader runs in a process of its
own; one that ends by itself is a finding, and another process goes on. Some mutations know what a zip archive is.
"""

import contextlib
import faulthandler
import io
import multiprocessing
import os
import re
import resource
import shutil
import signal
import site
import sys
import sysconfig
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType

import hmr_skel
from hmr_skel.commands.output import table
from hmr_skel.errors import UserError

LIMIT_S = 10
LIMIT_BYTES = 2 * 2**30
MAX_INPUT_BYTES = 10_000_000
MAX_STARTS = 20
_HERE = Path(hmr_skel.__file__).parents[1]
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind",
    "ctypes.dlopen", "pty.spawn", "webbrowser.open", "urllib.Request", "os.putenv", "os.kill", "builtins.input",
)  # fmt: skip
_CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
_INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)
_TOKENS = (
    b"object", b"'|O'", b"'<f8'", b"'<U9'", b"'V8'", b"True", b"(9999999999,)", b"(0, 0)", b"(-1,)", b"()", b"nan",
    b"cposix\nsystem\n(S'true'\ntR.", b"c__builtin__\neval\n(S'1'\ntR.", b"..", b"/etc/passwd", b"\x00", b"\x80\x04",
    b"PK\x05\x06", b"PAR1", b"[" * 2000, b"{" * 2000, b"9" * 400, b"-1", b"1e999", b'"', b"${HOME}",
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """What reads one kind of file."""

    name: str
    suffix: str
    read: Callable[[Path], object]
    """Reads a file as the commands do. It may raise `UserError` and nothing else, and change nothing but its folder."""
    seeds: Callable[[], list[bytes]]
    """Small files of the kind, to be mutated."""


@dataclass
class Campaign:
    """The result of fuzzing one reader."""

    reader: str
    executions: int = 0
    refused: int = 0
    lines: int = 0  # lines of ours that were reached
    seconds: float = 0.0
    slowest_s: float = 0.0
    corpus: list[bytes] = field(default_factory=list)  # the seeds, and inputs that reached new lines
    findings: list[tuple[str, bytes]] = field(default_factory=list)  # what went wrong, and the input


class _TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for damage."""


class Watch:
    """Notes what is opened, changed, started and connected to outside the folder that a reader may use.

    Modules are imported while a reader runs, so it may read Python's files, installed packages, ours, and /proc.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        paths = sysconfig.get_paths()
        places = {sys.prefix, sys.base_prefix, paths["stdlib"], paths["purelib"], *site.getsitepackages()}
        places |= {str(_HERE / name) for name in ("hmr_skel", "fitting", "flows")}
        self._readable = tuple(f"{os.path.realpath(place)}{os.sep}" for place in places)
        sys.addaudithook(self._hook)  # a hook stays for good, so it looks only while a folder is set

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments[:1]}")
        elif event in _CHANGING:
            self._note(event, arguments[0], writes=True)
        elif event == "open" and isinstance(arguments[0], str | bytes):  # else the number of an open file
            _, mode, flags = arguments
            writing = (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            self._note(event, arguments[0], bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(writing))

    def _note(self, event: str, path: object, writes: bool) -> None:
        text = os.fsdecode(path) if isinstance(path, str | bytes) else str(path)
        if not os.path.isabs(text) and (event != "open" or not (writes or os.path.lexists(text))):
            return  # relative to an open folder, as in `shutil.rmtree`
        real = os.path.realpath(text)
        if real.startswith((f"{self.folder}{os.sep}", "/dev/")) or real == str(self.folder) or "__pycache__" in real:
            return
        if writes or not real.startswith((*self._readable, "/proc/", "/sys/", "/etc/mime")):
            self.seen.append(f"{event} {text}{'' if writes else ' for reading'}")

    @contextlib.contextmanager
    def on(self, folder: Path) -> Generator[list[str]]:
        """The time in which the hook watches. Only `folder` may be used, for temporary files too."""
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        self.folder, self.seen = Path(os.path.realpath(folder)), []
        try:
            yield self.seen
        finally:
            self.folder, tempfile.tempdir = None, before


def fuzz(
    reader: Reader, folder: Path, watch: Watch, *, executions: int, seed: int, step: Callable[[], object] = lambda: None
) -> Campaign:
    """Read `executions` inputs in this process, without a limit of memory.

    `folder` holds the input; what a reader leaves there is removed. `step` is called before each input is read.
    """
    seeds = reader.seeds()
    result = Campaign(reader.name, corpus=list(seeds))
    rng, waiting, reached = Random(seed), list(seeds), set()
    while result.executions < executions:
        data = waiting.pop(0) if waiting else mutated(rng.choice(result.corpus), result.corpus, rng)
        data, found = data[:MAX_INPUT_BYTES], set()
        step()
        read_once(reader, folder, data, watch, result, found)
        if found - reached and data not in seeds:
            result.corpus.append(data)
        reached |= found
        result.lines = len(reached)
    return result


def read_once(
    reader: Reader, folder: Path, data: bytes, watch: Watch, result: Campaign, found: set[tuple[str, int]]
) -> None:
    """Read one input. What goes wrong is added to `result`, and the lines of ours that run to `found`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / f"input{reader.suffix}"
    path.write_bytes(data)
    start, what = time.monotonic(), []
    with watch.on(folder) as seen, _limited(), _traced(found), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.read(path)
        except (UserError, MemoryError):
            result.refused += 1
        except _TooSlow:
            what = [f"not read within {LIMIT_S} s"]
        except Exception as error:
            what = [f"{type(error).__name__}: {error}"[:300]]
    result.executions += 1
    result.slowest_s = max(result.slowest_s, time.monotonic() - start)
    result.findings += [(text, data) for text in (*what, *(f"does {event}" for event in seen))]


@contextlib.contextmanager
def _limited() -> Generator[None]:
    """The time limit. After twice the time, in native code, the process ends with a traceback."""

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
    """Collect the lines of the package that run."""

    def local(frame: FrameType, event: str, argument: object):
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def start(frame: FrameType, event: str, argument: object):
        return local if frame.f_code.co_filename.startswith(str(_HERE / "hmr_skel")) else None

    before = sys.gettrace()
    sys.settrace(start)
    try:
        yield
    finally:
        sys.settrace(before)


def fuzz_apart(reader: Reader, folder: Path, *, executions: int, seed: int) -> Campaign:
    """As `fuzz`, with a limit of memory, in a process of its own; after one that ended in another, 20 at most."""
    context = multiprocessing.get_context("spawn")
    count = context.Value("q", 0)  # inputs, of all processes: those of one that has ended too
    total, place, start = Campaign(reader.name), folder / "x", time.monotonic()
    for turn in range(MAX_STARTS):
        left = executions - count.value
        if left <= 0:
            break
        receiver, sender = context.Pipe(duplex=False)
        work = (reader, place, left, seed + turn * 1_000_003, count, sender)
        process = context.Process(target=_in_process, args=work, daemon=True)
        process.start()
        sender.close()
        try:
            found = receiver.recv()
        except EOFError:  # the process has ended
            process.join()
            code, inputs = process.exitcode or 0, sorted(place.glob("input*"))
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            total.findings.append((f"ends the process: {how}", inputs[0].read_bytes() if inputs else b""))
        else:
            process.join()
            found.findings = total.findings + found.findings
            total = found
        finally:
            process.kill()
            receiver.close()
    return replace(total, executions=count.value, seconds=time.monotonic() - start)


def _in_process(reader: Reader, folder: Path, executions: int, seed: int, count, sender: Connection) -> None:
    watch = Watch()
    fuzz(reader, folder, watch, executions=len(reader.seeds()), seed=seed)  # imports open files and take memory
    status = Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(status) * 1024 + LIMIT_BYTES, hard))

    def step() -> None:
        count.value += 1

    found = fuzz(reader, folder, watch, executions=executions, seed=seed, step=step)
    shutil.rmtree(folder, ignore_errors=True)
    sender.send(found)


def fuzz_table(campaigns: Sequence[Campaign]) -> str:
    """A line for each reader."""
    rows = []
    for one in campaigns:
        counts = {"inputs": one.executions, "a second": round(one.executions / max(one.seconds, 1e-9))}
        counts |= {"refused": one.refused, "lines": one.lines, "kept": len(one.corpus), "findings": len(one.findings)}
        rows.append({"reader": one.reader} | counts | {"slowest, s": one.slowest_s})
    return table(rows)


def mutated(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """`data` after some mutations; `others` are inputs to splice with."""
    if data.startswith(b"PK\x03\x04") and rng.random() < 0.7:
        return _mutated_zip(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        data = _mutated_once(data, others, rng)
    return data


def _mutated_once(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    size = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(data) - place)
    head, middle, tail = data[:place], data[place : place + size], data[place + size :]
    width, other = rng.choice((1, 2, 4, 8)), rng.choice(others)
    number = rng.choice(_INTEGERS)
    digits = rng.choice(list(re.finditer(rb"\d+", data[:100_000])) or [None])
    changed = [
        head + rng.randbytes(size) + tail,
        head + tail,
        head + middle * rng.randint(2, 4) + tail,
        head + rng.choice(_TOKENS) + tail,
        head + (number % 256**width).to_bytes(width, rng.choice(("little", "big"))) + data[place + width :],
        head + other[rng.randrange(len(other) + 1) :],
    ]
    if middle:
        changed.append(head + bytes([middle[0] ^ (1 << rng.randrange(8))]) + middle[1:] + tail)
    if digits:
        changed.append(data[: digits.start()] + str(number).encode() + data[digits.end() :])
    return rng.choice(changed)


def _mutated_zip(data: bytes, rng: Random) -> bytes:
    """An archive with one member changed, left out, or there twice, and with right checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # an earlier mutation has broken it
        return _mutated_once(data, [data], rng)
    if not members:
        return data
    index = rng.randrange(len(members))
    name, content = members[index]
    escaping = rng.choice(("../" + name, "/tmp/" + name, name + "\x00", "x" * 300, "a/b/" + name))
    instead = [
        [],
        [(name, content), (name, content)],
        [(escaping, content)],
        [(name, _mutated_once(content[:128], [content], rng) + content[128:])],  # the header of an .npy
        [(name, bytes(min(len(content) * 1000, 4_000_000)))],
        [(name, _mutated_once(content, [content], rng))],
    ]
    members[index : index + 1] = rng.choice(instead)
    result = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(result, "w", rng.choice((0, 8))) as archive:
        for member, inside in members:
            try:
                archive.writestr(member, inside)
            except ValueError:
                continue
    return result.getvalue()
