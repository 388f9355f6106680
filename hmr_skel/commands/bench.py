"""`hmr-skel bench`: how fast, how accurate, how near to the best there is; measured here and now."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from hmr_skel.commands import bench_evaluate, bench_loader, bench_network, bench_workers
from hmr_skel.commands.build import DEFAULT_MANIFEST

FIT = """\
Time the fit on --rows rows, and judge it on --compare-rows of them, spread evenly over the file, beside
  the published aligner's protocol (autograd, L-BFGS, four steps; our own implementation), and
  the floor: a long float64 search from many starts for the least of the same objective.
Everything is measured in one run on one machine. Units: rows per second, millimetres of mean vertex distance per row
(v2v), radians. On two CPU cores the whole takes under 12 minutes; --no-baseline and --no-floor are the slow parts."""

QUALITY = """\
What each choice of the fit costs, one table each on the same rows: SKEL's shape, its root, table of limits (cost in mm
against no limits), gender, and the error by body part. v2v in mm per row, betas in standard deviations; rows/s of each
on this machine."""

IO = """\
Time the whole way from a label file to Parquet shards, and its parts: reading, checking, fitting, writing (rows/s). The
shards go to a temporary folder."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add all that `bench` measures."""
    parser = commands.add_parser("bench", help="measure speed and accuracy")
    actions = parser.add_subparsers(metavar="WHAT", required=True)

    def add(name: str, short: str, text: str, rows: int) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=short, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        action.add_argument(
            "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="labels and body models (default: %(default)s)"
        )
        action.add_argument("--labels", type=Path, metavar="FILE", help="a CameraHMR-format npz in place of its labels")
        action.add_argument("--rows", type=_count, default=rows, help="rows to time (default: %(default)s)")
        action.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
        action.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
        action.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no tables")
        return action

    fit = add("fit", "speed and accuracy of the fit", FIT, 4096)
    fit.add_argument("--compare-rows", type=_count, default=64, help="rows all are judged on (default: %(default)s)")
    fit.add_argument("--batch", type=_count, help="rows fitted together (default: the recipe's)")
    fit.add_argument("--repeats", type=_count, default=3, help="warm passes, the median counts (default: %(default)s)")
    fit.add_argument("--no-baseline", action="store_true", help="without the published protocol")
    fit.add_argument("--baseline-rounds", type=_count, default=10, help="its optimiser's calls a step (published: 10)")
    fit.add_argument("--baseline-iterations", type=_count, default=20, help="iterations a call (published: 20)")
    fit.add_argument("--baseline-batch", type=_count, default=32, help="rows together (default: %(default)s)")
    fit.add_argument("--no-floor", action="store_true", help="without the search for the least objective")
    fit.add_argument("--floor-starts", type=_count, default=4, help="its random starts (default: %(default)s)")
    fit.add_argument("--no-files", action="store_true", help="without the end-to-end run through files")
    fit.add_argument("--no-sweep", action="store_true", help="without the rates by batch size and by rows")
    fit.add_argument("--plot", type=Path, metavar="FILE", help="draw rows/s by batch size and by rows into this PNG")
    fit.set_defaults(run=run_fit)
    add("quality", "what each choice costs in millimetres", QUALITY, 256).set_defaults(run=run_quality)
    add("io", "from label file to Parquet", IO, 4096).set_defaults(run=run_io)
    bench_workers.add_commands(actions, _count)
    bench_loader.add_commands(actions, _count)
    bench_network.add_commands(actions, _count)
    bench_evaluate.add_commands(actions, _count)


def run_fit(args: argparse.Namespace) -> None:
    """Measure, print, draw."""
    from dataclasses import replace

    import torch

    from fitting.bench import BenchOptions, bench_fit, subset
    from flows.bench import bench_files

    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        bench = _Inputs(args, Path(work))
        config = bench.config if args.batch is None else replace(bench.config, batch=args.batch, gpu_batch=args.batch)
        count = len(bench.rows.params.betas)
        timed = bench.rows.params[torch.arange(args.rows) % count]
        compared = torch.from_numpy(subset(count, args.compare_rows))
        options = BenchOptions(
            repeats=args.repeats,
            baseline=not args.no_baseline,
            baseline_rounds=args.baseline_rounds,
            baseline_iterations=args.baseline_iterations,
            baseline_batch=args.baseline_batch,
            floor=not args.no_floor,
            floor_random_starts=args.floor_starts,
            sweep=not args.no_sweep,
        )
        compare = bench.rows.params[compared]
        report = bench_fit(timed, compare, bench.smpl, bench.skel, config, bench.device, options, bars)
        names = {
            "labels": bench.rows.name,
            "distinct_rows": min(count, args.rows),
            "rows_left_out": bench.rows.left_out,
            "compare_subset": f"{bench.rows.name}: row i*{count}//{len(compared)} for i in 0..{len(compared) - 1}",
            "smpl_gender": bench.rows.smpl_gender,
            "skel_gender": bench.manifest.skel_gender,
            "recipe": bench.manifest.recipe,
        }
        if not args.no_files:
            files = bench_files(bench.manifest, args.rows, Path(work) / "out", str(bench.device), bars)
            report |= {"end_to_end_rows_per_s": files["end_to_end_rows_per_s"], "files": files}
    report |= names
    if not args.quiet:
        from hmr_skel.commands.bench_text import fit_text

        print(fit_text(report))
    if args.plot is not None:
        _draw(report, args.plot)
    if args.json:
        print(json.dumps(report))


