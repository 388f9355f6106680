"""The command line `hmr-skel`: it parses arguments, calls a command, and turns each error into one clear line.

Exit status: 0 done; 1 a bug (with its traceback), or `doctor` found something missing; 2 an error that the user can
mend; 130 interrupted. It imports nothing heavy before it knows the command, so that `--help` answers at once.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from hmr_skel import __version__
from hmr_skel.commands import bench, build, convert, doctor, evaluate, predict, report, train, verify
from hmr_skel.commands.arguments import Parser
from hmr_skel.errors import UserError

DESCRIPTION = """\
hmr-skel converts SMPL annotations of people in images to SKEL, the body model with an anatomical skeleton.

In files, lengths are metres, angles radians and image coordinates pixels; names of other units end in them (mm, deg).
Shards count from 0, and 07 means 7.

Datasets and networks go to the data folder unless you name another. It is $HMR_SKEL_DATA if that is set, else data/ of
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
    """The parser of all commands. Each family of commands adds its own part."""
    parser = Parser("hmr-skel", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"hmr-skel {__version__}")
    parser.set_defaults(run=lambda args: print(FIRST))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for family in (build, verify, report, convert, train, evaluate, predict, bench, doctor):
        family.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(build_parser(), argv)


def set_environment() -> None:
    """Set the environment variables that libraries read at import. A value that the user has set stays."""
    # For torch: threads that spin while they wait make a fit many times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # our own messages say what is wrong with a file
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse, call the `run` that the parser has set, and turn an error into one line and an exit status."""
    set_environment()
    try:
        args = parser.parse_args(argv)
        return args.run(args) or 0
    except KeyboardInterrupt as stopped:
        kept = "Finished files are kept. Start the same command again to continue."
        print(f"\ninterrupted. {str(stopped) or kept}", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `hmr-skel ... | head` closes the pipe, which is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        todo = "Check that it exists, that you may use it, and that its disk has room."
        print(f"error: {error.filename or 'a file'}: {error.strerror}. {todo}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
