"""`hmr-skel convert`, `export` and `body`: SMPL parameters to SKEL, and datasets and bodies as files of other tools."""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.arguments import add, add_number, new_command
from hmr_skel.commands.inputs import named_body_models
from hmr_skel.commands.output import progress, show
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.convert.clips import SmplClip
    from hmr_skel.convert.opensim import OpenSimOptions

CONVERT = """\
SMPL parameters to SKEL. A file is recognised by its content, and whatever it lies in (.npz, .npy, pickle, joblib, .pt,
JSON; nothing in them is run):
{formats}
  Parquet of ours                  a file or a dataset's folder, as it was written
Whose files they are, docs/convert.md says. What was not read of a file is named in a note. What always works: poses
[T 72], betas [10], trans [T 3] and gender in an .npz.

Betas may be 10, 1x10, Nx10 or wider (the first ten are used); poses axis-angles or rotation matrices. Options say what
a file does not say and the output needs. All frames of a person get one shape (the mean of theirs) and angles without
jumps of over 180 degrees; each frame is fitted for itself, so that a frame alone gives the same posture. --smooth 6
takes out what changes faster than 6 Hz before the fit, of root and joints, with no lag and never across cuts and gaps;
errors are still those to the file's own meshes.

  -o x.parquet, -o x.npz   everything, a row per frame; joints only with --joints
  -o x.osim                OpenSim: a model of the person, its motion (x.mot) and bone meshes (Geometry/) beside it
  -o x.mot, -o x.trc       OpenSim: the motion for that model, or for others (--coordinates bsm); markers in mm
  -o x.xml                 MuJoCo: the same person, the motion (x-qpos.npz) and bone meshes (Geometry/) beside it
  -o x.glb                 a clip as an animation of skin and skeleton, or one frame; metres, y up
  -o x.obj                 meshes of one frame
  -o DIR --format mot      a file in a folder per clip (osim, mot, trc, xml, glb), frame (obj) or input (parquet, npz)

Examples: hmr-skel convert walk.npz -o walk.mot
          hmr-skel convert results/*.pkl -o out --format mot --frame-rate 30"""

EXPORT = """\
Write a dataset as the .npz files that other trainers read, one per source: OUT/<source>-release-skel.npz.
  skel-cf   the keys of the published SKEL-CF trainer (skel_poses, skel_betas, skel_trans, gtkps, keypoints3d, cam_int,
            center, scale, imgname), and the SMPL labels (poses, betas, trans, pose_cam, shape, trans_cam)
  hsmr      the fields of HSMR's training records as arrays: keypoints_2d, keypoints_3d, center, scale, orig_poses,
            orig_betas, orig_has_poses, orig_has_betas, orig_pve_max, flip_poses, flip_betas, flip_pve_max and
            extra_info (JSON texts), and imgname. The pve_max are the largest distance of SKEL's skin from the annotated
            mesh in metres, as annotated and mirrored, by the body models of the fit (--body-models); HSMR's trainer
            passes over poses and betas beyond 0.06. Rows that came as SKEL have no mesh, and no pve_max
Radians, metres, pixels; scale is the box / 200. Neither format says which SKEL body its rows are for, so all must be of
--gender. Keypoints that are not annotated get confidence 0.
Example: hmr-skel export data/open --format skel-cf -o skel-cf"""