def run_quality(args: argparse.Namespace) -> None:
    """Measure and print the tables."""
    import torch

    from fitting.bench import subset
    from fitting.bench_quality import quality_tables
    from flows.sources import model_file
    from hmr_skel.body.files import SKEL_FILES
    from hmr_skel.body.skel import Skel

    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        bench = _Inputs(args, Path(work))
        count = len(bench.rows.params.betas)
        chosen = torch.from_numpy(subset(count, args.rows))
        models = bench.manifest.body_models
        skels = {g: Skel.load(model_file(models, f)) for g, f in SKEL_FILES.items() if (models.path / f).is_file()}
        tables = quality_tables(
            bench.rows.params[chosen], bench.smpl, skels, bench.manifest.skel_gender, bench.config, bench.device, bars
        )
    report: dict[str, Any] = {
        "labels": bench.rows.name,
        "subset": f"{bench.rows.name}: row i*{count}//{len(chosen)} for i in 0..{len(chosen) - 1}",
        "rows": len(chosen),
        "device": str(bench.device),
        "skel_gender": bench.manifest.skel_gender,
        "recipe": bench.manifest.recipe,
        "tables": tables,
    }
    if not args.quiet:
        from hmr_skel.commands.bench_text import quality_text

        print(quality_text(report))
    if args.json:
        print(json.dumps(report))


def run_io(args: argparse.Namespace) -> None:
    """Time the files alone."""
    from fitting.machine import machine
    from flows.bench import bench_files, with_labels
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.device import resolve_device

    device = resolve_device(args.device)
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        manifest = with_labels(load_manifest(args.manifest), args.labels, args.rows)
        report = bench_files(manifest, args.rows, Path(work) / "out", str(device), bars)
    report = {"rows": report.pop("end_to_end_rows"), "device": str(device)} | report | {"machine": machine(device)}
    if not args.quiet:
        from hmr_skel.commands.bench_text import io_text

        print(io_text(report))
    if args.json:
        print(json.dumps(report))


class _Inputs:
    """Rows and bodies that a benchmark starts from."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        import fitting
        from flows.bench import load_rows, with_labels
        from flows.sources import model_file
        from hmr_skel.body.files import SKEL_FILES, SMPL_FILES
        from hmr_skel.body.skel import Skel
        from hmr_skel.body.smpl import Smpl
        from hmr_skel.data.manifest import load_manifest
        from hmr_skel.device import resolve_device

        self.device = resolve_device(args.device)
        self.manifest = with_labels(load_manifest(args.manifest), args.labels, args.rows)
        self.config = fitting.recipe(self.manifest.recipe)
        self.rows = load_rows(self.manifest, work / "cache", quiet=args.quiet)
        models = self.manifest.body_models
        self.smpl = Smpl.load(model_file(models, SMPL_FILES[self.rows.smpl_gender]))
        self.skel = Skel.load(model_file(models, SKEL_FILES[self.manifest.skel_gender]))


class Bars:
    """A progress bar per thing that is measured; where there is no terminal, a line when it starts."""

    def __init__(self, quiet: bool) -> None:
        self.off = True if quiet else None  # None: off where nobody watches
        self.bar = None
        self.what = ""

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self.bar is None or what != self.what or total != self.bar.total:
            self.__exit__()
            if what != self.what and not self.off and not sys.stderr.isatty():
                print(f"measuring: {what}", file=sys.stderr, flush=True)
            self.bar, self.what = tqdm(total=total, desc=what, leave=False, disable=self.off), what
        self.bar.update(done - self.bar.n)


def _draw(report: dict[str, Any], path: Path) -> None:
    from fitting.bench_plot import draw

    try:
        draw(report, path)
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'hmr-skel[bench]')", file=sys.stderr)
    else:
        print(f"plot: {path}", file=sys.stderr)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
