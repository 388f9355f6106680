"""The Prefect server: for the time of a `make dataset`, or with the deployment beside it, `make serve`.

It is a child of this process, in a process group of its own. (`prefect server start --background` dies of a closed pipe
sooner or later, and Prefect's own temporary server loses task runs where PREFECT_API_URL is set to nothing.)
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping

from flows.address import address_file, client_settings, leave_files, password_file, served_url
from hmr_skel.errors import UserError

START_TIMEOUT_S = 120.0
"""It takes five seconds or so; the first time, when it makes its database, and on a busy machine many more."""
HOST = "127.0.0.1"


@contextlib.contextmanager
def running_server(password: str, port: int = 0, *, ui: bool = True) -> Iterator[tuple[subprocess.Popen, str]]:
    """A Prefect server on this machine only; yields it and its API address once it answers, and ends it on leaving.

    It answers nobody without the password (name:password), and listens on the port, or for 0 on a free one. With `ui`
    it serves the user interface too, and its warnings reach the terminal. Raises `UserError` where the port is taken or
    the server does not start.
    """
    port = free_port(port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    url = f"http://{HOST}:{port}/api"
    # Prefect does not look at the Host header, so a page whose name leads to 127.0.0.1 counts as the server's own: it
    # is the password that keeps it out. Of the names that Prefect has for each setting, the first, which wins.
    settings = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "1",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
        "PREFECT_SERVER_UI_API_URL": "/api",  # of its own origin, be it called localhost or 127.0.0.1
        "PREFECT_SERVER_UI_ENABLED": str(int(ui)),
    }
    env = os.environ | client_settings(url, password) | settings
    quiet = None if ui else subprocess.DEVNULL
    with process_group(command, env, stdout=subprocess.DEVNULL, stderr=quiet) as server:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_healthy(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    "the Prefect server did not start; `prefect server start` shows why. A database that another "
                    "version of Prefect made is one cause: choose another folder (export PREFECT_HOME=/some/folder)."
                )
            time.sleep(0.1)
        yield server, url


def _is_healthy(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/health", timeout=2).close()
    except OSError:  # refused, timed out, 503
        return False
    return True


def new_password() -> str:
    """`name:password`, as Prefect wants it, of 256 random bits."""
    return f"admin:{secrets.token_urlsafe(32)}"


@contextlib.contextmanager
def process_group(
    command: list[str], env: Mapping[str, str], *, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen]:
    """A child that leads a process group; on leaving, the group is asked to end, and killed where it does not.

    Ctrl-C in the terminal does not reach it: who ends when is for this process to say.
    """
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:  # even where it is killed and can say nothing
        if sys.platform == "linux":
            libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    child = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True,
        preexec_fn=end_with_parent,
    )  # fmt: skip
    try:
        yield child
    finally:
        deadline = time.monotonic() + 10.0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
            while time.monotonic() < deadline:
                child.poll()  # reaps the leader
                os.killpg(child.pid, 0)  # raises when nobody is left
                time.sleep(0.05)
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(timeout=10.0)


def free_port(port: int = 0) -> int:
    """The port, or for 0 one that is free now. Raises `UserError` where it cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: its last connections linger
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} of this machine cannot be used: {error}. Perhaps `make serve` runs already, or another "
                "Prefect server. Choose another port from 1 to 65535: make serve PORT=..."
            ) from error
        return probe.getsockname()[1]


def serve(port: int) -> int:
    """Serve until a KeyboardInterrupt, or until the server or what starts the runs dies; returns the exit status.

    Raises `UserError` where the port is taken, the server does not start, or another `make serve` of this folder runs:
    the clients of both look at the same files.
    """
    if running := served_url():
        raise UserError(f"`make serve` of this folder runs already, at {running.removesuffix('/api')}. End that first.")
    own = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    password = own or new_password()
    with contextlib.ExitStack() as stack:
        try:
            print(f"starting the Prefect server: http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
            server, url = stack.enter_context(running_server(password, port))
            for path in (address_file(), password_file()):
                stack.callback(path.unlink, missing_ok=True)
            leave_files(url, None if own else password)
            asked = "your PREFECT_SERVER_API_AUTH_STRING" if own else f"a password: type all of {password_file()}"
            print(f"its page asks for {asked}", flush=True)
            settings = client_settings(url, password) | {"DO_NOT_TRACK": "1", "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
            # Without Python's warning of a coroutine that Prefect calls at SIGTERM and does not await.
            program = "from flows.build import serve_deployment; serve_deployment()"
            command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", program]
            runner = stack.enter_context(process_group(command, os.environ | settings))
            while server.poll() is None and runner.poll() is None:
                time.sleep(0.2)
        except KeyboardInterrupt:
            print("\nstopping ...", flush=True)
            return 0
        name, child = ("deployment", runner) if server.poll() is None else ("server", server)
        print(f"error: the {name} ended with exit status {child.returncode}; stopping", file=sys.stderr)
        return 1
