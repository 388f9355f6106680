"""`hmr-skel report`, `render`, `view` and `schema`: web page of a dataset, rows drawn or in a live page, columns."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.arguments import DATA_HELP, DEFAULT_MANIFEST, MODELS, add, add_number, folder, new_command
from hmr_skel.commands.inputs import Picture, build_missing, has_all_shards, manifest_of_shards, models_and_images
from hmr_skel.commands.output import progress, show
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder

if TYPE_CHECKING:
    import numpy as np

    from hmr_skel.body.skel import Skel
    from hmr_skel.data.load import Shards
    from hmr_skel.report.bodies import PosedRow

REPORT = """\
Write one self-contained HTML page about a dataset: rows by source, kept and rejected with reasons, error histograms and
percentiles by source and body part, joint angles over their allowed ranges, betas, speed, links to the shards; and the
best, median and worst fits as pictures and in a 3D viewer. The page works offline and without a server.

Pictures need the body models that the manifest names. Images are shown if they are there.
Example: hmr-skel report data/open -o open.html"""

RENDER = """\
Draw a row of a dataset, or of a .parquet file of `convert` or `predict`, on the CPU and without a display:
  --show both      bones under a translucent skin; or skin, skeleton
  --show heat      the fitted skin, coloured by its distance from the annotated mesh (the colours end at 30 mm);
                   annotation: that mesh itself
  --view front     the body's front; or its side, back, top; image: over the row's own image
A .glb always has skin and skeleton as separate meshes, metres, y up.
Examples: hmr-skel render data/open open/00003584 -o x.png --show heat
          hmr-skel render walk.parquet 0 -o x.glb"""

VIEW = """\
Show bodies in your browser: the annotated SMPL mesh, SKEL's skin and its bones, side by side or over each other. The
page plays frames, colours the skin by its error, and shows joint angles as curves, dofs at a limit, and the image.

The page is open only to this machine, and has no password: other users of the machine, and other web pages in your
browser, can read what it shows. Images of predictions are looked for below the current folder.

Example: hmr-skel view data/open, or hmr-skel view walk.parquet"""

COLUMNS = """\
Print the columns of all tables that hmr-skel writes, with types, units and meanings, as Markdown (docs/schema.md). The
files have the same in the field metadata of each column (meaning, unit, shape).
Example: hmr-skel schema > columns.md"""

_COLUMNS_PAGE = """\
# Columns of the tables

