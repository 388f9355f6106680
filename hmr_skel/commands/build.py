"""`hmr-skel fit` and `hmr-skel dataset`: label files to shards of SKEL annotations."""

import argparse
import atexit
import contextlib
import json
import os
import signal
import sys

from hmr_skel.commands.arguments import add, new_command
from hmr_skel.errors import UserError

FIT = """\
Fit one shard: read its rows, check them, fit SKEL to each SMPL mesh, and write
  OUT/data/train-00007-of-00012.parquet   the rows, one schema, units in the field metadata
  OUT/rejects/...                         the rows left out, each with its reason
  OUT/meta/...json                        counts, timings, error statistics; written last
A shard that is complete and up to date is not fitted again."""

DATASET = """\
Fit all shards of a manifest through the Prefect flow build-hmr-skel, on a temporary server. Complete shards are
skipped, so an interrupted run goes on where it was. A shard that fails does not stop the others; the command then names
it and ends with exit status 2.

Any number of these commands, on any machines, may build into one folder or bucket at once: each shard is built by one,
and what a killed one has begun by another. --workers starts several here, each with a GPU of its own (of those that
CUDA_VISIBLE_DEVICES names, if it is set), or its share of the cores. docs/machines.md has the commands."""

REBUILD = "fit again what is complete already"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `fit` and `dataset`."""
    fit = new_command(
        commands, "fit", "fit one shard", FIT, run_fit, "the shard is unfinished; the same command begins it anew"
    )
    fit.add_argument("--shard", required=True, metavar="N", help="which shard, counted from 0; 07 is 7")
    _add_choices(fit, REBUILD)

    dataset = new_command(
        commands, "dataset", "fit all shards", DATASET, run_dataset,
        "finished shards are kept; the same command builds the others",
    )  # fmt: skip
    dataset.add_argument("--shards", metavar="LIST", help="only these, e.g. 0-3,7 (default: all)")
    dataset.add_argument(
        "--workers", type=int, metavar="N", help="build with N processes of this machine (default: 1, this one)"
    )
    dataset.add_argument(
        "--server",
        metavar="URL",
        help="a Prefect server that runs, http://127.0.0.1:4200/api, in place of a temporary one",
    )
    dataset.add_argument(
        "--runner",
        choices=("threads", "dask"),
        default="threads",
        help="what runs the flow's tasks: threads of this process (default), or a Dask cluster; needs hmr-skel[dask]",
    )
    dataset.add_argument(
        "--dask-address",
        metavar="URL",
        help="the cluster's scheduler, tcp://host:8786 (default: a cluster of --workers processes on this machine)",
    )
    _add_choices(dataset, f"{REBUILD}; with --workers all of it becomes unfinished before the first is built")


def _add_choices(parser: argparse.ArgumentParser, rebuild: str) -> None:
    add(parser, "manifest")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where the dataset goes: a folder, or s3://bucket/prefix (default: data/<manifest name>)",
    )
    parser.add_argument("--rebuild", action="store_true", help=rebuild)
    add(parser, "device", "json", "quiet")


def _stop_like_ctrl_c() -> None:
    """Let SIGTERM, and SIGHUP (the terminal is gone) unless `nohup` has it ignored, unwind what is at work."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def run_fit(args: argparse.Namespace) -> None:
    """Fit one shard in this process, without Prefect."""
    from flows.shard import build_shard
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.data.shards import parse_shards

    _stop_like_ctrl_c()
    numbers = parse_shards(args.shard)
    if len(numbers) != 1:
        raise UserError(
            f"--shard {args.shard} names {len(numbers)} shards; `hmr-skel dataset --shards` builds several."
        )
    manifest = load_manifest(args.manifest)
    quiet = args.quiet
    report = build_shard(manifest, numbers[0], args.out, device=args.device, rebuild=args.rebuild, progress=not quiet)
    if not quiet:
        print(report.text())
    if args.json:
        print(json.dumps(report.as_dict()))


