"""Benchmarks for maintainers, run from the checkout: `python -m bench loader --help`."""

import argparse

from hmr_skel.commands.arguments import HelpFormatter, add


def new_parser(name: str, text: str, *shared: str) -> argparse.ArgumentParser:
    """The parser of `python -m bench <name>`, with the shared options that are named."""
    parser = argparse.ArgumentParser(f"python -m bench {name}", description=text, formatter_class=HelpFormatter)
    add(parser, *shared)
    return parser
