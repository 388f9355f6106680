"""Start-up hook of Prefect: `prefect deployment run build-hmr-skel` means `build-hmr-skel/build-hmr-skel`, here.

Prefect knows a deployment only as flow/deployment, and the second terminal does not know where `make serve` listens.
Prefect runs the hooks of the entry point group `prefect.plugins` before it reads its arguments or its address, where
`[tool.prefect.plugins] enabled` says so (pyproject.toml). This one acts on exactly that command and on nothing else.
"""

import os
import socket
import sys
from urllib.parse import urlsplit

from prefect.plugins import HookContext, SetupResult, register_hook

from flows.address import address_file

NAME = "build-hmr-skel"
FULL_NAME = f"{NAME}/{NAME}"


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Complete the deployment's name in `sys.argv`, and set the address of the running `make serve`.

    A PREFECT_API_URL in the environment is the user's choice and stays. Ends the process (exit status 2) where no
    server is configured and none of ours runs, instead of the minutes and the traceback that would follow.
    """
    if not is_ours(sys.argv):
        return None
    sys.argv[3] = FULL_NAME
    if os.environ.get("PREFECT_API_URL"):
        return None
    url = read_address()
    if url is not None:
        return SetupResult(env={"PREFECT_API_URL": url}, note="address of the running `make serve`")
    if ctx.api_url:
        return None  # a server of the user's own, from a Prefect profile
    print("error: no server is running. Start one in another terminal, from this folder: make serve", file=sys.stderr)
    raise SystemExit(2)


def is_ours(argv: list[str]) -> bool:
    """Is this `prefect deployment run build-hmr-skel`, by either name? Options may follow."""
    program = os.path.basename(argv[0]) if argv else ""
    # "-m" and "__main__.py": `python -m prefect`, before and after Python has found the module
    return (
        program in ("prefect", "prefect.exe", "-m", "__main__.py")
        and argv[1:3] == ["deployment", "run"]
        and argv[3:4] in ([NAME], [FULL_NAME])
    )


def read_address() -> str | None:
    """The API address of the running `make serve`, None where none answers."""
    try:
        url = address_file().read_text().strip()
        parts = urlsplit(url)
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except (OSError, ValueError):  # no file, or what is left of a server that was killed
        return None
    return url
