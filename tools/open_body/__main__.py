"""`python -m tools.open_body [--out FILE]`: rebuild the packed open body."""

import argparse
import pathlib

from hmr_skel.body.open_body.unpack import ASSET

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.open_body", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=ASSET, help="asset to write (default: the packaged one)")
    args = parser.parse_args()  # before the import: --help needs no builder's packages
    from tools.open_body.build import build

    build(args.out)
