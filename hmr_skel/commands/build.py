"""`hmr-skel fit`, `dataset`, `serve` and `images`: from label files to shards of SKEL annotations."""

import argparse
import atexit
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from hmr_skel.commands.arguments import DATA_HELP, add, add_number, new_command
from hmr_skel.commands.output import progress, show
from hmr_skel.errors import UserError

FIT = """\
Fit one shard: read its rows, check them, fit SKEL to each SMPL mesh, and write
  OUT/data/train-00007-of-00012.parquet   the kept rows, with units in the field metadata
  OUT/rejects/...                         the rejected rows, each with its reason
  OUT/meta/...json                        counts, times, error statistics; written last
A complete shard is skipped.
Example: hmr-skel fit --shard 7"""

DATASET = """\
Fit all shards of a manifest through the Prefect flow build-hmr-skel, on a temporary server. Complete shards are
skipped, so the same command continues an interrupted run. If a shard fails, or another build is working on it, the
command builds the others, then names the shard and exits with status 2.

--workers 8 fits with eight processes on Dask. Each gets one of the GPUs (those in CUDA_VISIBLE_DEVICES, if it is set)
in turn, so workers share GPUs if there are fewer. Without a GPU, each gets a share of the cores. If a process dies,
another builds its shard. docs/machines.md says how to use several machines.
Example: hmr-skel dataset --manifest manifests/hmr-skel.toml --device cuda --workers 2"""

SERVE = """\
Start the Prefect server (pages and API, for this machine only) and serve the deployment build-hmr-skel until Ctrl-C.
To start builds, run for example in another terminal in the same folder:
  prefect deployment run build-hmr-skel
  prefect deployment run build-hmr-skel -p manifest=manifests/hmr-skel.toml
  prefect deployment run build-hmr-skel -p workers=8
The server has a new password at each start. The commands above find it; Prefect's page asks for it. To set your own,
use PREFECT_SERVER_API_AUTH_STRING=name:password (docs/security.md)."""

