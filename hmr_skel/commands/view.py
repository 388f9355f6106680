"""`hmr-skel view`: show bodies in a live page."""

import argparse

from hmr_skel.commands.arguments import MODELS, add, add_number, folder, new_command
from hmr_skel.commands.inputs import models_and_images
from hmr_skel.errors import UserError

VIEW = """\
Show bodies in your browser: the annotated SMPL mesh, SKEL's skin and its bones, side by side or over each other. The
page plays frames, colours the skin by its error, and shows joint angles as curves, dofs at a limit, and the image.

The page is open only to this machine, and has no password: other users of the machine, and other web pages in your
browser, can read what it shows. Images of predictions are looked for below the current folder.

Example: hmr-skel view data/open, or hmr-skel view walk.parquet"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    view = new_command(commands, "view", "show bodies in a live page of the browser", VIEW, run_view)
    text = "a dataset's folder, a .parquet of `hmr-skel convert`, or the predictions.parquet of `hmr-skel predict`"
    view.add_argument("dataset", metavar="TABLE", type=folder, help=text)
    text = "port of the page; if it is taken, the next free one"
    add_number(view, "--port", int, 1, 65535, default=8080, metavar="PORT", help=text)
    add(view, "manifest", default=None, help="names the body models and images of a dataset (default: by its name)")
    add(view, "body-models", help=MODELS)
    view.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")


def run_view(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    import webbrowser
    from importlib.util import find_spec

    from hmr_skel.data.load import load_shards

    if find_spec("viser") is None:
        raise UserError("`hmr-skel view` needs viser: make setup EXTRAS=viewer; without make, pip install viser")
    table = load_shards(args.dataset)
    import torch  # whose import takes seconds

    from hmr_skel.convert.fit import Bodies
    from hmr_skel.report.bodies import NEEDED
    from hmr_skel.view.page import Viewer
    from hmr_skel.view.tracks import ALSO, Poser, find_tracks

    torch.set_num_threads(1)  # a single body is posed no faster by more, which wait for each other on a busy machine
    tracks = find_tracks(table)
    table = table.select([name for name in (*NEEDED, *ALSO) if name in table.columns])
    models, picture = models_and_images(args, table)
    viewer = Viewer(tracks, Poser(table, Bodies(models)), picture, args.port)
    print(f"{viewer.url}  (Ctrl-C ends it)", flush=True)
    if not args.no_browser:
        webbrowser.open(viewer.url)
    try:
        viewer.play()
    except KeyboardInterrupt:
        viewer.server.stop()
