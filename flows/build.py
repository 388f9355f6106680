"""The Prefect flow `build-hmr-skel`: a task per shard, on whatever task runner. `flows/shard.py` builds the shard.

Done is what the output says is done (the meta file's fingerprint), never what a run's state says: a killed run, another
machine and a deleted Prefect database make no difference. Who is at work on what is for the output to say as well
(`hmr_skel/data/attempts.py`): any number of runs, on any machines, may share a folder, and each shard is built once.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException
from prefect.futures import PrefectConcurrentFuture, PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff
from tqdm import tqdm

from flows.history import forget_old_runs
from flows.progress import Progress
from flows.shard import Builder
from flows.shard_report import ShardReport
from flows.stages import timed
from flows.summary import DatasetSummary, ShardsFailed, summarise_build
from hmr_skel.data.attempts import AtWork
from hmr_skel.data.patience import may_pass, patiently
from hmr_skel.device import DeviceLost
from hmr_skel.heap import share_arenas

DEFAULT_MANIFEST = "manifests/open.toml"

NAME = "build-hmr-skel"


def may_heal(task, task_run, state) -> bool:
    """Is trying again worth it? Yes for trouble with storage; no for wrong input, bugs, and a device that failed."""
    return may_pass(state.result(raise_on_failure=False))


@lru_cache(maxsize=1)
def _builder(run: str, manifest: str, out: str | None, device: str, quiet: bool) -> Builder:
    """Models and label files, opened once per flow run and process; a later run replaces them."""
    return Builder.open(manifest, out, device, quiet=quiet)


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
    manifest: str, index: int, out: str | None, device: str, rebuild: bool = False, progress: bool = False
) -> dict[str, Any] | None:
    """Build one shard, or skip it where it is complete. Returns `ShardReport.as_dict`, small enough for any storage.

    None where another process is building it: nobody waits inside a task, which would keep others from their turn.
    """
    builder = _builder(str(flow_run.id), manifest, out, device, not progress)
    try:
        report = builder.build(index, rebuild=rebuild, progress=progress, wait=False)
    except AtWork as busy:
        get_run_logger().info(str(busy))
        return None
    get_run_logger().info(report.line())
    return report.as_dict()


# Two workers: one shard's fit keeps a GPU, or every core, busy (they take turns), while another is read or written.
# Another runner: build_hmr_skel.with_options(task_runner=...).
@flow(  # ty: ignore[no-matching-overload]: it knows task runners of futures of anything only
    name=NAME, task_runner=ThreadPoolTaskRunner(max_workers=2), persist_result=False
)
def build_hmr_skel(
    manifest: str = DEFAULT_MANIFEST,
    out: str | None = None,
    device: str = "auto",
    shards: str | None = None,
    rebuild: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Build the shards of a manifest that are not complete yet.

    Finished runs of this flow but for the latest 50 are removed from Prefect's database first.

    Args:
        manifest: what to build, a .toml file; relative to the folder that `make serve` runs in.
        out: where the dataset goes; default data/<manifest name>.
        device: cpu, cuda, cuda:1 ...; auto takes the first CUDA device, else the CPU.
        shards: only these, counted from 0, e.g. 0-3,7; default all.
        rebuild: build complete shards again.
        progress: show progress bars, where the output is a terminal.

    Returns:
        `DatasetSummary.as_dict`.

    Raises:
        UserError: the manifest, a label file, a model file or the device cannot be used; before any shard.
        DeviceLost: a CUDA error; without the shards that are not done yet.
        ShardsFailed: shards failed; after the others are done, with each one's reason.
    """
    start = time.monotonic()
    share_arenas()  # late, as Prefect's threads are there; `hmr-skel dataset` has done it
    futures: dict[PrefectFuture, int] = {}
    seconds: dict[str, float] = {}
    with timed(seconds, "open"):
        builder = _builder(str(flow_run.id), manifest, out, device, not progress)
    try:
        wanted = builder.choose(shards)
        todo = patiently(lambda: builder.unfinished(wanted, rebuild=rebuild))
        for text in builder.outdated(todo) if progress else ():
            print(f"{text} will be built again", file=sys.stderr, flush=True)
        with timed(seconds, "load"):
            if todo:
                builder.fitter.load()
        so_far = Progress({index: builder.shards[index].num_rows for index in wanted}, todo)
        _tidy()
        artifact = create_progress_artifact(so_far.percent, key="build-progress", description=so_far.text())
        turns = deque(patiently(lambda: builder.turns(wanted)))
        reports: list[ShardReport] = []
        failures: dict[int, BaseException] = {}
        with tqdm(
            total=so_far.rows,
            initial=so_far.rows_done,
            desc=builder.manifest.name,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rows [{elapsed}{postfix}]",
            disable=None if progress else True,
        ) as bar:
            claimed: list[int] = []  # by other processes
            while turns or claimed:
                if not turns:
                    free = builder.wait_for_others(claimed, _said_by(bar, progress))
                    claimed = [index for index in claimed if index not in free]
                    turns.extend(patiently(partial(builder.turns, free)))
                futures.clear()
                for index in turns.popleft():
                    futures[build_shard_task.submit(manifest, index, out, device, rebuild, progress)] = index
                for future in as_completed(list(futures)):
                    index, result = futures[future], future.result(raise_on_failure=False)
                    if result is None:
                        claimed.append(index)
                        continue
                    if isinstance(result, dict):
                        reports.append(ShardReport(**result))
                        so_far.end(index)
                    elif isinstance(result, DeviceLost) and isinstance(future, PrefectConcurrentFuture):
                        raise result  # of this process, for which the device is lost until it ends
                    else:
                        failures[index] = result
                        so_far.end(index, failed=True)
                    said = index not in failures and not reports[-1].skipped
                    if progress and bar.disable and said:  # no terminal, perhaps a log file
                        print(f"{reports[-1].line()}; {so_far.text()}", file=sys.stderr, flush=True)
                    bar.n = so_far.rows_done
                    bar.set_postfix_str(so_far.text())
                    update_progress_artifact(artifact, so_far.percent, description=so_far.text())  # ty: ignore
        failures |= patiently(lambda: builder.replaced([report.shard for report in reports]))
        reports = [report for report in reports if report.shard not in failures]
        patiently(builder.write_card)
        builder.warn_of_mix()
        summary = summarise_build(builder, reports, failures, time.monotonic() - start, seconds)
        _publish(summary)
        if failures:
            raise ShardsFailed(summary, failures)
        return summary.as_dict()
    finally:  # after an interrupt, Prefect's cancelling or a device that failed, shards are still at work
        builder.stopped.set()


def _tidy() -> None:
    """Many runs may do so at once, on one database. That it was not done is no reason to build nothing."""
    try:
        forget_old_runs(NAME)
    except (PrefectException, httpx.HTTPError) as error:
        get_run_logger().warning("old runs are left in Prefect's database: %s", error)


def _said_by(bar: tqdm, progress: bool) -> Callable[[str], None]:
    """Says a text beside the progress bar; where there is none, once, in a line of its own."""
    last = ""

    def say(text: str) -> None:
        nonlocal last
        if progress and bar.disable and text != last:
            print(text, file=sys.stderr, flush=True)
        bar.set_postfix_str(text)
        last = text

    return say


def _publish(summary: DatasetSummary) -> None:
    """Artifacts: what the user interface shows of a run."""
    create_table_artifact(key="build-shards", table=summary.table(), description=f"Shards of {summary.name}")
    create_markdown_artifact(key="build-summary", markdown=summary.markdown(), description=f"Summary of {summary.name}")