`hmr-skel schema` prints this page. The field metadata of every file has the same texts, as `meaning`, `unit` and
`shape`. Arrays are stored as fixed-size lists of float32, flattened row-major; `load_shards` restores their shapes.
Null means not known or not annotated, never zero. Frames, units and the root: [conventions.md](conventions.md)."""

PICTURE_SUFFIXES = (".png", ".jpg", ".webp", ".glb")
MANIFEST = "file that names body models and images (default: manifests/NAME.toml, by the name in the shards"


def add_commands(commands: argparse._SubParsersAction) -> None:
    report = new_command(commands, "report", "write a web page about a dataset, with pictures", REPORT, run_report)
    add(report, "dataset", nargs="?", help=f"the dataset's folder {DATA_HELP}")
    text = "output file (default: report.html in the dataset's folder)"
    report.add_argument("-o", "--out", type=Path, metavar="FILE", help=text)
    add(report, "manifest", default=None, help=f"{MANIFEST}; without DATASET {DEFAULT_MANIFEST})")
    report.add_argument("--no-pictures", action="store_true", help="write only tables and charts, without body models")
    add(report, "build", "json", "quiet")

    render = new_command(commands, "render", "draw a row of a dataset, or write its meshes", RENDER, run_render)
    add(render, "dataset", help="the dataset's folder, for instance data/open, or a .parquet file")
    render.add_argument(
        "row", metavar="ROW", help="number of the row, from 0; or its row_id, for instance open/00003584"
    )
    render.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help=" ".join(PICTURE_SUFFIXES))
    shown, views = ("both", "skin", "skeleton", "heat", "annotation"), ("front", "side", "back", "top", "image")
    render.add_argument("--show", choices=shown, default="both", help="what to draw")
    render.add_argument("--view", choices=views, default="front", help="view of the body, or its image")
    add_number(render, "--size", int, 16, 8192, unit="pixels", default=512, metavar="PX", help="width and height")
    add(render, "manifest", default=None, help=f"{MANIFEST})")
    add(render, "body-models", help=MODELS)
    add(render, "quiet", help="do not print the name of the file")

    view = new_command(commands, "view", "show bodies in a live page of the browser", VIEW, run_view)
    text = "a dataset's folder, a .parquet of `hmr-skel convert`, or the predictions.parquet of `hmr-skel predict`"
    view.add_argument("dataset", metavar="TABLE", type=folder, help=text)
    text = "port of the page; if it is taken, the next free one"
    add_number(view, "--port", int, 1, 65535, default=8080, metavar="PORT", help=text)
    add(view, "manifest", default=None, help="names the body models and images of a dataset (default: by its name)")
    add(view, "body-models", help=MODELS)
    view.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")

    summary = "print the columns of all tables, with units"
    new_command(commands, "schema", summary, COLUMNS, lambda args: print(schema_page(), end=""))


def run_report(args: argparse.Namespace) -> None:
    """Write the report, and print a summary."""
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.data.meta import error_text
    from hmr_skel.report.bodies import choose_sample
    from hmr_skel.report.gather import gather, read_metas
    from hmr_skel.report.page import write_report

    start = time.perf_counter()
    data = args.dataset or data_folder() / load_manifest(args.manifest or DEFAULT_MANIFEST).name
    if args.build and not has_all_shards(data):
        if not args.quiet:
            print(f"building missing shards and rendering images first; hmr-skel report {data} leaves this out")
        build_missing(args.manifest or DEFAULT_MANIFEST, data, quiet=args.quiet)
    out = args.out or data / "report.html"
    if out.is_dir():
        raise UserError(f"-o {out} is a folder. Expected a file, such as {out / 'report.html'}.")
    with progress(args.quiet, "row", sum(meta["kept"] for meta in read_metas(data)), "reading") as bar:
        dataset = gather(data, bar.update)
    manifest = None if args.no_pictures else manifest_of_shards(args.manifest, dataset.name)
    with progress(args.quiet, "row", len(choose_sample(dataset)), "measuring") as bar:
        summary = write_report(dataset, manifest, out, bar.update)
    lines = [
        *(f"warning: {warning}" for warning in summary.warnings),
        f"{data}: {summary.rows:,} rows, {summary.rejected:,} rejected, {error_text(vars(summary))}",
        f"{out}: {summary.bytes / 1e6:.1f} MB in {time.perf_counter() - start:.0f} s, open it in a browser",
    ]
    show(args, "\n".join(lines), asdict(summary))


def run_render(args: argparse.Namespace) -> None:
    """Draw and write."""
    from hmr_skel.data.load import load_shards

    kind = args.out.suffix.lower()
    if kind not in PICTURE_SUFFIXES:
        raise UserError(f"-o {args.out}: unknown format {kind!r}. Expected {', '.join(PICTURE_SUFFIXES)}.")
    shards = load_shards(args.dataset)
    number = _number(shards, args.row)
    from hmr_skel.convert.fit import Bodies  # torch, whose import takes seconds
    from hmr_skel.convert.meshes import write_parts
    from hmr_skel.data.atomic import replacing
    from hmr_skel.predict.pictures import encode_picture
    from hmr_skel.report.bodies import check_skel, pose_row

    check_skel(shards)
    models, picture_of = models_and_images(args, shards)
    bodies = Bodies(models)
    posed = pose_row(shards, number, bodies).in_camera()
    skel = bodies.skel(posed.row["skel_gender"])
    if kind == ".glb":
        parts = {"skin": (posed.skin, skel.faces), "skeleton": (posed.bones, skel.skeleton_faces)}
        write_parts(parts, "camera", args.out)
    else:
        picture = _picture(posed, skel, picture_of, args)
        with replacing(args.out) as temporary:
            temporary.write_bytes(encode_picture(picture, kind))
    if not args.quiet:
        print(args.out)


def _number(shards: "Shards", row: str) -> int:
    """The number of a row over all shards, from its number or row_id. Raises `UserError` if there is no such row."""
    if row.isdecimal() and int(row) < len(shards):
        return int(row)
    expected, before = f"a number from 0 to {len(shards) - 1:,}", 0
    for file in shards.files() if "row_id" in shards.columns else ():
        if (found := file["row_id"] == row).any():
            return before + int(found.argmax())
        before += len(file)
        expected += f", or a row_id such as {file[0]['row_id']!r}" * (before == len(file))
    raise UserError(f"no row {row!r} among {len(shards):,}. Expected {expected}.")


def _picture(posed: "PosedRow", skel: "Skel", picture_of: "Picture", args: argparse.Namespace) -> "np.ndarray":
    """The picture of a row by --show and --view, RGB [H W 3]."""
    from hmr_skel.render import overlay, portrait
    from hmr_skel.render.scene import EVEN, STUDIO
    from hmr_skel.report.pictures import shown_parts

    row = posed.row
    if args.show in ("heat", "annotation") and posed.target is None:
        raise UserError(f"row {args.row} was annotated with SKEL and has no annotated mesh. Choose --show both.")
    shown = posed if args.view == "image" else posed.faced()
    parts = shown_parts(shown, skel, args.show, high_mm=30.0)
    if args.view != "image":
        light = EVEN if args.show == "heat" else STUDIO
        return portrait(parts, args.view, args.size, args.size, light=light)
    photo = picture_of(row)
    if isinstance(photo, str):
        raise UserError(f"row {args.row}: {photo}. Choose --view front, or see `hmr-skel images`.")
    if row.get("cam_int") is None or row["skel_transl"] is None:
        raise UserError(f"row {args.row} has no camera or no translation. Choose --view front.")
    return overlay(photo, parts, row["cam_int"])


def run_view(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    import webbrowser
    from importlib.util import find_spec

    from hmr_skel.data.load import load_shards

    if find_spec("viser") is None:
        raise UserError("`hmr-skel view` needs viser: make setup EXTRAS=viewer; without make, pip install viser")
    table = load_shards(args.dataset)
    import torch  # whose import takes seconds

    from hmr_skel.convert.fit import Bodies
    from hmr_skel.report.bodies import NEEDED
    from hmr_skel.view.page import Viewer
    from hmr_skel.view.tracks import ALSO, Poser, find_tracks

    torch.set_num_threads(1)  # a single body is posed no faster by more, which wait for each other on a busy machine
    tracks = find_tracks(table)
    table = table.select([name for name in (*NEEDED, *ALSO) if name in table.columns])
    models, picture = models_and_images(args, table)
    viewer = Viewer(tracks, Poser(table, Bodies(models)), picture, args.port)
    print(f"{viewer.url}  (Ctrl-C ends it)", flush=True)
    if not args.no_browser:
        webbrowser.open(viewer.url)
    try:
        viewer.play()
    except KeyboardInterrupt:
        viewer.server.stop()


def schema_page() -> str:
    """The columns of all tables as Markdown."""
    from hmr_skel.convert.tables import FULL, JOINTS
    from hmr_skel.data.card import column_table
    from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA
    from hmr_skel.model.config import DecoderConfig
    from hmr_skel.predict.table import schema

    stages = 1 + DecoderConfig().depth
    predicted = f"`hmr-skel predict`, .parquet and .npz; stages of a network with the paper's decoder ({stages})."
    tables = (
        ("Datasets", "`data/train-*.parquet`, written by `fit` and `dataset`.", SCHEMA),
        ("Rejected rows", "`rejects/*.parquet` of a dataset.", REJECTS_SCHEMA),
        ("Converted motion", "`hmr-skel convert`, .parquet and .npz.", FULL),
        ("Joints of converted motion", "`hmr-skel convert --joints`.", JOINTS),
        ("Predictions", predicted, schema(stages)),
    )
    sections = [f"## {title}\n\n{text}\n\n" + "\n".join(column_table(columns)) for title, text, columns in tables]
    return "\n\n".join([_COLUMNS_PAGE, *sections]) + "\n"
