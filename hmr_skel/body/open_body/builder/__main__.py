"""`python -m hmr_skel.body.open_body.builder [--out FILE]`: rebuild the packed open body."""

import argparse
import pathlib

from hmr_skel.body.open_body.unpack import ASSET


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hmr_skel.body.open_body.builder", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=ASSET, help="asset to write (default: the packaged one)")
    from hmr_skel.body.open_body.builder.build import build

    build(parser.parse_args().out)


if __name__ == "__main__":
    main()
