"""Prefect's start-up hook, with which `prefect deployment run build-hmr-skel` finds `make serve` and its deployment.

Prefect names a deployment as flow/deployment, and another terminal knows neither the address of `make serve` nor its
password. Prefect runs the hooks of the entry point group `prefect.plugins` before it reads its arguments and settings,
if `[tool.prefect.plugins] enabled` is set (pyproject.toml). This hook completes that one command. Other processes get
only the password, and only if PREFECT_API_URL names the running `make serve`.
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

    A PREFECT_API_URL in the environment stays. If no server is configured and `make serve` does not run, this ends the
    process with status 2: Prefect would try for minutes and end in a traceback.
    """
    ours, chosen = is_ours(sys.argv), os.environ.get("PREFECT_API_URL")
    if ours:
        sys.argv[3] = FULL_NAME
    # Set the environment directly: `prefect plugins diagnose` would print the values in a `SetupResult`.
    if url := chosen or (served_url() if ours else None):
        os.environ |= settings_for(url)
    elif ours and not ctx.api_url:  # otherwise a Prefect profile names the user's own server
        print(
            "error: no server is running. Start one in another terminal, from this folder: make serve", file=sys.stderr
        )
        raise SystemExit(2)


def is_ours(argv: list[str]) -> bool:
    """Whether this is `prefect deployment run build-hmr-skel`, with either name and any options."""
    program = os.path.basename(argv[0]) if argv else ""
    # "-m" and "__main__.py": `python -m prefect`, before and after Python has found the module
    if program not in ("prefect", "prefect.exe", "-m", "__main__.py"):
        return False
    return argv[1:3] == ["deployment", "run"] and argv[3:4] in ([NAME], [FULL_NAME])
