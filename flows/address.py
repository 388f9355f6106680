"""The address and the password of a Prefect server that we started: as files for other terminals, and as settings.

`make serve` leaves the files and flows/plugin.py reads them. Prefect loads this module with the plugin, so it imports
nothing of ours but where the data are.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from hmr_skel.places import data_folder


def address_file() -> Path:
    """The file with the API address; there while `make serve` runs."""
    return data_folder() / ".prefect-api-url"


def password_file() -> Path:
    """The file with the generated password, beside the address; only its owner may read it."""
    return address_file().with_name(".prefect-password")


def leave_files(url: str, password: str | None) -> None:
    """Write the files anew, the password's with mode 600; none of a password that is the user's own."""
    path = password_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of a server that was killed
    if password is not None:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(password)
    address_file().write_text(url)


def client_settings(url: str, password: str | None) -> dict[str, str]:
    """Environment variables that let Prefect's clients in."""
    return {"PREFECT_API_URL": url} | ({} if password is None else {"PREFECT_API_AUTH_STRING": password})


def served_url() -> str | None:
    """The API address of the running `make serve`; None where none runs (a killed one leaves its files)."""
    url = _read(address_file())
    try:
        parts = urlsplit(url or "")
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except (OSError, ValueError):
        return None
    return url


def settings_for(url: str) -> dict[str, str]:
    """Those for a server at an address: with the environment's password; else, for `make serve`'s address, its own."""
    ours = _place(_read(address_file()) or "") == _place(url)
    return client_settings(url, os.environ.get("PREFECT_API_AUTH_STRING") or (_read(password_file()) if ours else None))


def _place(url: str) -> str:
    return url.rstrip("/").replace("://localhost:", "://127.0.0.1:")


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None
