"""Processes that build without Prefect, and faults put into them: a full disk, unreadable sources, too little memory.

Processes start from one that has done the imports (`multiprocessing`'s fork server), as a drill starts many. As a
preload of Dask's workers (`dask_setup`) the module kills each worker that fits certain rows.
"""

import contextlib
import errno
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

import torch

import fitting.many
from flows.fitter import Fitter
from flows.shard import Builder
from hmr_skel.data import atomic
from hmr_skel.data.annotations import SourceReader
from hmr_skel.errors import UserError

FAILED = 2
"""Exit status of a worker that stopped with a `UserError`."""
CRASH_ROWS = "HMR_SKEL_DRILL_CRASH_ROWS"
"""Environment variable of Dask's workers, such as `12 18`: fitting one of the rows 12 to 17 of a source kills."""


@dataclass(frozen=True, kw_only=True)
class Injection:
    """What goes wrong in the process that fits. Counts are from 1; 0 is never."""

    full_at_write: int = 0
    """The disk is full at the n-th Parquet file, of which half is written."""
    full_at_flush: int = 0
    """... or at the n-th file, when it is flushed to the disk."""
    largest_file: int = 0
    """No file can have more bytes."""
    unreadable_at: int = 0
    """Reading a label file fails, at the n-th shard."""
    memory_rows: int = 0
    """The device has memory for so many rows; batches go one after another, as on a GPU."""


@contextlib.contextmanager
def injected(injection: Injection) -> Generator[None]:
    """The time in which it goes wrong."""
    with contextlib.ExitStack() as stack:
        if injection.largest_file:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
            resource.setrlimit(resource.RLIMIT_FSIZE, (injection.largest_file, before[1]))
        replaced = []
        if injection.full_at_write:
            replaced.append((Path, "write_bytes", _half_written(injection.full_at_write)))
        if injection.full_at_flush:
            replaced.append((atomic.os, "fsync", _failing(os.fsync, injection.full_at_flush, errno.ENOSPC)))
        if injection.unreadable_at:
            read = _failing(SourceReader.read, injection.unreadable_at, errno.EIO)
            replaced.append((SourceReader, "read", read))
        if injection.memory_rows:
            replaced.append((fitting.many, "_side_by_side", fitting.many._in_turn))  # as a GPU does
            replaced.append((fitting.many, "_room_on", lambda device: sys.maxsize))
            fit_batch = _short_of_memory(fitting.many.fit_batch, injection.memory_rows)
            replaced.append((fitting.many, "fit_batch", fit_batch))
        for owner, name, function in replaced:
            stack.enter_context(patch.object(owner, name, function))
        yield


def _failing(function: Callable, at: int, number: int) -> Callable:
    calls = itertools.count(1)

    def call(*args, **kwargs):
        if next(calls) == at:
            raise OSError(number, os.strerror(number))
        return function(*args, **kwargs)

    return call


def _half_written(at: int) -> Callable:
    write, calls = Path.write_bytes, itertools.count(1)

    def call(where: Path, content: bytes) -> int:
        if ".parquet." in where.name and next(calls) == at:
            write(where, bytes(content)[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(where, content)

    return call


def _short_of_memory(fit_batch: Callable, rows: int) -> Callable:
    def call(params, *args, **kwargs):
        if len(params.betas) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory (a drill)")
        return fit_batch(params, *args, **kwargs)

    return call


def dask_setup(worker: object) -> None:
    """Dask calls this in each worker that has this module as its preload."""
    fit, rows = Fitter.fit, range(*map(int, os.environ[CRASH_ROWS].split()))

    def call(fitter: Fitter, piece, *args, **kwargs):
        if any(row in rows for row in piece.source_row.tolist()):
            os.kill(os.getpid(), signal.SIGKILL)
        return fit(fitter, piece, *args, **kwargs)

    Fitter.fit = call


def start_worker(
    manifest: Path, out: Path, injection: Injection | None = None, log: Path | None = None
) -> tuple[BaseProcess, Connection]:
    """Start a worker. Returns it, and a connection that can be read from as soon as models and labels are loaded.

    Args:
        manifest: what to build.
        out: the dataset's folder.
        injection: what is to go wrong.
        log: the file for what it prints, such as errors of single shards.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    opened, end = context.Pipe(duplex=False)
    worker = context.Process(target=_build_all, args=(manifest, out, injection or Injection(), end, log))
    worker.start()
    end.close()  # the worker's alone: it closes with it, if only by its death
    return worker, opened


def _build_all(manifest: Path, out: Path, injection: Injection, opened: Connection, log: Path | None) -> None:
    """A shard that fails does not stop the others; the exit status says so."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the machine, which a killed process would leave behind
    torch.set_num_threads(1)  # a few rows are too few to share out
    sys.stdout = sys.stderr = open(log or "/dev/null", "a", buffering=1)  # noqa: SIM115  for as long as it lives
    builder = Builder.open(manifest, out, "cpu", quiet=True)
    indices = range(len(builder.shards))
    failed = []

    builder.prepare()  # it writes notes of its own, which may be missing
    opened.close()
    with injected(injection):
        for index in indices:
            try:
                print(builder.build(index, progress=False).line())
            except UserError as error:
                failed.append(index)
                print(f"error: shard {index}: {error}")
    builder.write_card()
    sys.exit(FAILED if failed else 0)
