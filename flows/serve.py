"""The Prefect server and the deployment `build-hmr-skel`, together in the foreground: `make serve`.

Two children, each in a process group of its own: the server, and the runner that polls it and starts flow runs. This
process only watches them, and ends both groups when it is interrupted, told to end, or one of them dies.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

from flows.address import address_file, answers, client_settings, leave_password, password_file, served_settings
from flows.server import new_password, process_group, running_server
from hmr_skel.errors import UserError

DEFAULT_PORT = 4200


def serve(port: int | None = None, pool: str | None = None) -> int:
    """Serve until SIGINT (Ctrl-C), SIGTERM or SIGHUP; returns the exit status, 0 when asked to stop.

    Args:
        port: of the server.
        pool: leave the runs to the workers of this work pool, which is made where there is none of the name; without,
            they run here.

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
            for path in (address_file(), password_file()):  # flows/runner.py writes the address
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
            command = [sys.executable, "-m", "flows.runner", *([pool] if pool else [])]
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
