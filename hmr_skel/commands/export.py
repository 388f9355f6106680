"""`hmr-skel export`: a dataset of ours as the files that other trainers read."""

import argparse
import json
from pathlib import Path

from hmr_skel.commands.body_models import BODY_MODELS_HELP, named_body_models
from hmr_skel.commands.places import folder

EXPORT = """\
Write a dataset as the .npz files that other trainers read, one per source: OUT/<source>-release-skel.npz.
  skel-cf   the keys of the published SKEL-CF trainer (skel_poses, skel_betas, skel_trans, gtkps, keypoints3d, cam_int,
            center, scale, imgname), and the SMPL labels (poses, betas, trans, pose_cam, shape, trans_cam)
  hsmr      the fields of HSMR's training records as arrays: keypoints_2d, keypoints_3d, center, scale, orig_poses,
            orig_betas, orig_has_poses, orig_has_betas, orig_pve_max, flip_poses, flip_betas, flip_pve_max and
            extra_info (JSON texts), and imgname. The pve_max are the largest distance of SKEL's skin from the annotated
            mesh in metres, as annotated and mirrored; HSMR's trainer passes over poses and betas beyond 0.06. They are
            measured on the body models (--body-models), which are checked to be those of the fit. Rows that came as
            SKEL have no mesh to be compared with, and no pve_max
Radians, metres, pixels; scale is the box / 200. Neither format says which SKEL body its rows are for, so all must be of
--gender. Keypoints that are not annotated get confidence 0."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="a dataset in other trainers' formats",
        description=EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", type=folder, help="the dataset's folder, for instance data/open")
    parser.add_argument("--format", required=True, choices=("skel-cf", "hsmr"), help="whose files to write")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="where the files go")
    parser.add_argument(
        "--gender", default="male", choices=("male", "female"), help="SKEL's body (default: %(default)s, as published)"
    )
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "test", "all"),
        help="train, test (the held-out shards) or all (default: %(default)s)",
    )
    parser.add_argument("--body-models", metavar="DIR", help=f"for hsmr: {BODY_MODELS_HELP}")
    parser.add_argument("--device", default="auto", help="for hsmr: cpu, cuda, cuda:1 ... (default: auto)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    parser.set_defaults(run=run_export, interrupted="written files are whole; the same command exports all again")


def run_export(args: argparse.Namespace) -> None:
    """Write, and say what was written."""
    from tqdm import tqdm

    from hmr_skel.convert.export import HSMR, HSMR_MAX_PVE, export_dataset
    from hmr_skel.convert.fit import Bodies
    from hmr_skel.device import resolve_device

    split = None if args.split == "all" else args.split
    folder = named_body_models(args.body_models, quiet=args.quiet) if args.format == HSMR else None
    bodies = None if folder is None else Bodies(folder, resolve_device(args.device))
    with tqdm(unit="row", desc="export", disable=True if args.quiet else None, leave=False) as bar:
        files = export_dataset(args.dataset, args.out, args.format, args.gender, split, bodies, bar.update)
    rows, beyond = (sum(getattr(file, name) for file in files.values()) for name in ("rows", "beyond"))
    if not args.quiet:
        count = len(files)
        print(f"{rows:,} rows of {args.dataset} -> {count} {args.format} file{'s' * (count != 1)} in {args.out}")
        if beyond:
            print(
                f"{beyond:,} rows have a vertex more than {1000 * HSMR_MAX_PVE:.0f} mm off, as annotated or mirrored: "
                "HSMR's trainer will not take their poses and betas"
            )
    if args.json:
        report = {"format": args.format, "rows": rows, "files": {str(p): file.rows for p, file in files.items()}}
        print(json.dumps(report | ({"beyond_max_pve": beyond} if args.format == HSMR else {})))
