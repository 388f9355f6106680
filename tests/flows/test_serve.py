"""`make serve` in one terminal, `prefect deployment run build-hmr-skel` in another. Nobody else gets in."""

import base64
import contextlib
import json
import socket
import stat
import sys
import time
import tomllib
from pathlib import Path

import pytest

from flows import server
from flows.address import address_file, leave_files, password_file
from flows.server import new_password
from hmr_skel.errors import UserError
from tests.flows.foreign_page import ask, assert_closed
from tests.flows.processes import processes_with, running
from tests.flows.served import Served

linux = pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")
PREFECT = [sys.executable, "-m", "prefect"]
RUN = [*PREFECT, "deployment", "run", "build-hmr-skel"]


@linux
@pytest.mark.slow
def test_served_and_run_by_its_short_name(served: Served, small: Path, tmp_path: Path):
    """Nothing is configured in the second terminal. The password is in one file, and in no list of processes."""
    parameters = ["-p", f"manifest={small}", "-p", f"out={tmp_path / 'out'}", "-p", "device=cpu", "-p", "shards=0-1"]
    commands: set[str] = set()
    with running([*RUN, "--watch", *parameters], served.folder, tmp_path / "log", served.folder) as process:
        while process.poll() is None:
            commands.update(processes_with(served.folder))
            time.sleep(0.3)
        assert process.returncode == 0, (tmp_path / "log").read_text() + served.log.read_text()
    assert len(list((tmp_path / "out" / "meta").iterdir())) == 2

    assert any("spawn_main" in command for command in commands), commands  # the run's own process was looked at
    secrets = [served.password.partition(":")[2], base64.b64encode(served.password.encode()).decode()]
    assert not any(secret in command for secret in secrets for command in commands)
    folders = (served.folder, served.database.parent, tmp_path)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in files)
    with_it = [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]
    assert [path.name for path in with_it] == [".prefect-password"]
    assert stat.S_IMODE(with_it[0].stat().st_mode) == 0o600


def test_nobody_else_gets_in(served: Served):
    assert_closed(served.url, served.password)


def test_the_page_is_told_to_ask_for_the_password(served: Served):
    url = served.url.removesuffix("/api")
    status, _, body = ask(url, "GET", "/")
    assert (status, b"<html" in body) == (200, True)
    settings = json.loads(ask(url, "GET", "/ui-settings")[2])
    assert (settings["auth"], settings["csrf_enabled"], settings["api_url"]) == ("BASIC", True, "/api")
    assert ".prefect-password" in served.log.read_text()
    assert served.password not in served.log.read_text()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to serve from."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_password_file_is_its_owners(elsewhere: Path):
    password_file().parent.mkdir()
    (elsewhere / "trap").touch()
    password_file().symlink_to(elsewhere / "trap")
    passwords = {new_password() for _ in range(10)}
    assert len(passwords) == 10
    for password in passwords:
        leave_files("http://127.0.0.1:1/api", password)
        assert password_file().read_text() == password
        assert stat.S_IMODE(password_file().lstat().st_mode) == 0o600
    assert (elsewhere / "trap").read_text() == ""


@pytest.mark.parametrize("own", [None, "me:word"])
def test_a_password_of_the_users_own_stays_and_is_left_in_no_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str | None
):
    given, left = [], []

    @contextlib.contextmanager
    def running_server(password, port):
        given.append(password)
        yield None, f"http://127.0.0.1:{port}/api"

    @contextlib.contextmanager
    def process_group(command, env):
        given.append(env["PREFECT_API_AUTH_STRING"])
        left.extend(sorted(path.name for path in Path("data").iterdir()))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(server, "running_server", running_server)
    monkeypatch.setattr(server, "process_group", process_group)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    if own is not None:
        monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", own)
    leave_files("http://127.0.0.1:1/api", "of a server that was killed")
    assert server.serve(4321) == 0
    assert given[0] == given[1] == (own or given[0])
    assert left == [".prefect-api-url", *([] if own else [".prefect-password"])]
    assert list(Path("data").iterdir()) == []
    assert given[0] not in capsys.readouterr().out


def test_a_second_one_in_the_same_folder_is_refused(elsewhere: Path):
    """It would take the files by which the first one's clients find it."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        url = f"http://127.0.0.1:{first.getsockname()[1]}/api"
        address_file().parent.mkdir(parents=True, exist_ok=True)
        address_file().write_text(url)
        with pytest.raises(UserError, match="already running"):
            server.serve(4321)
        assert address_file().read_text() == url


def test_a_taken_port_is_a_clear_message(elsewhere: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 65536):
            with pytest.raises(UserError, match=f"port {port} .*PORT="):
                server.serve(port)


def test_on_loopback_and_without_telemetry(monkeypatch: pytest.MonkeyPatch):
    class Started(Exception):
        pass

    def process_group(command, env, **streams):
        raise Started(command, env)

    monkeypatch.setattr(server, "process_group", process_group)
    with pytest.raises(Started) as started, server.running_server("me:word"):
        pass
    command, env = started.value.args
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert (env["DO_NOT_TRACK"], env["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("1", "0")
    assert not any("word" in part for part in command)  # a list of processes would show it


def test_telemetry_is_off_for_all_who_work_here():
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["prefect"]
    assert settings["server"]["analytics_enabled"] is False
    assert "DO_NOT_TRACK = 1" in Path("Makefile").read_text()
