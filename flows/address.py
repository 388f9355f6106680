"""The address and password of a Prefect server that hmr-skel started, as files for other terminals and as settings.

`make serve` writes the files, flows/plugin.py reads them. Prefect loads this module, so it imports only
`hmr_skel.places`.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from hmr_skel.places import data_folder


def address_file() -> Path:
    """The file with the API address, which exists while `make serve` runs."""
    return data_folder() / ".prefect-api-url"


def password_file() -> Path:
    """The file with the generated password, beside the address. Only its owner may read it."""
    return address_file().with_name(".prefect-password")


def leave_files(url: str, password: str | None) -> None:
    """Write the files, that of the password with mode 600. A password of the user's own is None and not written."""
    path = password_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # may be left of a killed server
    if password is not None:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(password)
    address_file().write_text(url)


def client_settings(url: str, password: str | None) -> dict[str, str]:
    """The environment variables that Prefect's clients need."""
    return {"PREFECT_API_URL": url} | ({} if password is None else {"PREFECT_API_AUTH_STRING": password})


def served_url() -> str | None:
    """The API address of the running `make serve`; None if none runs, even if a killed one left its files."""
    url = _read(address_file())
    try:
        parts = urlsplit(url or "")
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except (OSError, ValueError):
        return None
    return url


def settings_for(url: str) -> dict[str, str]:
    """The variables for a server at `url`: the password is that of the environment, else of `make serve`."""
    ours = _place(_read(address_file()) or "") == _place(url)
    return client_settings(url, os.environ.get("PREFECT_API_AUTH_STRING") or (_read(password_file()) if ours else None))


def _place(url: str) -> str:
    return url.rstrip("/").replace("://localhost:", "://127.0.0.1:")


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None
