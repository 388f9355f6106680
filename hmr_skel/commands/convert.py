"""`hmr-skel convert`: SMPL parameters from anywhere to SKEL, in one command."""

import argparse
import json
import sys
from pathlib import Path

from hmr_skel.commands.body_models import BODY_MODELS_HELP, required_body_models
from hmr_skel.errors import UserError

CONVERT = """\
SMPL parameters to SKEL. A file is recognised by its content:
  CameraHMR label files (.npz)                   rows are people; neutral SMPL, camera frame
  4D-Humans, HMR2, TokenHMR: track.py's .pkl     a clip per tracked person; neutral SMPL, camera frame
  ... and the model's output, saved as anything  rows are people; neutral SMPL, camera frame
  AMASS (.npz, SMPL-H, 156 numbers)              one clip; its gender and frame rate, z-up; fingers dropped
  .smpl (smplcodec, SMPL or SMPL-H)              one clip; its gender and frame rate
  .npz .npy .pkl .pt .json with pose and betas   one clip, or one per person
  Parquet of ours, a file or a dataset's folder  as it was written
Pickles are read by an allow-list: nothing in them is run. SMPL-X is refused, its betas are of another shape space.

Betas may be 10, 1x10, Nx10 or wider (the first ten are used); poses axis-angles or rotation matrices. What a file does
not say and the output needs is asked for. A person's frames get one shape (the mean of theirs) and angles without
jumps of over 180 degrees; each frame is fitted for itself, so that a frame alone gives the same posture.

  -o x.parquet, -o x.npz   everything, a row per frame; joints only with --joints
  -o x.mot                 OpenSim motion: degrees, BSM's coordinate names, y up. Signs and zeros are SKEL's (zero is
                           the T-pose) and not verified against bsm.osim
  -o x.glb, -o x.obj       meshes of skin and skeleton of one frame, metres, y up
  -o DIR --format mot      a file per clip (mot), frame (glb, obj) or input file (parquet, npz) in a folder"""

