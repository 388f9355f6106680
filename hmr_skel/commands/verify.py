"""`hmr-skel verify`: compare a dataset on disk with its meta files and its manifest."""

import argparse
import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.arguments import add, add_number, new_command, place
from hmr_skel.commands.inputs import manifest_of_shards
from hmr_skel.commands.output import show
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder

if TYPE_CHECKING:
    from hmr_skel.data.manifest import Manifest

VERIFY = """\
Check the folder of a dataset. Every built shard must have three files (data, rejects, meta) with the right names and
the bytes that were written, the columns of the schema, finite values, and each row of the shard either kept or
rejected, once. No file may be there without a shard, and no row may be in two shards. A shard without any file counts
as not built yet: the command prints the number of these, and they are not a problem.

With a manifest, every shard must also be what a build would make now (same label files, body models, recipe, and
version of the fit). A sample of rows is read from the label files and fitted again: copied columns must be equal to the
bit, angles within 1e-4 rad and distances within 0.001 mm (on a GPU 1e-3 rad and 0.005 mm).

The command does not check images, nor the dataset's README.md, which every build writes again.

Exit status: 0 no problems (with --repair: after the repair); 1 problems, one line each on standard output; 2 the check
was not possible (no dataset, no manifest, an unreadable label file or body model); 130 interrupted.
Example: hmr-skel verify data/open"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    verify = new_command(commands, "verify", "check a dataset on disk, and repair it", VERIFY, run_verify)
    add(verify, "dataset", type=place, help="the dataset's folder, for instance data/open, or its URI")
    text = "manifest of the dataset (default: manifests/NAME.toml, by the name in the shards)"
    add(verify, "manifest", default=None, help=text)
    text = "only compare the files with each other, without a manifest"
    verify.add_argument("--files-only", action="store_true", help=text)
    add_number(verify, "--sample", int, 0, default=64, help="rows to fit again, over all shards")
    add_number(verify, "--seed", int, 0, default=0, help="which rows")
    verify.add_argument(
        "--repair", action="store_true",
        help="build only the shards with problems again, move files that belong to no shard to DATASET/set-aside, and "
        "check once more. Refused if most shards were made from another manifest",
    )  # fmt: skip
    add(verify, "device", "json", "quiet")


def run_verify(args: argparse.Namespace) -> int:
    """Print one line for each problem."""
    from flows.shard import Builder
    from flows.verify import repair_dataset, verify_dataset
    from hmr_skel.data.verify import Verification

    if args.files_only and (args.repair or args.manifest):
        raise UserError("--files-only uses no manifest. Leave out --manifest and --repair.")
    if isinstance(args.dataset, Path) and not args.dataset.is_dir():
        raise UserError(f"no folder {args.dataset}. Expected a dataset's, such as {data_folder() / 'open'}.")
    builder = None if args.files_only else Builder(_manifest(args), args.dataset, args.device, quiet=args.quiet)

    def verify() -> Verification:
        found = verify_dataset(args.dataset, builder, sample=args.sample, seed=args.seed)
        for problem in found.problems:
            print(problem.text)
        return found

    found = verify()
    moved, built = 0, 0
    if builder is not None and args.repair and found.problems:
        moved, built = repair_dataset(builder, found.problems, progress=not args.quiet)
        found = verify()
    mended = f"; repaired: {built} shards built again, {moved} files moved to set-aside" if moved or built else ""
    how = "the files alone" if builder is None else f"{found.refitted:,} rows fitted again"
    count = len(found.not_built)
    missing = f", {count:,} not built yet (make dataset builds them)" if count else ""
    sound, problems = len(found.sound), [problem.text for problem in found.problems]
    text = f"{found.shards:,} shards, {sound:,} sound{missing}; {len(problems):,} problems ({how}){mended}"
    report = vars(found) | {"sound": sound, "problems": problems, "moved": moved, "built": built}
    show(args, f"{args.dataset}: {text}", report)
    return 1 if found.problems else 0


def _manifest(args: argparse.Namespace) -> "Manifest":
    """The named manifest, or the one in manifests/ that most shards name.

    Raises `UserError` if there is none, or if most shards name another: --repair would build good shards again.
    """
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.data.shards import Shard, find_files
    from hmr_skel.report.gather import manifest_name

    names: Counter[str] = Counter()
    for index, count in find_files(args.dataset)[0]:
        with contextlib.suppress(UserError, UnicodeDecodeError):  # the check will report damage
            names[manifest_name(Shard(index, count, (), False).data_file(args.dataset), args.dataset)] += 1
    if args.manifest is not None and not names:
        return load_manifest(args.manifest)
    return manifest_of_shards(args.manifest, max(names, key=lambda name: names[name], default=args.dataset.name))
