"""Run a Prefect server during `make dataset`, or together with the deployment in `make serve`.

The server is a child process in a process group of its own. (`prefect server start --background` sooner or later dies
of a closed pipe, and Prefect's own temporary server loses task runs if PREFECT_API_URL is set to nothing.)
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
"""The time for a server to start, s. It usually takes five seconds, but more when it makes its database."""
HOST = "127.0.0.1"


@contextlib.contextmanager
def running_server(password: str, port: int = 0, *, ui: bool = True) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start a Prefect server for this machine only, yield it and its API address when it answers, then end it.

    It requires the password (name:password), and listens on `port`, or on a free port for 0. With `ui` it also serves
    Prefect's pages and prints its warnings. Raises `UserError` if the port is taken or the server does not start.
    """
    port = free_port(port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    url = f"http://{HOST}:{port}/api"
    # Prefect does not check the Host header, so a web page whose name leads to 127.0.0.1 counts as the server's own,
    # and only the password keeps it out. Prefect has several names for each setting; these are the ones that win.
    settings = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "1",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
        "PREFECT_SERVER_UI_API_URL": "/api",  # the same origin, for localhost and 127.0.0.1
        "PREFECT_SERVER_UI_ENABLED": str(int(ui)),
    }
    env = os.environ | client_settings(url, password) | settings
    quiet = None if ui else subprocess.DEVNULL
    with process_group(command, env, stdout=subprocess.DEVNULL, stderr=quiet) as server:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_healthy(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    "the Prefect server did not start; `prefect server start` shows why. One cause is a database of "
                    "another "
                    "version of Prefect: choose another folder (export PREFECT_HOME=/some/folder)."
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
    """A new `name:password` of 256 random bits."""
    return f"admin:{secrets.token_urlsafe(32)}"


@contextlib.contextmanager
def process_group(
    command: list[str], env: Mapping[str, str], *, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen]:
    """Start a child that leads a process group; at the end, ask the group to end, and kill it if it does not.

    Ctrl-C in the terminal does not reach the group, so that this process decides when it ends.
    """
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:  # even if the parent is killed
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
                os.killpg(child.pid, 0)  # raises when no process is left
                time.sleep(0.05)
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(timeout=10.0)


def free_port(port: int = 0) -> int:
    """The port, or a free one for 0. Raises `UserError` if no server can listen on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, since old connections linger
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} of this machine cannot be used: {error}. Perhaps `make serve` or another Prefect server "
                "is running. Choose another port from 1 to 65535: make serve PORT=..."
            ) from error
        return probe.getsockname()[1]


def serve(port: int) -> int:
    """Serve until a KeyboardInterrupt, or until the server or the runner of deployments dies; returns the exit status.

    Raises `UserError` if the port is taken, the server does not start, or another `make serve` of this folder runs,
    whose clients read the same files.
    """
    if running := served_url():
        raise UserError(
            f"`make serve` of this folder is already running, at {running.removesuffix('/api')}. Stop it first."
        )
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
            # Hide Python's warning of a coroutine that Prefect does not await at SIGTERM.
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