def run_dataset(args: argparse.Namespace) -> None:
    """Run the flow in this process, or in several, on a Prefect server that ends with it unless one is named."""
    from flows.address import client_settings, settings_for
    from flows.server import new_password, running_server
    from hmr_skel.data.storage import locate
    from hmr_skel.heap import share_arenas

    share_arenas()
    if args.out is not None:
        locate(args.out)  # Prefect records a flow's parameters: none that holds a password may come so far
    workers = _checked_workers(args)
    _stop_like_ctrl_c()
    if not args.rebuild and (summary := _complete_already(args)) is not None:
        _print_summary(summary, args)
        return
    # Ended at exit, after Prefect's own exit handlers, which still send it what they have: the last one in is the first
    # one out. For the same reason Prefect is imported only afterwards; that it finds its settings is another.
    server = contextlib.ExitStack()
    atexit.register(server.close)
    process = None
    if args.server is not None:
        os.environ |= settings_for(args.server)
    else:
        if not args.quiet:
            print("starting a temporary Prefect server ...", file=sys.stderr, flush=True)
        password = new_password()
        process, url = server.enter_context(running_server(password, ui=False))
        os.environ |= client_settings(url, password)  # of the workers too, which inherit it
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the report says what went wrong
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")

    from flows.summary import ShardsFailed

    try:
        if args.runner == "threads" and workers > 1:
            summary = _build_with_workers(args, workers)
        else:
            summary = _build_here(args)
    except ShardsFailed as failed:
        print(failed.traceback, end="", file=sys.stderr)
        _print_summary(failed.summary, args)
        raise
    except Exception as error:
        if is_refusal(error):
            raise UserError(
                f"the Prefect server at {os.environ['PREFECT_API_URL']} wants another password. Expected "
                "PREFECT_API_AUTH_STRING=name:password, as docs/security.md says."
            ) from error
        if process is None or process.poll() is None:
            raise
        print(
            f"error: the Prefect server ended (exit status {process.returncode}) while the flow ran ({error}). What is "
            "finished is kept; the same command goes on from there.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # at a normal exit Prefect would try for a minute to send the server what it has
    _print_summary(summary, args)


def _complete_already(args: argparse.Namespace):
    """The summary of shards that are all complete, without Prefect and its server; None where there is work.

    Raises `UserError` where the manifest, a label file or a body model cannot be used: before a server is started.
    """
    import time

    from flows.plan import Plan
    from flows.summary import summarise_build
    from hmr_skel.data.patience import patiently

    start = time.monotonic()
    plan = Plan.open(args.manifest, args.out, quiet=args.quiet)
    wanted = plan.choose(args.shards)
    if patiently(lambda: plan.unfinished(wanted)):
        return None
    reports = [report for index in wanted if (report := plan.report(index, skipped=True)) is not None]
    plan.write_card()
    plan.warn_of_mix()
    seconds = time.monotonic() - start
    return summarise_build(plan, reports, {}, seconds, {"open": seconds})


def is_refusal(error: Exception) -> bool:
    """Whether a server answered that it wants another password."""
    import httpx

    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 401


def _checked_workers(args: argparse.Namespace) -> int:
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected a whole number from 1.")
    if args.dask_address is not None and (args.runner != "dask" or args.workers is not None):
        raise UserError("--dask-address goes with --runner dask, and without --workers: the cluster has its own.")
    return args.workers or 1


def _build_with_workers(args: argparse.Namespace, workers: int):
    from flows.workers import build_with_workers

    return build_with_workers(
        workers,
        os.environ["PREFECT_API_URL"],
        manifest=args.manifest,
        out=args.out,
        device=args.device,
        shards=args.shards,
        rebuild=args.rebuild,
        quiet=args.quiet,
    )


def _build_here(args: argparse.Namespace):
    from flows.build import build_hmr_skel
    from flows.summary import DatasetSummary

    flow = build_hmr_skel
    if args.runner == "dask":
        from flows.dask_runner import dask_runner

        flow = build_hmr_skel.with_options(task_runner=dask_runner(args.dask_address, args.workers))
    result = flow(
        manifest=args.manifest,
        out=args.out,
        device=args.device,
        shards=args.shards,
        rebuild=args.rebuild,
        progress=not args.quiet,
    )
    return DatasetSummary(**result)


def _print_summary(summary, args: argparse.Namespace) -> None:
    if not args.quiet:
        print(summary.text())
    if args.json:
        print(json.dumps(summary.as_dict()))
