"""The Prefect server and the deployment `build-hmr-skel`, together in the foreground: `make serve`.

Two children, each in a process group of its own: the server, and the runner that polls it and starts flow runs. This
process only watches them and ends both groups when it is interrupted, when it is told to end, or when one of them dies,
with every wait bounded. (`prefect server start --background` would die of a closed pipe sooner or later.)
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

from flows.address import address_file
from hmr_skel.errors import UserError

DEFAULT_PORT = 4200
START_TIMEOUT_S = 90.0
"""The first start makes Prefect's database, which takes a while on a slow disk."""
STOP_TIMEOUT_S = 10.0
"""After this long a group that was asked to end is killed."""


def serve(port: int | None = None) -> int:
    """Serve until SIGINT (Ctrl-C), SIGTERM or SIGHUP; returns the exit status, 0 when asked to stop.

    Raises `UserError` where the port is taken or the server does not start.
    """
    port = port or int(os.environ.get("PREFECT_SERVER_API_PORT") or DEFAULT_PORT)
    _refuse_taken_port(port)
    url = f"http://127.0.0.1:{port}"
    # An empty PREFECT_API_AUTH_STRING is no password; a user who sets one sets it for server and client alike.
    env = os.environ | {"PREFECT_API_URL": f"{url}/api", "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "0"}
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _ending_on_signals(), contextlib.ExitStack() as stack:
        try:
            print(f"starting the Prefect server, user interface {url}, Ctrl-C stops it ...", flush=True)
            stack.callback(address_file().unlink, missing_ok=True)  # flows/runner.py writes it
            server = stack.enter_context(_group(prefect, env, stdout=subprocess.DEVNULL))
            _wait_until_healthy(server, f"{url}/api/health")
            runner_env = env | {"PREFECT_RUNNER_POLL_FREQUENCY": "2"}  # seconds until a run that was asked for starts
            runner = stack.enter_context(_group([sys.executable, "-m", "flows.runner"], runner_env))
            stack.enter_context(_published(f"{url}/api"))
            print(
                f"user interface: {url}\nin another terminal, from this folder: prefect deployment run build-hmr-skel"
            )
            print("Ctrl-C stops both", flush=True)
            while server.poll() is None and runner.poll() is None:
                time.sleep(0.2)
        except KeyboardInterrupt:
            print("\nstopping ...", flush=True)
            return 0
        name, child = ("server", server) if server.poll() is not None else ("deployment", runner)
        print(f"error: the {name} ended with exit status {child.returncode}; stopping", file=sys.stderr)
        return 1


def _refuse_taken_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise UserError(f"port {port}: expected 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: its last connections linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} of this machine cannot be used: {error.strerror}. Perhaps `make serve` runs already, or "
                f"another Prefect server. Choose another port: make serve PORT={port + 1 if port < 65535 else 4200}."
            ) from error


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """SIGTERM, SIGHUP (the terminal is gone) and SIGINT, even where a script started us with it ignored."""

    def interrupt(signum, frame):
        for number in previous:  # one is enough: a second one must not interrupt the stopping
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _group(command: list[str], env: dict[str, str], stdout: int | None = None) -> Iterator[subprocess.Popen]:
    """A child that leads a process group (flow runs are members of the runner's); the group is ended on leaving."""
    child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True)
    try:
        yield child
    finally:
        _end_group(child)


def _end_group(child: subprocess.Popen) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            child.poll()  # reaps the leader
            os.killpg(child.pid, 0)  # raises when nobody is left
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(timeout=STOP_TIMEOUT_S)


def _wait_until_healthy(server: subprocess.Popen, url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:  # refused, timed out, 503: not yet
            pass
        time.sleep(0.1)
    happened = "did not answer in time" if server.poll() is None else f"ended with exit status {server.returncode}"
    raise UserError(
        f"the Prefect server {happened}. Its own words are above; `prefect server start` shows more. A database of "
        "another Prefect version is one cause: choose another folder for it (export PREFECT_HOME=/some/folder)."
    )
