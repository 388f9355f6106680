"""The Prefect flow `build-hmr-skel`: a task for each shard that is not complete. `flows/shard.py` builds the shard.

Only its files (the fingerprint in the meta file) say whether a shard is complete, not the state of a run. So a killed
run, another machine or a deleted Prefect database make no difference.
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
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.shards import name_shards
from hmr_skel.data.storage import may_pass
from hmr_skel.device import DeviceLost
from hmr_skel.errors import UserError
from hmr_skel.places import DEFAULT_MANIFEST, data_folder

NAME = "build-hmr-skel"
NO_WORKER_S = 120.0
"""A build ends after this time without a worker, s. On a busy machine a new worker starts slowly."""


def may_heal(task, task_run, state) -> bool:
    """Whether Prefect should try a task again: only after storage errors that may pass."""
    return may_pass(state.result(raise_on_failure=False))


@lru_cache(maxsize=1)
def _builder(run: str, manifest: str, out: str, device: str, shards: str | None) -> Builder:
    """The builder with its models and label files, made once per flow run and process."""
    builder = Builder.open(manifest, out, device, shards=shards, quiet=True)
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
    manifest: str, index: int, out: str, device: str, shards: str | None, rebuild: bool, on_worker: bool
) -> dict[str, Any]:
    """Build one shard, or skip it if it is complete. Returns a `ShardReport` as a dict."""
    if on_worker:  # tqdm's own lock is shared by all processes, and a killed worker would leave it locked
        tqdm.set_lock(threading.RLock())
    builder = _builder(str(flow_run.id), manifest, out, device, shards)
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
    """Build the shards of a manifest that are not complete yet. Returns the result of `summarise_run`.

    Args:
        manifest: a .toml file, relative to the folder of `make serve`.
        out: the place of the dataset; default `data_folder()`/<manifest name>.
        device: cpu, cuda, cuda:1 ...; auto takes the first CUDA device, else the CPU.
        shards: only these, counted from 0, e.g. 0-3,7; default all.
        rebuild: build complete shards again.
        progress: show progress.
        workers: number of processes, each with a GPU or a share of the cores; default this process alone.
        dask_address: use the running Dask cluster of this scheduler instead, e.g. tcp://head:8786.

    Raises `UserError`, before any shard, if an input cannot be used; `ShardsUnfinished`, at the end, if shards failed
    or another build is working on them; and `DeviceLost` after a CUDA error in this process.
    """
    start = time.monotonic()
    if out is None:  # name it, since other machines may have other data folders
        out = str(data_folder() / load_manifest(manifest).name)
    builder = _builder(str(flow_run.id), manifest, out, device, shards)
    wanted = builder.choose(shards)
    todo = builder.unfinished(wanted, rebuild=rebuild)
    on_worker = is_cluster(workers, dask_address)
    parameters = {"manifest": manifest, "out": out, "device": device, "shards": shards, "rebuild": rebuild}
    parameters["on_worker"] = on_worker
    done = len(wanted) - len(todo)
    built: set[int] = set()
    failures: dict[int, BaseException] = {}
    artifact = artifacts.create_progress_artifact(100 * done / len(wanted), key="build-progress")
    with contextlib.ExitStack() as stack:
        if todo:
            builder.prepare(models=not on_worker)
            runner = task_runner(workers, dask_address, device)
            stack.callback(builder.write_card)  # also after an interrupt
            stack.enter_context(runner)
        # After an interrupt, a cancelled run or a lost device, threads are still working on shards.
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
            if progress and bar.disable:  # not a terminal
                print(f"{report.line()}; {done} of {len(wanted)} shards", file=sys.stderr, flush=True)
            if not report.skipped:
                built.add(index)
                if len(built) == 1:  # without a card, Hugging Face's `train` would include held-out shards
                    builder.write_card()
    reports = builder.reports(wanted, built)
    replaced = UserError(f"another build in {builder.out} has replaced it. Wait for its end, then run this again.")
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
    """Yield each shard when it ends, with its report as a dict or its error.

    A worker has only one shard, so that a dead worker loses no other. Each future is dropped with its result: otherwise
    Dask would build a dead worker's finished shards again.

    Raises `UserError` if Dask's scheduler does not answer, or no worker is left.
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
                    f"Dask has had no worker for {NO_WORKER_S:.0f} s, with {name_shards(at_work.values())} not "
                    "finished. All workers crashed or ran out of memory. Use fewer workers, and run this again."
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
                    result = UserError(f"{error} Perhaps it ran out of memory.")
                yield index, result
    except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError) as error:
        if not parameters["on_worker"]:
            raise
        raise UserError(f"no Dask scheduler answers: {error}. Finished shards are kept; run this again.") from error


def serve_deployment() -> None:
    """Register the deployment with the server that PREFECT_API_URL names, from any folder, and start runs of it."""
    build_hmr_skel.serve(NAME, pause_on_shutdown=False, entrypoint_type=EntrypointType.MODULE_PATH)
