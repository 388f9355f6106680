"""The Prefect server that we start: on this machine only, and silent."""

import contextlib
import ipaddress
import tomllib
from pathlib import Path

import pytest

from flows import server


def test_on_loopback_and_without_telemetry(monkeypatch: pytest.MonkeyPatch):
    started = {}

    @contextlib.contextmanager
    def process_group(command, env, **streams):
        started.update(command=command, env=env)
        yield None

    monkeypatch.setattr(server, "process_group", process_group)
    monkeypatch.setattr(server, "_wait_until_healthy", lambda process, url: None)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "another")
    with server.running_server("me:word") as (_, url):
        assert url.startswith("http://127.0.0.1:")
    command, env = started["command"], started["env"]
    assert ipaddress.ip_address(command[command.index("--host") + 1]).is_loopback
    assert (env["DO_NOT_TRACK"], env["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("1", "0")
    assert env["PREFECT_SERVER_API_AUTH_STRING"] == "me:word"  # a password reaches it by the environment
    assert not any("word" in part for part in command)  # and nobody else, by a list of processes


def test_telemetry_is_off_for_all_who_work_here():
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["prefect"]
    assert settings["server"]["analytics_enabled"] is False
    assert "DO_NOT_TRACK = 1" in Path("Makefile").read_text()
