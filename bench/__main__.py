"""`python -m bench NAME`: one of the benchmarks for maintainers."""

import argparse
import importlib
import sys

from hmr_skel.cli import set_environment

NAMES = {
    "fit": "speed and accuracy of the fit, beside the published protocol and the floor",
    "ablate": "the paper's ablations (Tables 4 and 5), trained and measured here",
    "quality": "what each choice of the fit costs in millimetres",
    "loader": "training samples/s from images",
    "conversion": "what conversion to SKEL costs in mm of MPJPE",
}


def main() -> int:
    """Run the one that is named; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m bench",
        description="\n".join(f"{name:<12}{text}" for name, text in NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help="python -m bench NAME --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own")
    args = parser.parse_args()
    set_environment()
    return importlib.import_module(f"bench.{args.name}").main(args.arguments)


if __name__ == "__main__":
    sys.exit(main())
