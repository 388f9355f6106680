"""The command line `hmr-skel`: parses, calls, and turns what went wrong into one clear line.

Exit status: 0 done, 1 a bug (with its traceback), or what `doctor` found missing, 2 something that the user can mend,
130 interrupted.
Nothing heavy is imported before the command is known, so that `--help` answers at once.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from hmr_skel import __version__
from hmr_skel.commands import bench, build, convert, doctor, evaluate, predict, report, train, verify, view
from hmr_skel.commands.arguments import Parser
from hmr_skel.errors import UserError

DESCRIPTION = """\
SMPL annotations of people in images to SKEL, the body model with an anatomical skeleton, at dataset scale.

Lengths are metres, angles radians and image coordinates pixels in every file; what is printed in other units says so
(mm, deg). Shards count from 0, and 07 means 7.

The data folder, where datasets and networks go unless another is named: $HMR_SKEL_DATA where it is set, else data/ of
the clone that hmr-skel runs from, else hmr-skel in the user's data directory (~/.local/share on Linux)."""

FIRST = """\
hmr-skel turns SMPL annotations of people in images into SKEL. To type first:

  hmr-skel fit --shard 7     fits 512 people of the default dataset, on an openly licensed body
  hmr-skel report            makes a web page of what was fitted: errors, angles, pictures
  hmr-skel doctor            says what is installed, and which model and label files are there
  hmr-skel convert walk.npz -o walk.osim --body-models open
                             turns your own SMPL motion into a model and a motion for OpenSim

All commands: hmr-skel --help. One of them: hmr-skel fit --help."""

_OF_THE_DISK = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Each family of commands adds its own part."""
    parser = Parser("hmr-skel", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"hmr-skel {__version__}")
    parser.set_defaults(run=lambda args: print(FIRST))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for family in (build, verify, report, view, convert, train, evaluate, predict, bench, doctor):
        family.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(build_parser(), argv)


def set_environment() -> None:
    """Set what libraries read when they are imported. What the user has set stays."""
    # For torch: threads that spin while they wait make a fit many times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # what it says of broken files is said in our words
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse, call the `run` that the parser has set, and turn what went wrong into one line and an exit status."""
    set_environment()
    try:
        args = parser.parse_args(argv)
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("\ninterrupted. Finished files are kept and whole; start the same command again.", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `hmr-skel ... | head`: nobody reads any more, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        todo = "Check that it is there, that you may use it, and that its disk has room."
        print(f"error: {error.filename or 'a file'}: {error.strerror}. {todo}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
