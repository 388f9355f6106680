"""A process per reader: one that ends, by a fault in native code or for want of memory, is a finding, not the end."""

import importlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from tools.drill.fuzz import Campaign, Finding, fuzz
from tools.drill.fuzz_target import Target
from tools.drill.fuzz_watch import Watch

_TELL_S = 0.5
MAX_STARTS = 20


def fuzz_apart(
    target: Target,
    folder: Path,
    *,
    executions: int,
    seed: int,
    seconds: float,
    corpus: Sequence[bytes],
    progress: Callable[[int], object],
    module: str = "tools.drill.fuzz_targets",
) -> Campaign:
    """As `fuzz`, in a process of its own, and after one that ended in another, 20 at most.

    `progress` gets how many more are done; `module` has `TARGETS`, the target among them.
    """
    total = Campaign(target.name, corpus=list(corpus))
    place = folder / "x"
    for start in range(MAX_STARTS):
        left, left_s = executions - total.executions, seconds - total.seconds
        if left <= 0 or left_s <= 0:
            break
        begin = time.monotonic()
        work = (module, target.name, place, left, seed + start * 1_000_003, left_s, total.corpus)
        found, ended = _one_process(target.name, work, progress)
        total = Campaign(
            target.name,
            total.executions + found.executions,
            total.refused + found.refused,
            max(total.lines, found.lines),
            total.seconds + found.seconds,
            found.corpus or total.corpus,
            total.findings + found.findings,
            max(total.slowest_s, found.slowest_s),
            max(total.memory_bytes, found.memory_bytes),
        )
        if ended is None:
            break
        total.executions += 1
        total.seconds = max(total.seconds, total.seconds - found.seconds + time.monotonic() - begin)
        inputs = sorted(place.glob("input*"))
        total.findings.append(Finding(target.name, ended, inputs[0].read_bytes() if inputs else b""))
    return total


def _one_process(name: str, work: tuple, progress: Callable[[int], object]) -> tuple[Campaign, str | None]:
    """What came of it, and how the process ended, None where as it should."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_fuzz, args=(*work, sender), daemon=True)
    process.start()
    sender.close()
    last, done = Campaign(name), False
    try:
        while True:
            found, done = receiver.recv()
            progress(found.executions - last.executions)
            last = found
    except EOFError:  # it has ended
        process.join()
    finally:
        process.kill()
        receiver.close()
    if done:
        return last, None
    code = process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return last, f"ends the process: {how}"


def _fuzz(
    module: str,
    name: str,
    folder: Path,
    executions: int,
    seed: int,
    seconds: float,
    corpus: list[bytes],
    sender: Connection,
) -> None:
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"  # it has something to say on every damaged picture
    told = time.monotonic()

    def tell(found: Campaign) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_S:
            told = time.monotonic()
            sender.send((replace(found, corpus=[], findings=list(found.findings)), False))

    target = next(target for target in importlib.import_module(module).TARGETS if target.name == name)
    found = fuzz(
        target, folder, Watch(), executions=executions, seed=seed, seconds=seconds, corpus=corpus, progress=tell
    )
    shutil.rmtree(folder, ignore_errors=True)
    sender.send((found, True))
