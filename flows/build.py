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
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import httpx
from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flows import EntrypointType
from prefect.futures import PrefectFuture
from prefect.runner import Runner
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff
from tqdm import tqdm

from flows.address import address_file
from flows.cluster import DEATHS, NO_WORKER_S, capacity, is_cluster, num_workers, task_runner
from flows.report import DatasetSummary, ShardReport, ShardsUnfinished, timed
from flows.shard import Builder
from hmr_skel.data.lease import InHand
from hmr_skel.data.shards import name_shards
from hmr_skel.data.storage import may_pass
from hmr_skel.device import DeviceLost
from hmr_skel.errors import UserError

DEFAULT_MANIFEST = "manifests/open.toml"
NAME = "build-hmr-skel"
KEPT_RUNS = 50
"""Finished runs of the flow that stay in Prefect's database, the latest."""
CARD_S = 60.0
"""The dataset card is written so often while shards are built, or less often where that takes long. Without a card,
Hugging Face's `train` has the held-out shards too."""
_MOST_AT_ONCE = 100  # a second or so, and no more, before a build starts


def may_heal(task, task_run, state) -> bool:
    """Whether trying again is worth it: yes for trouble with storage that may pass, no for all else."""
    return may_pass(state.result(raise_on_failure=False))


@lru_cache(maxsize=1)
def _builder(run: str, manifest: str, out: str | None, device: str, quiet: bool) -> Builder:
    """Models and label files, opened once for each flow run and process. A later run replaces them."""
    builder = Builder.open(manifest, out, device, quiet=quiet)
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
    manifest: str, index: int, out: str | None, device: str, rebuild: bool, on_worker: bool, progress: bool
) -> dict[str, Any]:
    """Build one shard, or skip it where it is complete. Returns `ShardReport.as_dict`, small enough for any storage."""
    if on_worker:  # tqdm's own lock is one of the machine, which a killed worker would leave behind
        tqdm.set_lock(threading.RLock())
    builder = _builder(str(flow_run.id), manifest, out, device, not progress)
    try:
        report = builder.build(index, rebuild=rebuild, progress=progress and not on_worker)
    except DeviceLost as lost:
        if not on_worker:
            raise
        print(f"error: shard {index}: {lost}", file=sys.stderr, flush=True)
        os._exit(2)  # a new process gets the shard, and the device
    get_run_logger().info(report.line())
    return report.as_dict()


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
    """Build the shards of a manifest that are not complete yet.

    Args:
        manifest: what to build, a .toml file; relative to the folder that `make serve` runs in.
        out: where the dataset goes; default data/<manifest name>.
        device: cpu, cuda, cuda:1 ...; auto takes the first CUDA device, else the CPU.
        shards: only these, counted from 0, e.g. 0-3,7; default all.
        rebuild: build complete shards again.
        progress: show progress bars, where the output is a terminal.
        workers: processes of this machine, each with a GPU or its share of the cores; default this process alone.
        dask_address: scheduler of a Dask cluster that runs, e.g. tcp://head:8786, instead.

    Returns:
        `DatasetSummary.as_dict`.

    Raises:
        UserError: the manifest, a label file, a model file or the device cannot be used; before any shard.
        DeviceLost: a CUDA error in this process; without the shards that are not done yet.
        ShardsUnfinished: shards failed, or another build has them in hand; after all others are done.
    """
    start = time.monotonic()
    seconds: dict[str, float] = {}
    with timed(seconds, "open"):
        builder = _builder(str(flow_run.id), manifest, out, device, not progress)
    wanted = builder.choose(shards)
    todo = builder.unfinished(wanted, rebuild=rebuild)
    for text in builder.outdated(todo) if progress else ():
        print(f"{text} will be built again", file=sys.stderr, flush=True)
    on_worker = is_cluster(workers, dask_address)
    with timed(seconds, "load"):
        if todo and on_worker:
            builder.check_output()
        elif todo:
            builder.fitter.load()
    runner = task_runner(workers, dask_address, device)
    _forget_old_runs()
    reports = builder.reports([index for index in wanted if index not in set(todo)])
    failures: dict[int, BaseException] = {}
    card_due = 0.0
    parameters = {"manifest": manifest, "out": out, "device": device, "rebuild": rebuild}
    parameters |= {"on_worker": on_worker, "progress": progress}
    with Progress(builder, wanted, todo, progress) as so_far, contextlib.ExitStack() as stack:
        stack.callback(builder.write_card)  # after an interrupt, too
        if todo:
            stack.enter_context(runner)
        # At an interrupt, Prefect's cancelling or a lost device, shards are still at work in threads.
        stack.callback(builder.stopped.set)
        for index, result in _twice_if_held(runner, todo, parameters):
            if isinstance(result, dict):
                reports.append(ShardReport(**result))
                builder.built |= not reports[-1].skipped
                so_far.end(index, reports[-1].line())
                if (began := time.monotonic()) >= card_due:
                    with contextlib.suppress(UserError):  # told at the end, unless it passes
                        builder.write_card()
                    card_due = time.monotonic() + max(CARD_S, 20 * (time.monotonic() - began))
            elif isinstance(result, DeviceLost):
                raise result
            else:
                failures[index] = result
                so_far.end(index)
    settled = {report.shard for report in reports}
    settled |= {index for index, error in failures.items() if not isinstance(error, InHand)}
    done = builder.reports([index for index in wanted if index not in settled])  # by another build, meanwhile
    reports += done
    failures = {i: error for i, error in failures.items() if i not in {report.shard for report in done}}
    failures |= builder.replaced([index for index in wanted if index not in failures])
    reports = [report for report in reports if report.shard not in failures]
    builder.warn_of_mix()
    summary = DatasetSummary.of(builder, reports, failures, time.monotonic() - start, seconds)
    create_table_artifact(key="build-shards", table=summary.table(), description=f"Shards of {summary.name}")
    create_markdown_artifact(key="build-summary", markdown=summary.markdown(), description=f"Summary of {summary.name}")
    if failures:
        raise ShardsUnfinished(summary, failures)
    return summary.as_dict()


