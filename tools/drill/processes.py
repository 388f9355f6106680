"""A whole `hmr-skel dataset`, as a user would start it."""

import os
import sys
from pathlib import Path


def flow_command(manifest: Path, out: Path) -> list[str]:
    """The command line."""
    command = [sys.executable, "-m", "hmr_skel.cli", "dataset", "--manifest", str(manifest), "--out", str(out)]
    return [*command, "--device", "cpu"]


def flow_environment(prefect_home: Path) -> dict[str, str]:
    """Ours, with nothing of the user's Prefect in it: its database is in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return kept | {"PREFECT_HOME": str(prefect_home), "DO_NOT_TRACK": "1"}
