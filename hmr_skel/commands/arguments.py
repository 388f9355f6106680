"""Arguments that several commands share, and parsers that check numbers when they read them."""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hmr_skel.errors import UserError
from hmr_skel.places import DEFAULT_MANIFEST

if TYPE_CHECKING:
    from hmr_skel.data.storage import Place

NETWORK_HELP = "(default: the newest in runs/ of the data folder)"
MODELS = "folder of the body models, or 'open' (default: the models of the rows, or $HMR_SKEL_BODY_MODELS)"
DATA_HELP = "(default: <manifest name> in the data folder, see `hmr-skel --help`)"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Prints descriptions unchanged, and the default of every option whose help does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str:  # argparse's own formatters override this, too
        silent = action.nargs == 0 or str(action.default) in ("", "[]", "None", argparse.SUPPRESS)
        text = action.help or ""
        return text if silent or "default" in text else f"{text} (default: %(default)s)".strip()


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`s that name the nearest known word.

    Its help ends with the text that `more` returns, which is called only for --help.
    """

    more: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + ("" if self.more is None else f"\n{self.more()}\n")

    def parse_known_args(self, args=None, namespace=None):
        args, known = list(sys.argv[1:] if args is None else args), self._option_string_actions
        if self._subparsers is None:  # otherwise the options may belong to the command
            for text in takewhile(lambda text: text != "--", args):
                option = text.partition("=")[0]
                if option.startswith("--") and not any(name.startswith(option) for name in known):
                    self.error(f"no option {option}{_nearest(option, known)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += _nearest(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        raise UserError(f"{message}. `{self.prog} --help` says more.")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def new_command(
    commands: argparse._SubParsersAction,
    name: str,
    summary: str,
    text: str,
    run: Callable[[argparse.Namespace], int | None],
    more: Callable[[], str] | None = None,
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    `summary` is its line in the list of commands, `text` its description, printed unchanged, and `more` returns the
    text after its options. `run` gets the parsed arguments and returns the exit status, or None for 0.
    """
    parser = commands.add_parser(name, help=summary, description=text, formatter_class=HelpFormatter)
    parser.more = more
    parser.set_defaults(run=run)
    return parser


def place(text: str) -> "Place":
    """A folder, or the URI of a dataset in a store. Raises `UserError` if the URI is not valid."""
    from hmr_skel.data.storage import locate

    return locate(text)


def folder(text: str) -> Path:
    """A folder of this machine."""
    if "://" in text:
        raise UserError("expected a local folder. Copy the dataset there first: aws s3 sync s3://bucket/prefix FOLDER")
    return Path(text)


_SHARED: dict[str, dict[str, Any]] = {
    "manifest": {"default": DEFAULT_MANIFEST, "metavar": "FILE", "help": "file that names label files, images and "
    "body models"},
    "dataset": {"type": folder, "metavar": "DATASET", "help": "the dataset's folder, for instance data/open"},
    "data": {"type": place, "metavar": "DIR", "help": f"the dataset's folder or URI {DATA_HELP}"},
    "build": {"action": "store_true", "help": "first build missing shards and render missing images"},
    "body-models": {
        "metavar": "DIR",
        "help": "folder with SMPL_*.pkl and skel_*.pkl (default: $HMR_SKEL_BODY_MODELS); 'open' takes the open "
        "body, which is good for trying out but has another shape space than SMPL",
    },
    "network": {
        "type": Path, "metavar": "FILE",
        "help": f"network.safetensors, a run's folder, or SKEL-CF's best.pth {NETWORK_HELP}",
    },
    "smpl-gender": {"choices": ("neutral", "male", "female"), "help": "the SMPL model of the parameters"},
    "recipe": {"default": "tiny", "metavar": "NAME", "help": "tiny, vit_b or vit_h"},
    "set": {
        "action": "append", "default": [], "metavar": "FIELD=VALUE",
        "help": "change a field of the recipe; `hmr-skel train --help` lists them",
    },
    "labels": {"type": Path, "metavar": "FILE", "help": "a CameraHMR-format .npz in place of the manifest's labels"},
    "device": {"default": "auto", "help": "cpu, cuda, cuda:1 ... (default: auto, a GPU if there is one)"},
    "json": {"action": "store_true", "help": "print the result as one JSON object on the last line"},
    "quiet": {"action": "store_true", "help": "show no progress and no summary"},
}  # fmt: skip
_FLAGS = {"dataset": ("dataset",), "quiet": ("-q", "--quiet")}


def add(parser: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Add shared arguments. `changes` are keywords of `add_argument` that differ for this command."""
    for name in names:
        parser.add_argument(*_FLAGS.get(name, (f"--{name}",)), **(_SHARED[name] | changes))


def add_number(
    parser: argparse._ActionsContainer,
    flag: str,
    kind: type[int] | type[float],
    low: int | float,
    high: int | float = math.inf,
    *,
    unit: str = "",
    **keywords: Any,
) -> None:
    """Add an option whose value is a number from `low` to `high`; for other values `UserError` names the range.

    `keywords` are those of `add_argument`. The default metavar is N.
    """
    what = unit or ("a whole number" if kind is int else "a number")
    expected = f"{what} from {low:,}" + (f" to {high:,}" if math.isfinite(high) else "")

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value):
            raise UserError(f"{flag} {text}: expected {expected}.")
        return value

    keywords.setdefault("metavar", "N")
    parser.add_argument(flag, type=read, **keywords)