def _twice_if_held(runner: Any, todo: Sequence[int], parameters: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """As `_results`. Shards in the hands of another build come once more after all others: it may have been killed."""
    held = []
    for index, result in _results(runner, todo, parameters):
        if isinstance(result, InHand):
            held.append(index)
        else:
            yield index, result
    yield from _results(runner, held, parameters)


def _results(runner: Any, todo: Sequence[int], parameters: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Each shard, as it ends: its report as a dict, or the error. The runner has no more in hand than it has workers.

    A future is dropped with its result: Dask builds again what a dead worker has built while somebody holds it.

    Raises `UserError` where Dask's scheduler is gone, or all its workers are.
    """
    waiting, at_work = list(reversed(todo)), {}
    ended: queue.SimpleQueue[PrefectFuture] = queue.SimpleQueue()
    try:
        while waiting or at_work:
            while waiting and len(at_work) < capacity(runner):
                index = waiting.pop()
                future = runner.submit(build_shard_task, parameters | {"index": index})
                at_work[future.task_run_id] = index
                future.add_done_callback(ended.put)
            future = _next(runner, ended, at_work.values())
            yield at_work.pop(future.task_run_id), _result(future)
    except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError) as error:
        raise UserError("Dask's scheduler is gone. Finished shards are kept; run this again.") from error


def _next(runner: Any, ended: "queue.SimpleQueue[PrefectFuture]", at_work: Iterable[int]) -> PrefectFuture:
    seen = time.monotonic()
    while True:
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=min(5.0, NO_WORKER_S))
        if num_workers(runner):
            seen = time.monotonic()
        elif time.monotonic() - seen >= NO_WORKER_S:
            raise UserError(
                f"Dask has had no worker for {NO_WORKER_S:.0f} s, with {name_shards(at_work)} in hand: all were killed "
                "(by hand, or for want of memory), crashed or could not start. See to that, or take fewer workers. "
                "Finished shards are kept; run this again."
            )


def _result(future: PrefectFuture) -> Any:
    try:
        return future.result(raise_on_failure=False)
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # Dask's
            raise
        return UserError(
            f"its worker ended {DEATHS} times, killed (by hand, or for want of memory) or crashed. See to that, and "
            "run this again."
        )


class Progress:
    """How far a build is and how long it will still take: a bar on a terminal, else lines; an artifact in Prefect.

    Shards that were complete already count as done, but say nothing of the rate.
    """

    def __init__(self, builder: Builder, wanted: Sequence[int], todo: Sequence[int], show: bool) -> None:
        self._rows = {index: builder.shards[index].num_rows for index in wanted}
        self._left = {index: self._rows[index] for index in todo}
        self._show, self._start, self._failed = show, time.monotonic(), 0
        self._before = self._todo = sum(self._left.values())
        self._bar = tqdm(
            total=sum(self._rows.values()),
            initial=self.rows_done,
            desc=builder.manifest.name,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rows [{elapsed}{postfix}]",
            disable=None if show else True,
        )
        self._artifact = create_progress_artifact(self.percent, key="build-progress", description=self.text())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *args: object) -> None:
        self._bar.close()

    @property
    def rows_done(self) -> int:
        return sum(self._rows.values()) - sum(self._left.values())

    @property
    def percent(self) -> float:
        return 100.0 * self.rows_done / sum(self._rows.values())

    def end(self, index: int, line: str = "") -> None:
        """A shard is done; `line` tells of it. Without, it is not complete."""
        rows = self._left.pop(index)
        if not line:
            self._failed += 1
            self._todo -= rows
        if line and self._show and self._bar.disable:  # no terminal, perhaps a log file
            print(f"{line}; {self.text()}", file=sys.stderr, flush=True)
        self._bar.n = self.rows_done
        self._bar.set_postfix_str(self.text())
        update_progress_artifact(self._artifact, self.percent, description=self.text())  # ty: ignore

    def text(self) -> str:
        """`4 of 12 shards, 98.1 rows/s, 0:42:10 left`"""
        words = [f"{len(self._rows) - len(self._left):,} of {len(self._rows):,} shards"]
        words += [f"{self._failed:,} not complete"] if self._failed else []
        left = sum(self._left.values())
        if built := self._todo - left:
            rate = built / (time.monotonic() - self._start)
            words += [f"{rate:.1f} rows/s", f"{timedelta(seconds=round(left / rate))} left"]
        return ", ".join(words)


def _forget_old_runs() -> None:
    """Many runs may do so at once, on one database. That it was not done is no reason to build nothing."""
    try:
        forget_old_runs(NAME)
    except (PrefectException, httpx.HTTPError) as error:
        get_run_logger().warning("old runs are left in Prefect's database: %s", error)


def forget_old_runs(flow: str, keep: int = KEPT_RUNS) -> int:
    """Remove finished runs of a flow, with their tasks, logs and artifacts, but for the latest; returns how many.

    Prefect removes events after a week and nothing else, so its database would grow for ever. Runs of other flows stay,
    and those that another flow started. So do runs that were killed: Prefect takes them to be running.
    """
    finished = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES))),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    with get_client(sync_client=True) as client:
        old = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=finished,
            sort=FlowRunSort.END_TIME_DESC,
            offset=keep,
            limit=_MOST_AT_ONCE,
        )
        for run in old:
            with contextlib.suppress(ObjectNotFound):  # another run that starts now has removed it
                # Prefect removes tasks and logs with their run, but not these. First, so that none is left behind.
                of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
                for artifact in client.read_artifacts(artifact_filter=of_run):
                    client.delete_artifact(artifact.id)
                client.delete_flow_run(run.id)
    return len(old)


class _Runner(Runner):
    """Prefect's, but for its end: at SIGTERM that calls a coroutine which it does not await, and Python warns of it."""

    def handle_sigterm(self, *args, **kwargs) -> None:
        sys.exit(0)  # runs at work are told to end by flows/server.py, being of the same process group


def serve_deployment() -> None:
    """Register the deployment with the server that PREFECT_API_URL names, and start the runs that are asked for.

    `make serve` starts this as a process of its own.
    """
    runner = _Runner(name=NAME, pause_on_shutdown=False)
    # By module path, so that the folder that it runs in need not be the repository's.
    runner.add_flow(build_hmr_skel, name=NAME, entrypoint_type=EntrypointType.MODULE_PATH)
    # Only now can `prefect deployment run` in another terminal find it.
    path = address_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(os.environ["PREFECT_API_URL"])
    print(f"ready: in another terminal, from this folder, prefect deployment run {NAME}", flush=True)
    asyncio.run(runner.start())
