"""The address and the password of a Prefect server that we started: as files for other terminals, as settings.

`make serve` leaves the files, flows/plugin.py reads them. Imports nothing of ours: Prefect loads it with the plugin.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit


def address_file() -> Path:
    """The file with the API address; there while `make serve` runs. Relative to the folder that it runs in."""
    return Path(os.environ.get("HMR_SKEL_DATA") or "data") / ".prefect-api-url"


def password_file() -> Path:
    """The file with the generated password, beside the address; only its owner may read it."""
    return address_file().with_name(".prefect-password")


def leave_password(password: str) -> None:
    """Write the password file anew, mode 600."""
    path = password_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of a server that was killed
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(password)


def client_settings(url: str, password: str | None) -> dict[str, str]:
    """Environment variables that let Prefect's clients in."""
    return {"PREFECT_API_URL": url} | ({} if password is None else {"PREFECT_API_AUTH_STRING": password})


def served_settings() -> dict[str, str]:
    """Those for the running `make serve`; none where none runs. Of one that was killed, the files are still there."""
    url = _read(address_file())
    return {} if url is None else client_settings(url, _read(password_file()))


def settings_for(url: str) -> dict[str, str]:
    """Those for a server at an address that the user names: with the user's password, else that of `make serve`."""
    served = served_settings() if _place(_read(address_file()) or "") == _place(url) else {}
    return client_settings(url, os.environ.get("PREFECT_API_AUTH_STRING") or served.get("PREFECT_API_AUTH_STRING"))


def answers(url: str) -> bool:
    """Whether somebody listens at an address. False for what is left of a server that was killed."""
    try:
        parts = urlsplit(url)
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


def _place(url: str) -> str:
    """A server's address as one text, however it is written."""
    return url.rstrip("/").replace("://localhost:", "://127.0.0.1:")


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None
