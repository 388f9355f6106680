"""The Prefect flow `build-hmr-skel`: a task for each shard that is not complete. `flows/shard.py` builds the shard.

A shard is done when its files say so (the meta file's fingerprint), never because a run's state says so. A killed run,
another machine and a deleted Prefect database make no difference.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from prefect import artifacts, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.flows import EntrypointType
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff
from tqdm import tqdm

from flows.cluster import is_cluster, num_workers, task_runner
from flows.report import ShardReport, ShardsUnfinished, summarise_run, summary_text, unfinished_lines
from flows.shard import Builder
from hmr_skel.data.shards import name_shards
from hmr_skel.data.storage import may_pass
from hmr_skel.device import DeviceLost
from hmr_skel.errors import UserError
from hmr_skel.places import DEFAULT_MANIFEST

NAME = "build-hmr-skel"
NO_WORKER_S = 120.0
"""A build that has had no worker for so long ends. On a busy machine a new one takes its time to start."""


def may_heal(task, task_run, state) -> bool:
    """Whether trying again is worth it: yes for trouble with storage that may pass, no for all else."""
    return may_pass(state.result(raise_on_failure=False))


@lru_cache(maxsize=1)
def _builder(run: str, manifest: str, out: str | None, device: str) -> Builder:
    """Models and label files, opened once for each flow run and process. A later run replaces them."""
    builder = Builder.open(manifest, out, device, quiet=True)
    builder.run = run
    return builder


@task(
    name="build-shard",
    task_run_name="shard-{index:05d}",
    retries=2,
    retry_delay_seconds=exponential_backoff(2),
    retry_condition_fn=may_heal,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def build_shard_task(
    manifest: str, index: int, out: str | None, device: str, rebuild: bool, on_worker: bool
) -> dict[str, Any]:
    """Build one shard, or skip it where it is complete. Returns a `ShardReport` as a dict."""
    if on_worker:  # tqdm's own lock is one of the machine, which a killed worker would leave behind
        tqdm.set_lock(threading.RLock())
    builder = _builder(str(flow_run.id), manifest, out, device)
    try:
        report = builder.build(index, rebuild=rebuild, progress=False)
    except DeviceLost as lost:
        if not on_worker:
            raise
        print(f"error: shard {index}: {lost}", file=sys.stderr, flush=True)
        os._exit(2)  # a new process gets the shard, and the device
    get_run_logger().info(report.line())
    return asdict(report)


@flow(name=NAME, persist_result=False)
def build_hmr_skel(
    manifest: str = DEFAULT_MANIFEST,
    out: str | None = None,
    device: str = "auto",
    shards: str | None = None,
    rebuild: bool = False,
    progress: bool = True,
    workers: int | None = None,
    dask_address: str | None = None,
) -> dict[str, Any]:
    """Build the shards of a manifest that are not complete yet. Returns what `summarise_run` gives.

    Args:
        manifest: what to build, a .toml file; relative to the folder that `make serve` runs in.
        out: where the dataset goes; default `data_folder()`/<manifest name>.
        device: cpu, cuda, cuda:1 ...; auto takes the first CUDA device, else the CPU.
        shards: only these, counted from 0, e.g. 0-3,7; default all.
        rebuild: build complete shards again.
        progress: show progress bars, where the output is a terminal.
        workers: processes of this machine, each with a GPU or its share of the cores; default this process alone.
        dask_address: scheduler of a Dask cluster that runs, e.g. tcp://head:8786, instead.

    Raises `UserError` before any shard where something cannot be used, `ShardsUnfinished` at the end where shards
    failed or another build has them in hand, and `DeviceLost` after a CUDA error in this process.
    """
    start = time.monotonic()
    builder = _builder(str(flow_run.id), manifest, out, device)
    wanted = builder.choose(shards)
    todo = builder.unfinished(wanted, rebuild=rebuild)
    on_worker = is_cluster(workers, dask_address)
    place = str(builder.out) if out is None else out  # workers on other machines may have other data folders
    parameters = {"manifest": manifest, "out": place, "device": device, "rebuild": rebuild, "on_worker": on_worker}
    done = len(wanted) - len(todo)
    built: set[int] = set()
    failures: dict[int, BaseException] = {}
    artifact = artifacts.create_progress_artifact(100 * done / len(wanted), key="build-progress")
    with contextlib.ExitStack() as stack:
        if todo:
            builder.prepare(models=not on_worker)
            runner = task_runner(workers, dask_address, device)
            stack.callback(builder.write_card)  # after an interrupt, too
            stack.enter_context(runner)
        # At an interrupt, Prefect's cancelling or a lost device, shards are still at work in threads.
        stack.callback(builder.stopped.set)
        rows = sum(builder.shards[index].num_rows for index in todo)
        bar = tqdm(total=rows, unit="row", desc=builder.manifest.name, disable=None if progress else True)
        stack.enter_context(bar)
        for index, result in _results(runner, todo, parameters) if todo else ():
            if isinstance(result, DeviceLost):
                raise result
            if not isinstance(result, dict):
                failures[index] = result
                continue
            report = ShardReport(**result)
            done += 1
            bar.update(report.rows)
            artifacts.update_progress_artifact(artifact, 100 * done / len(wanted))  # ty: ignore
            if progress and bar.disable:  # no terminal, perhaps a log file
                print(f"{report.line()}; {done} of {len(wanted)} shards", file=sys.stderr, flush=True)
            if not report.skipped:
                built.add(index)
                if len(built) == 1:  # without a card, Hugging Face's `train` would have the held-out shards too
                    builder.write_card()
    reports = builder.reports(wanted, built)
    replaced = UserError(f"another build in {builder.out} has replaced it. Let that one end, then start this again.")
    missing = sorted(set(wanted) - {report.shard for report in reports})
    failures = {index: failures.get(index, replaced) for index in missing}
    summary = summarise_run(builder, reports, failures, time.monotonic() - start)
    table = summary["reports"] + [{"shard": int(index), "failed": why} for index, why in summary["failed"].items()]
    artifacts.create_table_artifact(key="build-shards", table=table)
    text = "\n".join(["```", summary_text(summary), *unfinished_lines(summary), "```"])
    artifacts.create_markdown_artifact(key="build-summary", markdown=text)
    if failures:
        raise ShardsUnfinished(summary, failures)
    return summary


def _results(runner: Any, todo: Sequence[int], parameters: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Each shard, as it ends: its report as a dict, or the error.

    A worker has one shard in hand, so that one that dies loses only that. A future is dropped with its result: Dask
    builds again what a dead worker has built while somebody holds it.

    Raises `UserError` where Dask's scheduler does not answer, or all its workers are gone.
    """
    waiting, at_work = list(reversed(todo)), {}
    ended: queue.SimpleQueue[PrefectFuture] = queue.SimpleQueue()
    seen = time.monotonic()  # a worker
    try:
        while waiting or at_work:
            count = num_workers(runner)
            seen = time.monotonic() if count else seen
            if time.monotonic() - seen >= NO_WORKER_S:
                raise UserError(
                    f"Dask has had no worker for {NO_WORKER_S:.0f} s, with {name_shards(at_work.values())} in hand: "
                    "all crashed, or were killed for want of memory. Take fewer, and run this again."
                )
            while waiting and len(at_work) < max(count, 1):
                index = waiting.pop()
                future = runner.submit(build_shard_task, parameters | {"index": index})
                at_work[future.task_run_id] = index
                future.add_done_callback(ended.put)
            with contextlib.suppress(queue.Empty):
                future = ended.get(timeout=min(5.0, NO_WORKER_S))
                index = at_work.pop(future.task_run_id)
                try:
                    result = future.result(raise_on_failure=False)
                except Exception as error:
                    if type(error).__name__ != "KilledWorker":  # Dask's
                        raise
                    result = UserError(f"{error} Was it killed for want of memory?")
                yield index, result
    except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError) as error:
        if not parameters["on_worker"]:
            raise
        raise UserError(f"no Dask scheduler answers: {error}. Finished shards are kept; run this again.") from error


def serve_deployment() -> None:
    """Register the deployment with the server that PREFECT_API_URL names, from any folder, and start runs of it."""
    build_hmr_skel.serve(NAME, pause_on_shutdown=False, entrypoint_type=EntrypointType.MODULE_PATH)
