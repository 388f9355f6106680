"""`hmr-skel serve`: the Prefect server and the deployment, in the foreground."""

import argparse

from hmr_skel.commands.arguments import new_command

SERVE = """\
Start the Prefect server (user interface and API, this machine only) and serve the deployment build-hmr-skel, both until
Ctrl-C. In another terminal, from the same folder:
  prefect deployment run build-hmr-skel
  prefect deployment run build-hmr-skel -p manifest=manifests/hmr-skel.toml
  prefect deployment run build-hmr-skel -p workers=8
The server has a password, made anew at each start, which the commands above find by themselves; Prefect's page asks for
it. PREFECT_SERVER_API_AUTH_STRING=name:password sets one of your own, docs/security.md."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `serve`."""
    serve = new_command(commands, "serve", "Prefect server and deployment", SERVE, run_serve)
    serve.add_argument("--port", type=int, help="of the server (default: PREFECT_SERVER_API_PORT, else 4200)")


def run_serve(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from flows.server import serve

    return serve(args.port)
