"""`hmr-skel render`: pictures and meshes of single rows of a dataset."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.places import folder
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.body.skel import Skel
    from hmr_skel.data.load import Shards
    from hmr_skel.data.manifest import Manifest
    from hmr_skel.report.bodies import Posed

RENDER = """\
Draw rows of a dataset as they are stored, on the CPU, with no display:
  --show both      bones under a translucent skin; or skin, skeleton
  --show heat      the fitted skin, coloured by its distance from the annotated mesh; annotation: that mesh itself
  --view front     from the camera's direction; or side, back, top; image: over the row's own image
A .glb has skin and skeleton as separate meshes, metres, y up, whatever is asked to be shown."""

FORMATS = (".png", ".jpg", ".webp", ".glb")
SHOWS = ("both", "skin", "skeleton", "heat", "annotation")
VIEWS = ("front", "side", "back", "top", "image")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `render`."""
    render = commands.add_parser(
        "render",
        help="pictures and meshes of single rows of a dataset",
        description=RENDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    render.add_argument("dataset", metavar="DATASET", type=folder, help="the dataset's folder, for instance data/open")
    render.add_argument("rows", metavar="ROW", nargs="+", help="a row_id, or a row's number, from 0 over all shards")
    render.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        metavar="OUT",
        help=f"a file ({' '.join(FORMATS)}), or a folder of .png",
    )
    render.add_argument("--show", choices=SHOWS, default="both", help="what (default: %(default)s)")
    render.add_argument("--view", choices=VIEWS, default="front", help="from where (default: %(default)s)")
    render.add_argument("--size", type=int, default=512, metavar="PX", help="width and height (default: %(default)s)")
    render.add_argument(
        "--scale-mm", type=float, default=30.0, metavar="MM", help="where heat's colours end (default: %(default)s mm)"
    )
    render.add_argument("--manifest", metavar="FILE", help="as of `hmr-skel report`")
    render.add_argument("-q", "--quiet", action="store_true", help="do not name the files that were written")
    render.set_defaults(run=run_render, interrupted="written files are whole; the same command draws all again")


def run_render(args: argparse.Namespace) -> None:
    """Draw and write, a file a row."""
    from hmr_skel.commands.report import find_manifest
    from hmr_skel.convert.fit import Bodies
    from hmr_skel.data.load import load_shards
    from hmr_skel.report.bodies import pose_row
    from hmr_skel.report.gather import manifest_name

    is_file = args.out.suffix.lower() in FORMATS
    if args.out.suffix and not is_file and not args.out.is_dir():
        raise UserError(
            f"-o {args.out}: unknown format {args.out.suffix!r}. Expected {', '.join(FORMATS)}, or a folder."
        )
    if is_file and len(args.rows) > 1:
        raise UserError(f"-o {args.out} is one file, and {len(args.rows)} rows are asked for. Name a folder.")
    if not 16 <= args.size <= 8192:
        raise UserError(f"--size {args.size}: expected 16 to 8192 px.")
    if not args.scale_mm > 0:
        raise UserError(f"--scale-mm {args.scale_mm}: expected a number above 0.")
    shards = load_shards(args.dataset)
    numbers = [_number(shards, row) for row in args.rows]
    manifest = find_manifest(args.manifest, manifest_name(shards.paths[0], args.dataset))
    bodies = Bodies(manifest.body_models.path)
    for number in numbers:
        posed = pose_row(shards, number, bodies)
        name = posed.row["row_id"].replace("/", "_")
        path = args.out if is_file else args.out / f"{name}.png"
        _write(posed, bodies.skel(posed.row["skel_gender"]), path, manifest, args)
        if not args.quiet:
            print(path)


def _number(shards: "Shards", text: str) -> int:
    """The number of the row that a text names."""
    import numpy as np

    if text.isascii() and text.isdecimal():
        if int(text) >= len(shards):
            raise UserError(f"no row {text}: the dataset has {len(shards):,}, counted from 0.")
        return int(text)
    before = 0  # rows of the files before
    for file in shards.files():
        found = np.flatnonzero(file["row_id"] == text)
        if len(found):
            return before + int(found[0])
        before += len(file)
    raise UserError(f"no row {text!r}. Expected a row's number, or a row_id such as {shards[0]['row_id']!r}.")


def _write(posed: "Posed", skel: "Skel", path: Path, manifest: "Manifest", args: argparse.Namespace) -> None:
    """Write one row."""
    import cv2

    from hmr_skel.convert.meshes import write_parts
    from hmr_skel.data.atomic import replacing
    from hmr_skel.data.images import image_rules
    from hmr_skel.render import overlay, portrait
    from hmr_skel.render.scene import EVEN, STUDIO
    from hmr_skel.report.figures import photograph, shown_parts

    if path.suffix.lower() == ".glb":
        parts = {"skin": (posed.skin, skel.faces), "skeleton": (posed.bones, skel.skeleton_faces)}
        write_parts(parts, "camera", path)
        return
    row = posed.row
    if args.show in ("heat", "annotation") and posed.target is None:
        raise UserError(f"{row['row_id']} came as SKEL and has no annotated mesh. Choose --show both.")
    parts = shown_parts(posed, skel, args.show, args.scale_mm)
    if args.view == "image":
        picture = photograph(row, image_rules(manifest))
        if isinstance(picture, str):
            raise UserError(f"{row['row_id']}: {picture}. Choose --view front, or see `hmr-skel images`.")
        if row["cam_int"] is None or row["skel_transl"] is None:
            raise UserError(f"{row['row_id']} has no camera or no place in front of it. Choose --view front.")
        picture = overlay(picture, parts, row["cam_int"])
    else:
        light = EVEN if args.show == "heat" else STUDIO
        picture = portrait(parts, args.view, args.size, args.size, light=light)
    written, content = cv2.imencode(path.suffix.lower(), picture[..., ::-1])
    assert written
    with replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())
