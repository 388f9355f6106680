"""Several processes of this machine build one dataset together: each runs the flow, with a GPU or cores of its own.

They know of each other what the output says (`hmr_skel/data/attempts.py`) and no more, as on several machines: one that
ends, by whatever, leaves its shards to the others. This process only starts them, passes on what they say, and adds up.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import torch

from flows.server import process_group
from flows.shard import Builder
from flows.summary import DatasetSummary, ShardsFailed, summarise_build
from hmr_skel.data.patience import patiently
from hmr_skel.errors import UserError

STOP_TIMEOUT_S = 60.0
"""A worker that was asked to end is killed after this long, and then it may count as a crash of its shards."""


@dataclass(frozen=True)
class Ended:
    """What a worker came to."""

    status: int
    """Its exit status; negative, the signal that ended it."""
    summary: DatasetSummary | None
    """None where it came to none."""


def build_with_workers(
    count: int,
    url: str,
    *,
    manifest: str,
    out: str | None,
    device: str,
    shards: str | None = None,
    rebuild: bool = False,
    quiet: bool = False,
) -> DatasetSummary:
    """Build a dataset with so many processes.

    Args:
        count: of processes.
        url: address of the API of a running Prefect server.
        rebuild: complete shards become unfinished first, so that each is built again by one worker and no more.
        manifest, out, device, shards, quiet: as of the command `hmr-skel dataset`.

    Raises:
        UserError: the manifest, a label file or the device cannot be used; before any worker starts.
        ShardsFailed: shards failed, or no worker was left to build them.
    """
    start = time.monotonic()
    builder = Builder.open(manifest, out, device, quiet=quiet)  # labels are made once, and what is wrong is said once
    wanted = builder.choose(shards)
    places = environments(count, builder.device)
    builder.unfinished(wanted, rebuild=rebuild)  # refuses another dataset's folder, before anything is discarded
    if rebuild:
        builder.discard(wanted)
    command = [sys.executable, "-m", "hmr_skel.cli", "dataset", "--server", url, "--json", "--manifest", manifest]
    command += ["--device", builder.device.type]
    for option, value in (("--out", out), ("--shards", shards)):
        command += [] if value is None else [option, value]
    ended = run_workers(command + ["--quiet"] * quiet, places, _say)
    summaries = [worker.summary for worker in ended if worker.summary is not None]
    built = {index for summary in summaries for index in summary.built}
    reasons = {int(index): why for summary in summaries for index, why in summary.failed.items()}
    of_shards = sum(one["seconds"]["load"] for summary in summaries for one in summary.reports if not one["skipped"])
    own = {stage: sum(summary.stages[stage] for summary in summaries) for stage in ("open", "load")}
    own["load"] -= of_shards
    reports, failures = [], {}
    for index in wanted:
        report = builder.report(index, skipped=index not in built)
        if report is not None:
            reports.append(report)
        else:
            failures[index] = UserError(reasons.get(index, "no worker was left to build it; see above what ended them"))
    patiently(builder.write_card)
    summary = summarise_build(builder, reports, failures, time.monotonic() - start, own)
    if failures:
        raise ShardsFailed(summary, failures)
    return summary


def environments(count: int, device: torch.device) -> list[dict[str, str]]:
    """What of the environment is each worker's own: a GPU of those that are visible, in turn, and threads of the CPU's.

    Raises `UserError` for one named GPU: each worker sees one only, and calls it the first.
    """
    threads = torch.get_num_threads()
    own = [{"OMP_NUM_THREADS": str(max(threads // count + (i < threads % count), 1))} for i in range(count)]
    if device.type == "cuda":
        if device.index is not None:
            raise UserError(
                f"--device {device} with --workers: each worker gets a GPU of its own. Expected --device cuda; "
                f"CUDA_VISIBLE_DEVICES chooses among the GPUs, e.g. CUDA_VISIBLE_DEVICES={device.index}."
            )
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
        for i, place in enumerate(own):
            place["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)].strip()
    return own


def run_workers(
    command: Sequence[str], places: Sequence[Mapping[str, str]], say: Callable[[str], object]
) -> list[Ended]:
    """Run a command once in each environment, at once, until all have ended.

    `say` gets the lines of their standard error, and who was ended by a signal. Whatever interrupts ends all of them.
    The last line of a worker's standard output is taken for the JSON of a `DatasetSummary`.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(command, place, i, say)) for i, place in enumerate(places)]
        stack.callback(_ask_to_end, [child for child, _ in workers])
        living = dict(enumerate(child for child, _ in workers))
        while living:
            for i, child in list(living.items()):
                if child.poll() is not None:
                    del living[i]
                    if child.returncode < 0:
                        name = signal.Signals(-child.returncode).name
                        say(f"worker {i} (process {child.pid}) was ended by {name}" + "; others go on" * bool(living))
            time.sleep(0.1)
        outputs = [finish() for _, finish in workers]
    return [Ended(child.returncode, _summary(text)) for (child, _), text in zip(workers, outputs, strict=True)]


@contextlib.contextmanager
def _worker(
    command: Sequence[str], place: Mapping[str, str], number: int, say: Callable[[str], object]
) -> Generator[tuple[subprocess.Popen, Callable[[], str]]]:
    """The process, and what waits for its standard output's end and gives it."""
    output: list[bytes] = []
    readers: list[threading.Thread] = []

    def finish() -> str:
        for reader in readers:
            reader.join()
        return b"".join(output).decode(errors="replace")

    with contextlib.ExitStack() as stack:
        stack.callback(finish)  # when the process has ended, and with it its pipes
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = stack.enter_context(process_group([*command], os.environ | place, **pipes))
        assert child.stdout is not None
        assert child.stderr is not None

        def take(stdout: IO[bytes]) -> None:
            with stdout:
                output.append(stdout.read())

        def relay(stderr: IO[bytes]) -> None:
            with stderr:
                for line in stderr:
                    say(f"worker {number}: {line.decode(errors='replace').rstrip()}")

        readers.append(threading.Thread(target=take, args=(child.stdout,), daemon=True))
        readers.append(threading.Thread(target=relay, args=(child.stderr,), daemon=True))
        for reader in readers:
            reader.start()
        yield child, finish


def _ask_to_end(children: Sequence[subprocess.Popen]) -> None:
    """All at once, and once: a second signal, or SIGKILL, would end one that is taking its notes back."""
    for child in children:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)


def _summary(text: str) -> DatasetSummary | None:
    try:
        return DatasetSummary(**json.loads(text.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):  # it was ended before it came to one
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
