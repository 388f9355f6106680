"""`hmr-skel images`: the rendered pictures of the default label set. Fitting does not need them, training does."""

import argparse
import os

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.errors import UserError

IMAGES = """\
Render the pictures of a generated label set as JPEGs at the paths that its rows name, under the manifest's image_root.
Those that are there are kept, so an interrupted run goes on where it was. Sources with photographs are left alone."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `images`."""
    images = commands.add_parser(
        "images",
        help="render the default dataset's images",
        description=IMAGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    images.add_argument(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="whose label sets (default: %(default)s)"
    )
    images.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 16),
        metavar="N",
        help="processes that render (default: one per core, %(default)s here)",
    )
    images.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    images.set_defaults(run=run_images, interrupted="rendered images are kept; the same command renders the others")


def run_images(args: argparse.Namespace) -> None:
    """Render what is missing."""
    import time

    from tqdm import tqdm

    from flows.sources import make_missing
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.open_data.images import make_images

    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected at least 1.")
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
        with tqdm(total=source.generate.rows, unit="image", disable=True if args.quiet else None) as bar:
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
