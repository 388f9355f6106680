"""Start-up hook of Prefect: `prefect deployment run build-hmr-skel` means `build-hmr-skel/build-hmr-skel`, here.

Prefect knows a deployment only as flow/deployment, and the second terminal does not know where `make serve` listens,
nor its password. Prefect runs the hooks of the entry point group `prefect.plugins` before it reads its arguments or its
settings, where `[tool.prefect.plugins] enabled` says so (pyproject.toml). This one completes exactly that command. To
any other process it gives only the password, and only where PREFECT_API_URL names the running `make serve`.
"""

import os
import sys

from prefect.plugins import HookContext, register_hook

from flows.address import answers, served_settings, settings_for

NAME = "build-hmr-skel"
FULL_NAME = f"{NAME}/{NAME}"
NO_SERVER = "error: no server is running. Start one in another terminal, from this folder: make serve"


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Complete the deployment's name in `sys.argv`, and set the address and password of the running `make serve`.

    A PREFECT_API_URL in the environment is the user's choice and stays. Ends the process (exit status 2) where no
    server is configured and none of ours runs, instead of the minutes and the traceback that would follow.
    """
    ours, chosen = is_ours(sys.argv), os.environ.get("PREFECT_API_URL")
    if ours:
        sys.argv[3] = FULL_NAME
    # Into the environment at once, and not by a `SetupResult`: `prefect plugins diagnose` prints what is in those.
    if chosen:
        os.environ |= settings_for(chosen)
    elif ours:
        served = served_settings()
        if served and answers(served["PREFECT_API_URL"]):
            os.environ |= served
        elif not ctx.api_url:  # else a server of the user's own, from a Prefect profile
            print(NO_SERVER, file=sys.stderr)
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
