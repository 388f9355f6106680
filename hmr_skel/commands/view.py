"""`hmr-skel view`: bodies in a live page."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmr_skel.commands.arguments import add, add_number, folder, new_command
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from hmr_skel.data.load import Shards
    from hmr_skel.view.page import Picture

VIEW = """\
Show bodies in a page of your browser: the annotated SMPL mesh, SKEL's skin and its bones, side by side or over each
other; a time line that plays; the skin coloured by its error; joint angles as curves, with the dofs that stand at a
limit; the image of the row.

The page listens on this machine only, and has no password: other users of the machine, and web pages that your browser
has open meanwhile, may read what it shows. Images of predictions are looked for below the folder that you are in.

Example: hmr-skel view data/open, or hmr-skel view walk.parquet --body-models open"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `view`."""
    view = new_command(commands, "view", "bodies in a live page of the browser", VIEW, run_view)
    view.add_argument(
        "table", metavar="TABLE", type=folder,
        help="a dataset's folder, a .parquet of `hmr-skel convert`, or the rows.parquet of `hmr-skel predict`",
    )  # fmt: skip
    add_number(
        view, "--port", int, 1, 65535, default=8080, metavar="PORT",
        help="of the page, on this machine only (the next one that is free, where it is taken)",
    )  # fmt: skip
    add(view, "manifest", default=None, help="of a dataset: where body models and images are (default: by its name)")
    add(view, "body-models")
    view.add_argument("--no-browser", action="store_true", help="only print the address")


def run_view(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    import webbrowser
    from importlib.util import find_spec

    from hmr_skel.data.load import load_shards

    if find_spec("viser") is None:
        raise UserError("`hmr-skel view` needs viser: make setup EXTRAS=viewer; without make, pip install viser")
    from hmr_skel.convert.fit import Bodies
    from hmr_skel.view.page import Viewer
    from hmr_skel.view.tracks import ALSO, NEEDED, Poser, find_tracks

    table = load_shards(args.table)
    tracks = find_tracks(table)
    table = load_shards(args.table, [name for name in (*NEEDED, *ALSO) if name in table.columns])
    models, picture = _bodies_and_pictures(args, table)
    viewer = Viewer(tracks, Poser(table, Bodies(models)), picture, args.port)
    print(f"{viewer.url}  (Ctrl-C ends it)", flush=True)
    if not args.no_browser:
        webbrowser.open(viewer.url)
    try:
        viewer.play()
    except KeyboardInterrupt:
        viewer.server.stop()


def _bodies_and_pictures(args: argparse.Namespace, table: "Shards") -> tuple[Path, "Picture"]:
    """The folder of the body models, and what finds a row's image."""
    import cv2

    from hmr_skel.commands.inputs import manifest_of_shards, named_body_models
    from hmr_skel.data.images import OutsideFolder, below, image_rules
    from hmr_skel.report.gather import manifest_name
    from hmr_skel.report.pictures import image_of

    if "row_id" not in table.columns:  # no dataset: rows name their image as the command that wrote them was given it

        def of_file(row: Mapping[str, Any]) -> "np.ndarray | None":
            try:  # a table from elsewhere must not open any picture of the disk
                file = below(Path.cwd(), row.get("imgname") or "")
            except OutsideFolder:
                return None
            found = cv2.imread(str(file)) if file.is_file() else None
            return None if found is None else found[..., ::-1]

        return named_body_models(args.body_models, quiet=False), of_file

    manifest = manifest_of_shards(args.manifest, manifest_name(table.paths[0], args.table))
    rules = image_rules(manifest)

    def of_dataset(row: Mapping[str, Any]) -> "np.ndarray | None":
        found = image_of(row, rules)
        return None if isinstance(found, str) else found

    models = manifest.body_models.path
    return models if args.body_models is None else named_body_models(args.body_models, quiet=False), of_dataset
