"""Arguments of commands. What several commands have is declared here once; numbers are checked as they are read."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.data.storage import Place

DEFAULT_MANIFEST = "manifests/open.toml"
RUNS = Path("data/runs")
"""Where trained networks go, each run in a folder named for its recipe."""


def new_command(
    commands: argparse._SubParsersAction,
    name: str,
    summary: str,
    text: str,
    run: Callable[[argparse.Namespace], int | None],
    interrupted: str = "",
    *,
    add_help: bool = True,
) -> argparse.ArgumentParser:
    """The parser of a command.

    Args:
        commands: of the parser that it is added to.
        name: what users type.
        summary: its line in the list of commands.
        text: its description, printed as it is.
        run: called with the parsed arguments; returns the exit status, or None for 0.
        interrupted: printed after Ctrl-C: what is left, and what to do.
        add_help: False: the command has a --help of its own.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=add_help,
    )
    parser.set_defaults(run=run, interrupted=interrupted)
    return parser


def place(text: str) -> "Place":
    """A folder, or the URI of a dataset in a store."""
    if "://" not in text:
        return Path(text)
    from hmr_skel.data.storage import locate

    try:
        return locate(text)
    except UserError as error:  # argparse shows this text alone, and not the argument, which may hold a password
        raise argparse.ArgumentTypeError(str(error)) from None


def folder(text: str) -> Path:
    """A folder of this machine."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            "expected a folder of this machine. Copy the dataset there first: aws s3 sync s3://bucket/prefix FOLDER"
        )
    return Path(text)


def _shared(*flags: str, **keywords: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return flags, keywords


_SHARED = {
    "manifest": _shared(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE",
        help="names label files, images and body models (default: %(default)s)",
    ),
    "dataset": _shared("dataset", type=folder, metavar="DATASET", help="the dataset's folder, for instance data/open"),
    "data": _shared(
        "--data", type=place, metavar="DIR", help="the dataset's folder or URI (default: data/<manifest name>)"
    ),
    "build": _shared(
        "--build", action="store_true", help="build the dataset, and render its images, where they are missing"
    ),
    "body-models": _shared(
        "--body-models", metavar="DIR",
        help="folder with SMPL_*.pkl and skel_*.pkl (default: $HMR_SKEL_BODY_MODELS); 'open' takes the openly licensed "
        "body, which shows that all works but has another shape space than SMPL",
    ),
    "labels": _shared(
        "--labels", type=Path, metavar="FILE", help="a CameraHMR-format .npz in place of the manifest's label files"
    ),
    "network": _shared(
        "--network", type=Path, metavar="FILE",
        help=f"network.safetensors, a run's folder, or SKEL-CF's best.pth (default: the newest in {RUNS})",
    ),
    "smpl-gender": _shared(
        "--smpl-gender", choices=("neutral", "male", "female"), help="the SMPL model that the parameters are for"
    ),
    "recipe": _shared("--recipe", default="tiny", metavar="NAME", help="tiny, vit_b or vit_h (default: %(default)s)"),
    "set": _shared(
        "--set", action="append", default=[], metavar="FIELD=VALUE",
        help="change a field of the recipe; `hmr-skel train --help` lists them",
    ),
    "device": _shared("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto, a GPU if there is one)"),
    "json": _shared("--json", action="store_true", help="print the result as one JSON object, the last line"),
    "quiet": _shared("-q", "--quiet", action="store_true", help="no progress bar, no summary"),
}  # fmt: skip


def add(parser: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Add arguments that several commands have. `changes` are keywords of `add_argument` that differ here."""
    for name in names:
        flags, keywords = _SHARED[name]
        parser.add_argument(*flags, **(keywords | changes))


def add_number(
    parser: argparse._ActionsContainer,
    flag: str,
    kind: type[int] | type[float],
    low: int | float,
    high: int | float = math.inf,
    *,
    unit: str | None = None,
    above: bool = False,
    **keywords: Any,
) -> None:
    """Add an option that is a number in a range. `UserError` names it and the range where it is not.

    Args:
        parser: gets the option.
        flag: such as `--rows`.
        kind: of the number.
        low, high: the range, both included.
        unit: what the number is, for the message.
        above: `low` itself is not allowed.
        keywords: of `add_argument`; the metavar is N where none is given, and the help gets the default.
    """
    of = unit or ("a whole number" if kind is int else "a number")
    expected = f"{of} {'above' if above else 'from'} {low:,}" + (f" to {high:,}" if math.isfinite(high) else "")

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low < value if above else low <= value) or not value <= high or math.isinf(value):
            raise UserError(f"{flag} {text}: expected {expected}.")
        return value

    if keywords.get("default") is not None and "default" not in keywords["help"]:
        keywords["help"] += " (default: %(default)s)"
    keywords.setdefault("metavar", "N")
    parser.add_argument(flag, type=read, **keywords)
