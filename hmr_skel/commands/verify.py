"""`hmr-skel verify`: is a dataset on disk what its meta files and its manifest say it is?"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.arguments import add, add_number, new_command, place
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.data.storage import Place

VERIFY = """\
Check a dataset folder. Every shard must have its three files (data, rejects, meta) with the bytes that were written,
under its own names; the schema's columns and finite values; and every row that it was to read, kept or rejected once.
No shard may be missing, no file may be there that belongs to none, no row may be in two shards.

Against its manifest: every shard must be what a build would make now (same label files, body models, recipe, and
version of the fit), and a sample of rows is read from the label files and fitted again: what is passed through must be
equal to the bit, angles to 1e-4 rad and distances to 0.001 mm (with a GPU, 1e-3 rad and 0.005 mm).

Not covered: the dataset's README.md, which every build writes anew, and the images.

exit status:
  0  all is sound (with --repair: now)
  1  problems, one line each on standard output
  2  it could not be checked: no dataset, no manifest, a label file or a body model that cannot be read
  130  interrupted"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `verify`."""
    verify = new_command(
        commands, "verify", "check a dataset on disk, and repair it", VERIFY, run_verify,
        "not all was checked; what --repair finished is kept",
    )  # fmt: skip
    add(verify, "dataset", type=place, help="the dataset's folder, for instance data/open, or its URI")
    add(
        verify,
        "manifest",
        default=None,
        help="what it was made from (default: the file in manifests/ that has the dataset's name)",
    )
    verify.add_argument(
        "--files-only", action="store_true", help="compare the files with each other only; needs no manifest"
    )
    verify.add_argument("--partial", action="store_true", help="shards that are not built yet are no problem")
    add_number(
        verify, "--sample", int, 0, default=64, metavar="N",
        help="rows to fit again, over all shards (default: %(default)s)",
    )  # fmt: skip
    add_number(verify, "--seed", int, 0, default=0, metavar="N", help="which rows (default: %(default)s)")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="build again the shards that something is wrong with, and no others; move files that belong to no shard "
        "to DATASET/set-aside; then check once more. Refused where most shards carry another manifest's name",
    )
    verify.add_argument(
        "--outdated",
        action="store_true",
        help="with --repair: build again, too, sound shards of another version of the fit, recipe, body or manifest",
    )
    add(verify, "device", "json", "quiet")


def run_verify(args: argparse.Namespace) -> int:
    """One line for each thing that is wrong."""
    from tqdm import tqdm

    from flows.shard import Builder
    from flows.verify import Verification, problem_lines, repair_dataset, verify_dataset
    from hmr_skel.data.manifest import load_manifest

    if args.files_only and (args.repair or args.manifest):
        raise UserError("--files-only goes without manifest, so it can neither take one nor repair anything.")
    if args.outdated and not args.repair:
        raise UserError("--outdated says what --repair builds again. Give both, or neither.")
    manifest = None if args.files_only else load_manifest(args.manifest or _manifest_of(args.dataset))
    if args.repair and manifest is not None:
        _refuse_other_name(args.dataset, manifest.name)

    def open_builder(*, any_plan: bool = False) -> Builder:
        assert manifest is not None
        return Builder(manifest, args.dataset, args.device, quiet=args.quiet, any_plan=any_plan)

    def verify() -> Verification:
        builder = None if manifest is None else open_builder(any_plan=True)
        with tqdm(unit="row", desc="fit again", disable=True if args.quiet else None, leave=False) as bar:
            found = verify_dataset(
                args.dataset, builder, partial=args.partial, sample=args.sample, seed=args.seed, progress=bar.update
            )
        print(*problem_lines(found.problems), sep="\n", end="\n" if found.problems else "")
        return found

    found = verify()
    moved, built = 0, 0
    if args.repair and found.problems:
        moved, built = repair_dataset(
            args.dataset, found.problems, open_builder, outdated=args.outdated, progress=not args.quiet
        )
        found = verify()
    if not args.quiet:
        mended = f"; repaired: {built} shards built again, {moved} files taken away" if moved or built else ""
        how = "the files alone" if manifest is None else f"{found.refitted:,} rows fitted again"
        print(
            f"{args.dataset}: {found.sound:,} of {found.shards:,} shards sound, {len(found.problems):,} problems "
            f"({how}){mended}"
        )
    if args.json:
        report: dict = {"shards": found.shards, "sound": found.sound, "refitted": found.refitted}
        report |= {"problems": problem_lines(found.problems), "moved": moved, "built": built}
        print(json.dumps(report))
    return 1 if found.problems else 0


def _manifest_of(dataset: "Place") -> Path:
    """The file in manifests/ of the name that the dataset's shards carry. Raises `UserError` where there is none."""
    names = _stored_names(dataset)
    candidates = [Path("manifests") / f"{Path(name).name}.toml" for name in sorted(names)]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        called = " and ".join(map(repr, sorted(names))) or "of no shard that can be read"
        raise UserError(
            f"which manifest {dataset} was made from is not clear (its name: {called}). Name it with --manifest FILE, "
            "or check the files alone with --files-only."
        )
    return found[0]


def _refuse_other_name(dataset: "Place", name: str) -> None:
    """Raise `UserError` where most shards carry the name of another manifest: repair would replace a good dataset."""
    names = _stored_names(dataset)
    if names and 2 * names[name] <= names.total():
        called = " and ".join(f"{stored!r} ({count} shards)" for stored, count in names.most_common())
        raise UserError(
            f"{dataset} was made from manifest {called}, not from {name!r}, and --repair would build it again as that. "
            "Name its own manifest with --manifest FILE."
        )


def _stored_names(dataset: "Place") -> Counter[str]:
    """How many of the shards that can be read carry which manifest's name."""
    from hmr_skel.data.storage import open_parquet

    names: Counter[str] = Counter()
    for path in sorted((dataset / "data").glob("train-*.parquet")):
        try:
            with open_parquet(path) as file:
                metadata = file.schema_arrow.metadata or {}
            names[metadata.get(b"hmr_skel.manifest", b"").decode()] += 1
        except (UserError, UnicodeDecodeError):
            continue  # damaged, as will be said
    del names[""]
    return names
