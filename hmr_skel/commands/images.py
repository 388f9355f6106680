"""`hmr-skel images`: the rendered pictures of the default label set. Fitting does not need them, training does."""

import argparse
import os

from hmr_skel.commands.arguments import add, add_number, new_command
from hmr_skel.errors import UserError

IMAGES = """\
Render the pictures of a generated label set as JPEGs at the paths that its rows name, under the manifest's image_root.
Images that are there are kept, so the same command goes on where one was interrupted.
Sources of photographs are left alone."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `images`."""
    images = new_command(
        commands, "images", "render the default dataset's images", IMAGES, run_images,
        "rendered images are kept; the same command renders the others",
    )  # fmt: skip
    add(images, "manifest")
    add_number(
        images, "--workers", int, 1, default=default_workers(), metavar="N",
        help="processes that render (default: one for each core, %(default)s here)",
    )  # fmt: skip
    add(images, "quiet")


def default_workers() -> int:
    """One for each core, 16 at most."""
    return min(os.cpu_count() or 1, 16)


def run_images(args: argparse.Namespace) -> None:
    """Render what is missing."""
    import time

    from flows.sources import make_missing
    from hmr_skel.commands.output import progress
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.open_data.images import make_images

    manifest = load_manifest(args.manifest)
    generated = [source for source in manifest.sources if source.generate is not None]
    if not generated:
        raise UserError(f"{args.manifest} generates no label set: its images are photographs that you bring.")
    make_missing(manifest, quiet=args.quiet)
    for source in generated:
        if source.image_root is None:
            raise UserError(
                f"{args.manifest}: source {source.name!r} has no image_root, expected a folder for its images."
            )
        assert source.generate is not None
        start = time.perf_counter()
        with progress(args.quiet, "image", source.generate.rows) as bar:
            made = make_images(
                source.file,
                source.image_root,
                manifest.body_models.path,
                workers=args.workers,
                progress=lambda done, bar=bar: bar.update(done - bar.n),
            )
        if not args.quiet:
            rate = made / (time.perf_counter() - start)
            print(f"{source.name}: {made:,} images rendered, {rate:.1f} a second, in {source.image_root}")