IMAGES = """\
Render the images of a generated label set as JPEGs, at the paths that its rows name below the manifest's image_root.
Images that exist are kept. Sources with photographs are ignored.
Example: hmr-skel images --manifest manifests/open.toml"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    fit = new_command(commands, "fit", "fit one shard", FIT, run_fit)
    add_number(fit, "--shard", int, 0, required=True, help="number of the shard, from 0; 07 is 7")
    _add_choices(fit)

    dataset = new_command(commands, "dataset", "fit all shards", DATASET, run_dataset)
    dataset.add_argument("--shards", metavar="LIST", help="build only these, e.g. 0-3,7 (default: all)")
    text = "build with N processes (default: 1, this process); more than 1 need hmr-skel[dask]"
    add_number(dataset, "--workers", int, 1, help=text)
    text = "build with a running Dask cluster, named by its scheduler, tcp://head:8786; needs hmr-skel[dask]"
    dataset.add_argument("--dask-address", metavar="URL", help=text)
    text = "use a running Prefect server, http://127.0.0.1:4200/api, in place of a temporary one"
    dataset.add_argument("--server", metavar="URL", help=text)
    _add_choices(dataset)

    serve = new_command(
        commands, "serve", "start Prefect's server and pages, for starting builds there", SERVE, run_serve
    )
    add_number(serve, "--port", int, 1, 65535, default=4200, help="port of the server")

    images = new_command(
        commands, "images", "render the default dataset's images", IMAGES,
        lambda args: render_images(args.manifest, args.workers, quiet=args.quiet),
    )  # fmt: skip
    add(images, "manifest", "quiet")
    add_number(images, "--workers", int, 1, default=os.cpu_count() or 1, help="number of processes")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    add(parser, "manifest")
    text = f"place of the dataset: a folder, or s3://bucket/prefix {DATA_HELP}"
    parser.add_argument("--out", metavar="DIR", help=text)
    parser.add_argument("--rebuild", action="store_true", help="also fit complete shards again")
    add(parser, "device", "json", "quiet")


def _stop_on_signals() -> list[int]:
    """Make SIGTERM, and SIGHUP (a closed terminal) unless `nohup` ignores it, interrupt the command as Ctrl-C does.

    Returns a list that received signals are added to.
    """
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    return received


@contextlib.contextmanager
def _note_instead(complete: bool) -> Iterator[None]:
    """For a complete dataset on a read-only disk, print a note instead of an error if its card cannot be written."""
    try:
        yield
    except UserError as error:
        if not complete:
            raise
        print(f"note: README.md is out of date and cannot be written: {error}", file=sys.stderr)


def run_fit(args: argparse.Namespace) -> None:
    """Fit one shard in this process, without Prefect."""
    from flows.shard import Builder

    _stop_on_signals()
    builder = Builder.open(args.manifest, args.out, args.device, shards=str(args.shard), quiet=args.quiet)
    if builder.unfinished([args.shard], rebuild=args.rebuild):
        builder.prepare()
    report = builder.build(args.shard, rebuild=args.rebuild, progress=not args.quiet)
    with _note_instead(report.skipped):
        builder.write_card()
    show(args, report.text(), asdict(report))


def run_dataset(args: argparse.Namespace) -> None:
    """Run the flow in this process, on the named Prefect server or a temporary one."""
    from flows.address import client_settings, settings_for
    from flows.cluster import check_dask, is_cluster
    from flows.report import ShardsUnfinished, summary_text
    from flows.server import new_password, running_server
    from hmr_skel.data.storage import locate

    if args.out is not None:
        locate(args.out)  # Prefect records the parameters of a flow, so refuse a URI with a password here
    if args.dask_address is not None and args.workers is not None:
        raise UserError("--dask-address does not go with --workers: the cluster has its own workers. Leave one out.")
    if is_cluster(args.workers, args.dask_address):
        check_dask()
    received = _stop_on_signals()
    if not args.rebuild and (summary := _complete_already(args)) is not None:
        show(args, summary_text(summary), summary)
        return
    # Exit handlers run in reverse order. The server must end after Prefect's own handlers, which still send data to it,
    # so its handler is registered before Prefect is imported. Prefect also reads its settings at import.
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
        os.environ |= client_settings(url, password)  # workers inherit them
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # our own report names the errors
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")

    from flows.build import build_hmr_skel

    names = ("manifest", "out", "device", "shards", "rebuild", "workers", "dask_address")
    try:
        summary = build_hmr_skel(**{name: getattr(args, name) for name in names}, progress=not args.quiet)
    except ShardsUnfinished as unfinished:
        print(unfinished.traceback, end="", file=sys.stderr)
        show(args, summary_text(unfinished.summary), unfinished.summary)
        raise
    except Exception as error:
        if received:  # a library has turned the interrupt into another error
            raise KeyboardInterrupt from error
        if is_refusal(error):
            raise UserError(
                f"the Prefect server at {os.environ['PREFECT_API_URL']} refuses the password. Expected "
                "PREFECT_API_AUTH_STRING=name:password, see docs/security.md."
            ) from error
        if process is None or process.poll() is None:
            raise
        status = f"the Prefect server ended (exit status {process.returncode}) while the flow ran ({error})"
        print(
            f"error: {status}. Finished shards are kept. Start the same command again to continue.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # at a normal exit, Prefect would try for a minute to send data to the server
    show(args, summary_text(summary), summary)


def _complete_already(args: argparse.Namespace) -> dict[str, Any] | None:
    """The summary, without Prefect, if all shards are complete; None if there is work.

    Raises `UserError` if the manifest, a label file or a body model cannot be used, before a server is started.
    """
    from flows.report import summarise_run
    from flows.shard import Builder

    start = time.monotonic()
    builder = Builder.open(args.manifest, args.out, args.device, shards=args.shards, quiet=args.quiet)
    wanted = builder.choose(args.shards)
    if builder.unfinished(wanted):
        return None
    with _note_instead(True):
        builder.write_card()
    return summarise_run(builder, builder.reports(wanted), {}, time.monotonic() - start)


def is_refusal(error: Exception) -> bool:
    """Whether a server has refused the password."""
    import httpx

    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 401


def run_serve(args: argparse.Namespace) -> int:
    """Run the server and serve the deployment until interrupted."""
    from flows.server import serve

    _stop_on_signals()
    return serve(args.port)


def render_images(manifest_file: str, workers: int | None = None, *, quiet: bool) -> None:
    """Render the missing images of a manifest's generated label sets. Raises `UserError` if it has no such set."""
    from flows.sources import make_missing
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.open_data.images import make_images

    manifest = load_manifest(manifest_file)
    generated = [source for source in manifest.sources if source.generate is not None]
    if not generated:
        raise UserError(
            f"{manifest_file} has no generated label set. Its images are photographs: put them where it says."
        )
    make_missing(manifest, quiet=quiet)
    models, workers = manifest.body_models.path, workers or os.cpu_count() or 1
    for source in generated:
        if (root := source.image_root) is None:
            raise UserError(f"{manifest_file}: source {source.name!r} has no image_root, expected a folder for images.")
        start = time.perf_counter()
        with progress(quiet, "image", source.rows) as bar:
            made = make_images(source.file, root, models, workers, lambda done, bar=bar: bar.update(done - bar.n))
        if not quiet:
            rate = made / (time.perf_counter() - start)
            print(f"{source.name}: {made:,} images rendered, {rate:.1f} per second, in {root}")
