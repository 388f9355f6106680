"""`hmr-skel export`: a dataset of ours as the files that other trainers read."""

import argparse
import json
from pathlib import Path

EXPORT = """\
Write a dataset as the .npz files that other trainers read, one per source: OUT/<source>-release-skel.npz.
  skel-cf   the keys of the published SKEL-CF trainer (skel_poses, skel_betas, skel_trans, gtkps, keypoints3d, cam_int,
            center, scale, imgname), and the SMPL labels (poses, betas, trans, pose_cam, shape, trans_cam)
  hsmr      the fields of HSMR's training records (orig_poses, orig_betas, flip_poses, keypoints_2d ...), as arrays
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
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="the dataset's folder, for instance data/open")
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
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> None:
    """Write, and say what was written."""
    from tqdm import tqdm

    from hmr_skel.convert.export import export_dataset

    split = None if args.split == "all" else args.split
    with tqdm(unit="row", desc="export", disable=True if args.quiet else None, leave=False) as bar:
        files = export_dataset(args.dataset, args.out, args.format, args.gender, split, bar.update)
    if not args.quiet:
        rows, count = sum(files.values()), len(files)
        print(f"{rows:,} rows of {args.dataset} -> {count} {args.format} file{'s' * (count != 1)} in {args.out}")
    if args.json:
        report = {"format": args.format, "rows": sum(files.values()), "files": {str(p): n for p, n in files.items()}}
        print(json.dumps(report))
