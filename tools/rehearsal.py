"""A rehearsal at the paper's size: three million rows in 150 shards of 20,000, from planning to training samples.

    python -m tools.rehearsal --folder /disk/rehearsal --really 10

A few shards are really built by `hmr-skel dataset`. Copies with their own row numbers and meta files stand in for the
others. Each step runs in a process of its own. The table gives its seconds, its peak memory (own: anonymous pages; all:
with mapped files and what processes share) and the disk space that it took. Needs about 4 kB of disk a row. Linux only.
"""

import argparse
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmr_skel.cli import run
from hmr_skel.commands.arguments import HelpFormatter, add_number
from hmr_skel.errors import UserError
from tools.processes import descendants, memory_mb

SOURCES = 3
BASE_ROWS = 4032  # different rows; label files repeat them
SAMPLES = 1000
STEP_S = 3600.0
"""A step that takes longer is ended."""
_MANIFEST = """\
name = "rehearsal"
skel_gender = "male"
rows_per_shard = {rows_per_shard}
held_out_shards = 2

[body_models]
kind = "open"
path = "{folder}/body_models"
"""
_SOURCE = """
[[sources]]
name = "source{number}"
format = "camerahmr"
file = "{folder}/source{number}.npz"
image_root = "{folder}/images"
image_path = [["^.*$", "picture.jpg"]]
smpl_gender = "neutral"
"""


@dataclass(frozen=True)
class Scene:
    """The folder of a rehearsal, and its size."""

    folder: Path
    rows: int
    shards: int
    really: int

    @property
    def manifest(self) -> Path:
        return self.folder / "rehearsal.toml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def command(self, name: str, *options: str) -> list[str]:
        """An `hmr-skel` command on the manifest."""
        return [sys.executable, "-m", "hmr_skel.cli", name, "--manifest", str(self.manifest), *options]


