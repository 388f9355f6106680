"""Prefect's start-up hook: makes `prefect deployment run build-hmr-skel` mean `build-hmr-skel/build-hmr-skel`.

Prefect knows a deployment only as flow/deployment, and the second terminal knows neither where `make serve` listens nor
its password. Prefect runs the hooks of the entry point group `prefect.plugins` before it reads its arguments and its
settings, where `[tool.prefect.plugins] enabled` says so (pyproject.toml). This hook completes that one command. Any
other process gets only the password, and only where PREFECT_API_URL names the running `make serve`.
"""

import os
import sys

from prefect.plugins import HookContext, register_hook

from flows.address import served_url, settings_for

NAME = "build-hmr-skel"
FULL_NAME = f"{NAME}/{NAME}"


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Complete the deployment's name in `sys.argv`, and set the address and password of the running `make serve`.

    A PREFECT_API_URL in the environment is the user's choice and stays. Ends the process (exit status 2) where no
    server is configured and none of ours runs: Prefect would try for minutes and end in a traceback.
    """
    ours, chosen = is_ours(sys.argv), os.environ.get("PREFECT_API_URL")
    if ours:
        sys.argv[3] = FULL_NAME
    # Into the environment at once, and not by a `SetupResult`: `prefect plugins diagnose` prints what is in those.
    if url := chosen or (served_url() if ours else None):
        os.environ |= settings_for(url)
    elif ours and not ctx.api_url:  # else a server of the user's own, from a Prefect profile
        print(
            "error: no server is running. Start one in another terminal, from this folder: make serve", file=sys.stderr
        )
        raise SystemExit(2)


def is_ours(argv: list[str]) -> bool:
    """Is this `prefect deployment run build-hmr-skel`, by either name? Options may follow."""
    program = os.path.basename(argv[0]) if argv else ""
    # "-m" and "__main__.py": `python -m prefect`, before and after Python has found the module
    if program not in ("prefect", "prefect.exe", "-m", "__main__.py"):
        return False
    return argv[1:3] == ["deployment", "run"] and argv[3:4] in ([NAME], [FULL_NAME])
