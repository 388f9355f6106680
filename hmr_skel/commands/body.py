"""`hmr-skel body`: body model files."""

import argparse
from pathlib import Path

from hmr_skel.commands.arguments import new_command

EXPORT = """\
Write the openly licensed body as files in the official formats, so that whatever reads SMPL and SKEL files reads it:
SMPL_{NEUTRAL,MALE,FEMALE}.pkl, skel_{male,female}.pkl and the joint regressors. It stands in for the licensed models;
its shape space is its own, so parameters of one do not fit the other."""

CLEAN = """\
Rewrite an SMPL model file that holds chumpy arrays with plain arrays, which every reader understands without chumpy."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `body export` and `body clean`."""
    parser = commands.add_parser("body", help="body model files: export the open body, clean an old SMPL file")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    export = new_command(actions, "export", "write the open body", EXPORT, run_export)
    export.add_argument("directory", metavar="DIR", type=Path, help="made if it is not there")
    clean = new_command(actions, "clean", "rewrite an old SMPL file without chumpy", CLEAN, run_clean)
    clean.add_argument(
        "file", metavar="FILE", type=Path, help="e.g. SMPL_NEUTRAL.pkl, basicmodel_m_lbs_10_207_0_v1.1.0.pkl"
    )
    clean.add_argument("-o", "--out", metavar="FILE", type=Path, help="(default: FILE with _clean before its ending)")


def run_export(args: argparse.Namespace) -> None:
    """Write the open body's files and list them."""
    from hmr_skel.body.open_body.export import export_body

    for path in export_body(args.directory):
        print(path)


def run_clean(args: argparse.Namespace) -> None:
    """Rewrite one model file."""
    from hmr_skel.body.assets import write_plain_smpl

    out = args.out or args.file.with_name(f"{args.file.stem}_clean{args.file.suffix}")
    write_plain_smpl(args.file, out)
    print(out)