BODY = """\
Write the openly licensed body as files in the official formats, so that whatever reads SMPL and SKEL files reads it:
SMPL_{NEUTRAL,MALE,FEMALE}.pkl, skel_{male,female}.pkl and the joint regressors. It stands in for the licensed models;
its shape space is its own, so parameters of one do not fit the other.
Example: hmr-skel body export bodies"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    from hmr_skel.convert.known import describe_formats

    formats = "\n".join(f"  {name:<32} {known}" for name, _, known in describe_formats())
    summary = "SMPL parameters from anywhere to SKEL: Parquet, npz, OpenSim, meshes"
    parser = new_command(commands, "convert", summary, CONVERT.format(formats=formats), run_convert)
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="what to convert; of folders, all files")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="a file of a known format, or a folder")
    formats = ("parquet", "npz", "osim", "mot", "trc", "xml", "glb", "obj")
    parser.add_argument("--format", choices=formats, help="for a folder (default: parquet)")
    parser.add_argument("--joints", action="store_true", help="SKEL's 24 joints in metres and nothing else")
    text = "SKEL's body; best: the one nearer to each person's annotation (default: the annotation's, male if neutral)"
    parser.add_argument("--gender", choices=("male", "female", "best"), help=text)
    add(parser, "body-models")
    parser.add_argument("--frames", metavar="LIST", help="only frames (or rows) with these numbers, e.g. 0-99,250")
    text = "smooth a person's frames in time: the cut-off, 6 is usual for people (default: 0, off)"
    add_number(parser, "--smooth", float, 0, default=0.0, unit="Hz", metavar="HZ", help=text)
    made = parser.add_argument_group("OpenSim's and MuJoCo's files")
    text = "names and places of the markers in an .osim or a .trc (default: rajagopal)"
    made.add_argument("--markers", choices=("rajagopal", "plug-in-gait"), help=text)
    text = "of an .osim or .xml (default: volume x density)"
    add_number(made, "--mass", float, 1, 500, unit="kg", metavar="KG", help=text)
    text = (
        "what a .mot is for: the person's own .osim, or models of others with BSM's names, then only by the "
        "coordinates that were verified, pelvis and legs (default: skel)"
    )
    made.add_argument("--coordinates", choices=("skel", "bsm"), help=text)
    told = parser.add_argument_group("what the files do not say")
    add(told, "smpl-gender")
    text = "what is up in the file's frame, if a camera was tilted; feet: estimated from standing feet. Makes it y-up"
    told.add_argument("--up", metavar="X,Y,Z|feet", help=text)
    text = "move the floor to height 0; it is estimated from the feet. The output is y-up"
    told.add_argument("--floor", action="store_true", help=text)
    told.add_argument("--frame", choices=("camera", "y-up", "z-up"), help="camera: x right, y down, z forward")
    text = "frames a second; a motion that says another rate of its own is resampled, on the sphere of rotations"
    add_number(told, "--frame-rate", float, 0.1, 10_000, unit="frames a second", metavar="FPS", help=text)
    told.add_argument("--lengths", choices=("m", "cm", "mm"), help="of translations (default: m)")
    told.add_argument("--angles", choices=("rad", "deg"), help="of axis-angles (default: rad)")
    told.add_argument(
        "--rows", choices=("people", "frames", "folders", "files"),
        help="what a file's rows are: people, each for itself; frames of one person; frames of one person per folder "
        "of the images; or, of many files, one frame each (default: by format, see above)",
    )  # fmt: skip
    told.add_argument("--which", choices=("incam", "global"), help="of files that hold the person in both frames")
    told.add_argument("--model", choices=("smpl", "smplh", "smplx", "star"), help="whose parameters they are")
    told.add_argument("--betas", choices=("zero",), help="take the average body where there are no betas")
    told.add_argument("--person", metavar="ID", help="only the person of this id (the end of a clip's name)")
    told.add_argument("--left-handed", action="store_true", help="x points the other way, as from Unity")
    add(parser, "device", "json", "quiet")

    parser = new_command(commands, "export", "a dataset in other trainers' formats", EXPORT, run_export)
    add(parser, "dataset")
    parser.add_argument("--format", required=True, choices=("skel-cf", "hsmr"), help="whose files to write")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="where the files go")
    parser.add_argument("--gender", default="male", choices=("male", "female"), help="SKEL's body")
    parser.add_argument("--split", default="train", choices=("train", "test", "all"), help="test: held-out shards")
    add(parser, "body-models", "device", "json", "quiet")

    parser = commands.add_parser("body", help="body model files: export the open body")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    export = new_command(actions, "export", "write the open body", BODY, run_body_export)
    export.add_argument("directory", metavar="DIR", type=Path, help="made if it is not there")


def run_convert(args: argparse.Namespace) -> None:
    """Read, fit, write, and say how it went in one line."""
    from hmr_skel.convert.fit import Bodies, count_fits, fit_clips
    from hmr_skel.convert.output import Destination, conversion_report, report_line
    from hmr_skel.convert.upright import upright
    from hmr_skel.convert.vertices import with_parameters
    from hmr_skel.progress import telling

    start = time.perf_counter()
    destination = Destination.of(args.out, args.format, args.joints, opensim_options(args))
    files: list[Path] = []
    try:
        with telling(args.quiet, "convert") as begin:
            begin("reading")
            clips = _read(args)
            destination.check(clips, args.files)
            bodies = Bodies(named_body_models(args.body_models, quiet=args.quiet), resolve_device(args.device))
            begin("preparing the bodies and meshes")
            clips = [with_parameters(clip, bodies) for clip in clips]
            if args.up is not None or args.floor:
                clips = [upright(clip, bodies, args.up, args.floor) for clip in clips]
            begin("smoothing" if args.smooth else "preparing the fit")
            fitting_since = time.perf_counter()
            with progress(args.quiet, "frame", count_fits(clips, args.gender), "convert") as bar:

                def step(fits: int) -> None:
                    bar.update(fits)
                    begin(None if bar.n < (bar.total or 0) else "following the angles from frame to frame")

                converted = fit_clips(clips, bodies, args.gender, args.smooth, step)
            fit_s = time.perf_counter() - fitting_since
            begin("writing")
            files.extend(destination.write(converted, bodies))
    except KeyboardInterrupt:
        made = f"These are written: {', '.join(map(str, files))}" if files else "Nothing is written"
        parts = " A model's motion and Geometry/ may be new." if destination.format in ("osim", "xml") else ""
        raise KeyboardInterrupt(f"{made}. All else is as it was before.{parts} Start again for the rest.") from None
    report = conversion_report(clips, converted, files, Path(args.out), time.perf_counter() - start, fit_s)
    if args.gender is None and any("neutral" in clip.gender for clip in clips):
        report["notes"].append("SKEL has no neutral body, male is taken (--gender best tries both)")
    if not args.quiet:
        print(*(f"note: {note}\n" for note in report["notes"]), sep="", end="", file=sys.stderr)
    show(args, report_line(report), report)


def opensim_options(args: argparse.Namespace) -> "OpenSimOptions":
    """The options for OpenSim's and MuJoCo's files."""
    from hmr_skel.convert.opensim import OpenSimOptions

    return OpenSimOptions(markers=args.markers, mass=args.mass, coordinates=args.coordinates)


def _read(args: argparse.Namespace) -> "list[SmplClip]":
    """The chosen frames of all files. Raises `UserError` where none is chosen, or where there is nothing to smooth."""
    import numpy as np

    from hmr_skel.convert.formats import read_files
    from hmr_skel.convert.parameters import Units
    from hmr_skel.convert.reading import ReadOptions
    from hmr_skel.convert.resample import resampled
    from hmr_skel.data.shards import parse_shards

    options = ReadOptions(
        smpl_gender=args.smpl_gender,
        frame=args.frame,
        frame_rate=args.frame_rate,
        rows=args.rows,
        units=Units(args.lengths, args.angles),
        which=args.which,
        model=args.model,
        zero_betas=args.betas == "zero",
        left_handed=args.left_handed,
    )
    clips = read_files(args.files, options, args.person)
    if args.frames is not None:
        wanted = parse_shards(args.frames, "frames")
        last = max(int(clip.number.max(initial=0)) for clip in clips)
        clips = [clip.take(np.isin(clip.number, wanted)) for clip in clips]
        clips = [replace(clip, moving=clip.moving and len(clip) > 1) for clip in clips if len(clip)]
        if not clips:
            raise UserError(f"--frames {args.frames}: no such frame. The files have numbers up to {last}.")
    if args.frame_rate is not None:
        clips = [clip if clip.frame_rate == args.frame_rate else resampled(clip, args.frame_rate) for clip in clips]
    if args.smooth > 0 and not any(clip.moving and clip.skel_q is None for clip in clips):
        raise UserError(
            "--smooth: none of these files holds frames of one person in time, as SMPL. Say --rows frames or --rows "
            "folders if their rows are."
        )
    return clips


def run_export(args: argparse.Namespace) -> None:
    """Write, and say what was written."""
    from hmr_skel.convert.export import HSMR, export_dataset
    from hmr_skel.convert.fit import Bodies

    bodies = None  # where they are needed, the export says so
    if args.format == HSMR and (args.body_models or os.environ.get("HMR_SKEL_BODY_MODELS")):
        bodies = Bodies(named_body_models(args.body_models, quiet=args.quiet), resolve_device(args.device))
    split = None if args.split == "all" else args.split
    with progress(args.quiet, "row", what="export") as bar:
        files = export_dataset(args.dataset, args.out, args.format, args.gender, split, bodies, bar.update)
    rows, beyond = (sum(getattr(file, name) for file in files.values()) for name in ("rows", "beyond"))
    text = f"{rows:,} rows of {args.dataset} -> {len(files)} {args.format} file{'s' * (len(files) != 1)} in {args.out}"
    if beyond:
        text += f"\n{beyond:,} rows have a vertex over 60 mm off: HSMR's trainer will not take their poses and betas"
    report = {"format": args.format, "rows": rows, "files": {str(path): file.rows for path, file in files.items()}}
    show(args, text, report | {"beyond_max_pve": beyond})


def run_body_export(args: argparse.Namespace) -> None:
    """Write the open body's files and list them."""
    from hmr_skel.body.open_body.export import export_body

    for path in export_body(args.directory):
        print(path)
