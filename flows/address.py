"""Where `make serve` leaves the address of its server for other terminals. Imports nothing, for flows/plugin.py."""

import os
from pathlib import Path


def address_file() -> Path:
    """The file with the API address; there while `make serve` runs. Relative to the folder that it runs in."""
    return Path(os.environ.get("HMR_SKEL_DATA") or "data") / ".prefect-api-url"