FORMATS = ("parquet", "npz", "mot", "glb", "obj")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `convert`."""
    parser = commands.add_parser(
        "convert",
        help="SMPL parameters from anywhere to SKEL: Parquet, npz, OpenSim, meshes",
        description=CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="what to convert")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="a file of a known format, or a folder")
    parser.add_argument("--format", choices=FORMATS, help="for a folder (default: parquet)")
    parser.add_argument("--joints", action="store_true", help="SKEL's 24 joints in metres and nothing else")
    parser.add_argument(
        "--gender",
        choices=("male", "female", "best"),
        help="SKEL's body; best tries both and takes the one nearer to the annotation, one per person (default: the "
        "annotation's gender; male for neutral ones)",
    )
    parser.add_argument(
        "--body-models",
        metavar="DIR",
        help=f"{BODY_MODELS_HELP}, which shows that all works but has another shape space than SMPL",
    )
    parser.add_argument("--frames", metavar="LIST", help="only frames (or rows) with these numbers, e.g. 0-99,250")
    parser.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="smooth a person's frames in time, never across cuts and gaps; 0.1 is a good weight (default: 0, off). "
        "In mm^2 of mesh per squared degree of third difference; lowered where the mesh would move by more than 2 mm",
    )
    told = parser.add_argument_group("what the files do not say")
    told.add_argument(
        "--smpl-gender", choices=("neutral", "male", "female"), help="the SMPL model that the parameters are for"
    )
    told.add_argument("--frame", choices=("camera", "y-up", "z-up"), help="camera: x right, y down, z forward")
    told.add_argument("--frame-rate", type=float, metavar="FPS", help="frames a second")
    told.add_argument("--lengths", choices=("m", "cm", "mm"), help="of translations (default: m)")
    told.add_argument("--angles", choices=("rad", "deg"), help="of axis-angles (default: rad)")
    told.add_argument(
        "--rows",
        choices=("people", "frames", "folders"),
        help="what a file's rows are: people, each for itself; frames of one person; or frames of one person per "
        "folder of the images (default: by format, see above)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no notes, no summary")
    parser.set_defaults(run=run_convert, interrupted="written files are whole; the same command converts all again")


def run_convert(args: argparse.Namespace) -> None:
    """Read, fit, write, and say how it went in one line."""
    import time

    from tqdm import tqdm

    from hmr_skel.convert.fit import Bodies, count_fits, fit_clips
    from hmr_skel.convert.output import Destination, conversion_report, report_line
    from hmr_skel.convert.parameters import Units
    from hmr_skel.convert.reading import ReadOptions
    from hmr_skel.device import resolve_device

    if not 0 <= args.smooth < float("inf"):
        raise UserError(f"--smooth {args.smooth}: expected 0 (off) or a number above.")
    if args.frame_rate is not None and not 0.1 <= args.frame_rate <= 10_000:
        raise UserError(f"--frame-rate {args.frame_rate}: expected frames a second.")
    start = time.perf_counter()
    destination = Destination.of(args.out, args.format, args.joints)
    options = ReadOptions(
        smpl_gender=args.smpl_gender,
        frame=args.frame,
        frame_rate=args.frame_rate,
        rows=args.rows,
        units=Units(args.lengths, args.angles),
    )
    clips = _read(args, options)
    destination.check(clips, [Path(file) for file in args.files])
    if args.smooth > 0 and not any(clip.moving for clip in clips):
        raise UserError(
            "--smooth: none of these files holds frames of one person in time. Say --rows frames or --rows folders if "
            "their rows are."
        )
    clips = [_with_notes(clip, args) for clip in clips]
    bodies = Bodies(required_body_models(args.body_models, quiet=args.quiet), resolve_device(args.device))
    fitting_since = time.perf_counter()
    with tqdm(
        total=count_fits(clips, args.gender),
        unit="frame",
        desc="convert",
        disable=True if args.quiet else None,
        leave=False,
    ) as bar:
        converted = fit_clips(clips, bodies, args.gender, args.smooth, bar.update)
    fit_s = time.perf_counter() - fitting_since
    files = destination.write(converted, bodies)
    report = conversion_report(clips, converted, files, Path(args.out), time.perf_counter() - start, fit_s)
    if not args.quiet:
        for note in report["notes"]:
            print(f"note: {note}", file=sys.stderr)
        print(report_line(report))
    if args.json:
        print(json.dumps(report))


def _read(args: argparse.Namespace, options) -> list:
    """All clips of all files, under names that are unique, with the frames that were chosen."""
    from dataclasses import replace

    import numpy as np

    from hmr_skel.convert.clips import with_unique_names
    from hmr_skel.convert.formats import read_clips
    from hmr_skel.data.shards import parse_shards

    clips = with_unique_names([read_clips(Path(file), options) for file in args.files])
    if args.frames is not None:
        wanted = parse_shards(args.frames, "frames")
        chosen = [clip.take(np.isin(clip.number, wanted)) for clip in clips]
        chosen = [replace(clip, moving=clip.moving and len(clip) > 1) for clip in chosen if len(clip)]
        if not chosen:
            last = max(int(clip.number.max()) for clip in clips)
            raise UserError(f"--frames {args.frames}: no such frame. The files have numbers up to {last}.")
        clips = chosen
    return clips


def _with_notes(clip, args: argparse.Namespace):
    """The clip, with a note on each thing that is taken for granted because neither file nor user says it."""
    from dataclasses import replace

    notes = []
    if args.gender is None and "neutral" in clip.gender:
        notes.append("neutral SMPL: SKEL has no neutral body, male is taken (--gender best tries both)")
    if args.smooth > 0 and clip.moving and clip.frame_rate is None:
        notes.append(f"{clip.source}: frame rate not known, smoothing takes 30 a second (--frame-rate says another)")
    return replace(clip, notes=(*clip.notes, *notes))
