"""A process that builds all shards of a manifest without Prefect, to have faults put into it or to be killed.

Such processes start from one that has done the imports (`multiprocessing`'s fork server), as a drill starts many.
"""

import multiprocessing
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from flows.shard import Builder
from hmr_skel.errors import UserError
from tools.drill.injection import Injection, injected

FAILED = 2
"""Exit status of a worker that stopped with a `UserError`."""


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
    import torch
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