def make_label_files(scene: Scene) -> str:
    """Label files of many rows, the manifest, and one picture for all rows."""
    import cv2

    from flows.sources import make_open_body
    from hmr_skel.open_data.labels import make_labels

    make_open_body(scene.folder / "body_models", quiet=True)
    make_labels(scene.folder / "base.npz", BASE_ROWS, 0, scene.folder / "body_models")
    with np.load(scene.folder / "base.npz") as file:
        base = dict(file)
    ends = [scene.rows * i // SOURCES for i in range(SOURCES + 1)]
    for number, rows in enumerate(np.diff(ends).tolist()):
        with zipfile.ZipFile(scene.folder / f"source{number}.npz", "w", allowZip64=True) as archive:
            for name, column in base.items():
                header = {"descr": column.dtype.str, "fortran_order": False, "shape": (rows, *column.shape[1:])}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_2_0(member, header)
                    for start in range(0, rows, BASE_ROWS):
                        member.write(column[: rows - start].tobytes())
    (scene.folder / "images").mkdir()
    cv2.imwrite(str(scene.folder / "images" / "picture.jpg"), np.full((1080, 1920, 3), 127, np.uint8))
    parts = [_SOURCE.format(folder=scene.folder, number=number) for number in range(SOURCES)]
    head = _MANIFEST.format(folder=scene.folder, rows_per_shard=scene.rows // scene.shards)
    scene.manifest.write_text(head + "".join(parts))
    return f"{scene.rows:,} rows in {SOURCES} files"


def plan(scene: Scene) -> str:
    """The shards of the manifest, and which are complete."""
    builder = _builder(scene)
    return f"{len(builder.shards)} shards, {len(builder.unfinished(range(len(builder.shards))))} to build"


def open_labels(scene: Scene) -> str:
    """Load the body models, and compare the label files with their checksums, as a build does before its first row."""
    _builder(scene).prepare()
    return "label files checked, body models loaded"


def fill(scene: Scene) -> str:
    """Put copies in place of the shards that are not built; each has its own rows, fingerprint and meta file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hmr_skel.data.schema import SCHEMA, write_shard
    from hmr_skel.data.shards import shard_state
    from hmr_skel.rows import Reject

    builder = _builder(scene)
    for shard in builder.shards[scene.really :]:
        model = builder.shards[shard.index % scene.really]
        rows = [(piece.source, row) for piece in shard.pieces for row in range(piece.start, piece.stop)]
        first = model.pieces[0].start  # it is of one source, see `_run`
        table = pq.read_table(model.data_file(builder.out)).replace_schema_metadata(SCHEMA.metadata)
        own = [rows[row - first] for row in table["source_row"].to_pylist()]
        columns = [("row_id", [f"{source}/{row:08d}" for source, row in own])]
        columns += zip(("source", "source_row"), map(list, zip(*own, strict=True)), strict=True)
        for name, values in columns:
            field = SCHEMA.field(name)
            table = table.set_column(SCHEMA.get_field_index(name), field, pa.array(values, field.type))
        rejects = [
            Reject(*rows[reject["source_row"] - first], reject["reason"], reject["detail"])
            for reject in pq.read_table(model.rejects_file(builder.out)).to_pylist()
        ]
        info = (shard_state(builder.out, model).meta or {}) | {"manifest_name": "rehearsal"}
        write_shard(builder.out, shard, table, rejects, builder.ingredients(shard), {}, info)
    return f"{len(builder.shards) - scene.really} shards copied"


def load(scene: Scene) -> str:
    """`load_shards`, a row, and a column of all rows."""
    from hmr_skel import load_shards

    shards = load_shards(scene.out)
    row = shards[len(shards) // 2]
    return f"{len(shards):,} rows; {row['row_id']}; v2v mean {np.nanmean(shards['v2v_mm']):.2f} mm"


def open_training(scene: Scene) -> str:
    """The start of a training: rows are unpacked the first time, then chosen and put in order."""
    dataset = _samples(scene)
    return f"{len(dataset):,} {dataset.gender} rows"


def train_samples(scene: Scene) -> str:
    """A start with unpacked rows, and random samples in batches, made in this process."""
    from hmr_skel.data.samples import batches

    start = time.monotonic()
    dataset = _samples(scene)
    opened = time.monotonic()
    with batches(dataset, 50, seed=0, stop=SAMPLES // 50) as stream:
        rows = np.concatenate([batch.row.numpy() for batch in stream])
    seconds = time.monotonic() - opened
    return f"start {opened - start:.1f} s; {len(rows):,} samples, {len(rows) / seconds:.0f} a second"


def _builder(scene: Scene):
    from flows.shard import Builder

    return Builder.open(scene.manifest, scene.out, device="cpu", quiet=True)


def _samples(scene: Scene):
    from hmr_skel.data.images import image_rules
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.data.samples import SampleDataset

    return SampleDataset(scene.out, image_rules(load_manifest(scene.manifest)), quiet=True)


STEPS: dict[str, Callable[[Scene], str]] = {
    step.__name__: step for step in (make_label_files, plan, open_labels, fill, load, open_training, train_samples)
}


@dataclass
class Measured:
    """The time and memory that one process needed."""

    seconds: float
    own_mb: float
    all_mb: float
    disk_mb: float
    status: int
    said: str


def measured(scene: Scene, command: Sequence[str], kill_after_s: float = STEP_S) -> Measured:
    """Run a command to its end, or kill it after a time, s."""
    before, start, own, everything = _disk_mb(scene.folder), time.monotonic(), 0.0, 0.0
    with (scene.folder / "log.txt").open("a+b") as log:
        begin = log.seek(0, 2)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while process.poll() is None:
            usage = [memory_mb(pid) for pid in (process.pid, *descendants(process.pid))]
            own, everything = max(own, sum(a for a, _ in usage)), max(everything, sum(b for _, b in usage))
            if time.monotonic() - start > kill_after_s:
                process.kill()
            time.sleep(0.05)
        seconds = time.monotonic() - start
        log.seek(begin)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    said = next((line for line in lines if line.startswith("shards ")), (lines or [""])[-1])
    return Measured(seconds, own, everything, _disk_mb(scene.folder) - before, process.wait(), said)


def rehearse(scene: Scene, kill_after_s: float) -> int:
    """All steps. Returns the exit status: 1 where one failed."""
    scene.folder.mkdir(parents=True)
    arguments = [str(value) for value in (scene.folder, scene.rows, scene.shards, scene.really)]
    steps = {name: [sys.executable, "-m", "tools.rehearsal", "--step", name, *arguments] for name in STEPS}
    out, names = str(scene.out), list(STEPS)
    build = scene.command("dataset", "--out", out, "--device", "cpu")
    at = names.index("fill") + 1
    work = {name: steps[name] for name in names[: at - 1]}
    work[f"dataset, {scene.really} shards"] = [*build, "--shards", f"0-{scene.really - 1}"]
    work["fill"] = steps["fill"]
    work |= dict.fromkeys(("dataset, all complete", "dataset, kill -9", "dataset, resumed"), build)
    work["verify"] = scene.command("verify", out, "--sample", "0")
    work["report"] = scene.command("report", out, "-o", str(scene.folder / "report.html"))
    work |= {name: steps[name] for name in names[at:]}
    print(f"{'step':<24}{'s':>8}{'own MB':>9}{'all MB':>9}{'disk MB':>10}  result", flush=True)
    for name, command in work.items():
        killed = name == "dataset, kill -9"
        if killed:
            next((scene.out / "meta").glob("shard-00000-of-*.json")).unlink()
        done = measured(scene, command, kill_after_s if killed else STEP_S)
        numbers = f"{done.seconds:>8.1f}{done.own_mb:>9.0f}{done.all_mb:>9.0f}{done.disk_mb:>10.0f}"
        print(f"{name:<24}{numbers}  {done.said}", flush=True)
        if (done.status != 0) != killed:
            print(f"failed with exit status {done.status}; see {scene.folder / 'log.txt'}, and --keep")
            return 1
    return 0


def _disk_mb(folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tools.rehearsal", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--folder", type=Path, help="for all files; it must not exist, and is removed afterwards")
    for flag, default, text in (
        ("rows", 3_000_000, "in all"),
        ("shards", 150, "in all"),
        ("really", 10, "shards to fit"),
    ):
        add_number(parser, f"--{flag}", int, 1, default=default, help=text)
    add_number(parser, "--kill-after", float, 0, default=20.0, metavar="S", help="seconds until kill -9")
    parser.add_argument("--keep", action="store_true", help="do not remove the folder")
    parser.add_argument("--step", nargs=5, metavar="X", help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)
    return run(parser, argv)


def _run(args: argparse.Namespace) -> int:
    if args.step:
        name, folder, *numbers = args.step
        print(STEPS[name](Scene(Path(folder), *map(int, numbers))))
        return 0
    if args.folder is None or args.folder.exists():
        raise UserError(f"--folder {args.folder}: expected a folder that does not exist yet.")
    if not args.really < args.shards // SOURCES or args.rows < args.shards or args.rows % args.shards:
        raise UserError("--really: expected less than a third of --shards; --rows: a multiple of --shards.")
    scene = Scene(args.folder.absolute(), args.rows, args.shards, args.really)
    needed, free = 5000 * args.rows, shutil.disk_usage(args.folder.absolute().parent).free
    if free < needed:
        raise UserError(f"--folder {args.folder}: {free / 1e9:.0f} GB are free. Expected {needed / 1e9:.0f} GB.")
    try:
        return rehearse(scene, args.kill_after)
    finally:
        if not args.keep:
            shutil.rmtree(scene.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
