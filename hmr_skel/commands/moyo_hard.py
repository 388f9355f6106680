"""`hmr-skel moyo-hard`: the label file of MOYO-HARD out of MOYO's."""

import argparse
from pathlib import Path

MOYO_HARD = """\
Write the label file of MOYO-HARD for those who have MOYO's (HSMR's moyo_v2.npz) and not SKEL-CF's moyo_hard.npz: of
the front camera (YOGI_Cam_01), every sequence without its first and last quarter. The paper counts 9,725 images and
does not say how a quarter is rounded; the way that gives 9,725 is taken, and where none does, nothing is written."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `moyo-hard`."""
    parser = commands.add_parser(
        "moyo-hard",
        help="make MOYO-HARD's label file out of MOYO's",
        description=MOYO_HARD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("moyo", type=Path, metavar="MOYO", help="moyo_v2.npz")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="moyo_hard.npz")
    parser.add_argument(
        "--any-total", action="store_true", help="write it whatever the total; it is not the paper's MOYO-HARD then"
    )
    parser.set_defaults(run=run_moyo_hard)


def run_moyo_hard(args: argparse.Namespace) -> None:
    """Choose, write, say how many."""
    from hmr_skel.evaluate.moyo_hard import EXPECTED, write_moyo_hard

    count, rounding = write_moyo_hard(args.moyo, args.out, args.any_total)
    warning = "" if count == EXPECTED else f"; this is not the paper's MOYO-HARD, which has {EXPECTED:,}"
    print(f"{args.out}: {count:,} images ({rounding}){warning}")
