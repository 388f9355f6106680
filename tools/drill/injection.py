"""Faults put into this process: a full disk, unreadable sources, a device without memory, a shard that kills it.

As a preload of Dask's workers (`dask_setup`) the module kills each worker that fits certain rows.
"""

import contextlib
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch

import fitting.many
from flows.fitter import Fitter
from hmr_skel.data import atomic
from hmr_skel.data.annotations import SourceReader

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
    calls = 0

    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(number, os.strerror(number))
        return function(*args, **kwargs)

    return call


def _half_written(at: int) -> Callable:
    write = Path.write_bytes
    calls = 0

    def call(where: Path, content: bytes) -> int:
        nonlocal calls
        calls += ".parquet." in where.name
        if calls == at and ".parquet." in where.name:
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
