"""The Prefect server: for the length of a `make dataset`, or with the deployment beside it, `make serve`.

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

from flows.address import address_file, answers, client_settings, leave_password, password_file, served_settings
from hmr_skel.errors import UserError

DEFAULT_PORT = 4200
START_TIMEOUT_S = 120.0
"""It takes five seconds or so; the first time, when it makes its database, and on a busy machine many more."""
STOP_TIMEOUT_S = 10.0
"""After this long a group that was asked to end is killed."""
HOST = "127.0.0.1"

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def running_server(
    password: str, port: int | None = None, *, ui: bool = True
) -> Iterator[tuple[subprocess.Popen, str]]:
    """A Prefect server on this machine only; yields it and its API address once it answers, and ends it on leaving.

    Args:
        password: name:password, without which it answers nobody.
        port: to listen on; any free one if not given.
        ui: serve the user interface too, and let the server's warnings through to the terminal.

    Raises `UserError` where the port is taken or the server does not start.
    """
    port = free_port() if port is None else port
    refuse_taken_port(port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    url = f"http://{HOST}:{port}/api"
    env = os.environ | client_settings(url, password) | _server_settings(port, password)
    env |= {"PREFECT_SERVER_UI_ENABLED": str(int(ui))}
    quiet = None if ui else subprocess.DEVNULL
    with process_group(command, env, stdout=subprocess.DEVNULL, stderr=quiet) as server:
        _wait_until_healthy(server, f"{url}/health")
        yield server, url


def new_password() -> str:
    """`name:password`, as Prefect wants it, of 256 random bits."""
    return f"admin:{secrets.token_urlsafe(32)}"


def _server_settings(port: int, password: str) -> dict[str, str]:
    """No telemetry, and no way in for other users of this machine and for web pages of other origins.

    Prefect does not look at the Host header, so a page whose name leads to 127.0.0.1 counts as the server's own: it is
    the password that keeps it out. By the first of the names that Prefect has for each setting, which wins.
    """
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "1",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
        "PREFECT_SERVER_UI_API_URL": "/api",  # of its own origin, be it called localhost or 127.0.0.1
    }


@contextlib.contextmanager
def process_group(
    command: list[str], env: Mapping[str, str], *, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen]:
    """A child that leads a process group; on leaving, the group is asked to end, and killed where it does not.

    Ctrl-C in the terminal does not reach it: who ends when is for this process to say.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_parent() -> None:  # even where it is killed and can say nothing
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    child = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    try:
        yield child
    finally:
        _end_group(child)


def free_port() -> int:
    """A port that nobody listens on, now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def refuse_taken_port(port: int) -> None:
    """Raise `UserError` where the port cannot be listened on."""
    if not 1 <= port <= 65535:
        raise UserError(f"port {port}: expected 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: its last connections linger
        try:
            probe.bind((HOST, port))
        except OSError as error:
            other = port + 1 if port < 65535 else 4200
            raise UserError(
                f"port {port} of this machine cannot be used: {error.strerror}. Perhaps `make serve` runs already, or "
                f"another Prefect server. Choose another port: make serve PORT={other}."
            ) from error


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
            time.sleep(0.1)
    happened = "did not answer in time" if server.poll() is None else f"ended with exit status {server.returncode}"
    raise UserError(
        f"the Prefect server {happened}; `prefect server start` shows why. A database that another version of Prefect "
        "made is one cause: choose another folder for it (export PREFECT_HOME=/some/folder)."
    )


def serve(port: int | None = None) -> int:
    """Serve until SIGINT (Ctrl-C), SIGTERM or SIGHUP; returns the exit status, 0 when asked to stop.

    Two children, each in a process group of its own: the server, and what starts the runs that are asked for. This
    process only watches them, and ends both when it is interrupted, told to end, or one of them dies.

    Raises `UserError` where the port is taken or the server does not start.
    """
    port = _default_port() if port is None else port
    own = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    password = own or new_password()
    with _ending_on_signals(), contextlib.ExitStack() as stack:
        try:
            refuse_second()
            print(f"starting the Prefect server: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
            server, url = stack.enter_context(running_server(password, port))
            for path in (address_file(), password_file()):  # flows/build.py writes the address
                path.unlink(missing_ok=True)  # of a server that was killed
                stack.callback(path.unlink, missing_ok=True)
            if own:
                print("its page asks for your PREFECT_SERVER_API_AUTH_STRING", flush=True)
            else:
                leave_password(password)
                print(f"its page asks for a password: type all of what is in {password_file()}", flush=True)
            env = os.environ | client_settings(url, password)
            env |= {
                "DO_NOT_TRACK": "1",
                "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds until a run that was asked for starts
            }
            command = [sys.executable, "-c", "from flows.build import serve_deployment; serve_deployment()"]
            runner = stack.enter_context(process_group(command, env))
            while server.poll() is None and runner.poll() is None:
                time.sleep(0.2)
        except KeyboardInterrupt:
            print("\nstopping ...", flush=True)
            return 0
        name, child = ("server", server) if server.poll() is not None else ("deployment", runner)
        print(f"error: the {name} ended with exit status {child.returncode}; stopping", file=sys.stderr)
        return 1


def refuse_second() -> None:
    """Raise `UserError` where another `make serve` of this folder answers: its clients find it by the same files."""
    url = served_settings().get("PREFECT_API_URL")
    if url is not None and answers(url):
        raise UserError(f"`make serve` of this folder runs already, at {url.removesuffix('/api')}. End that one first.")


def _default_port() -> int:
    text = os.environ.get("PREFECT_SERVER_API_PORT") or str(DEFAULT_PORT)
    if not text.isdecimal():
        raise UserError(f"PREFECT_SERVER_API_PORT is {text!r}. Expected a port number, 1 to 65535.")
    return int(text)


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
