"""`prefect deployment run build-hmr-skel`, rewritten; and nothing else."""

import logging
import os
import socket
import sys

import pytest
from prefect.plugins import HookContext

from flows import plugin
from flows.address import address_file, leave_files

CONTEXT = HookContext(prefect_version="3.8.8", api_url=None, logger_factory=logging.getLogger)


@pytest.mark.parametrize(
    ("argv", "ours"),
    [
        (["/x/.venv/bin/prefect", "deployment", "run", "build-hmr-skel"], True),
        (["prefect", "deployment", "run", "build-hmr-skel/build-hmr-skel"], True),
        (["prefect", "deployment", "run", "build-hmr-skel/other"], False),
        (["prefect", "deployment", "run", "--id", "build-hmr-skel"], False),
        (["pytest", "deployment", "run", "build-hmr-skel"], False),
        ([], False),
    ],
)
def test_which_commands_are_ours(argv, ours):
    assert plugin.is_ours(argv) is ours


NAMES = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")


def found() -> tuple[str | None, ...]:
    """What the hook has left in the environment: address and password."""
    return tuple(os.environ.get(name) for name in NAMES)


@pytest.fixture
def argv(monkeypatch, tmp_path):
    """`prefect deployment run build-hmr-skel --watch`, in an empty folder, without a server configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the hook changes it
    for name in NAMES:
        os.environ.pop(name, None)
    argv = ["prefect", "deployment", "run", "build-hmr-skel", "--watch"]
    monkeypatch.setattr(sys, "argv", argv)
    return argv


def test_name_address_and_password_are_completed(argv):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        leave_files(url, "admin:generated")
        plugin.setup_environment(ctx=CONTEXT)
    assert sys.argv == ["prefect", "deployment", "run", "build-hmr-skel/build-hmr-skel", "--watch"]
    assert found() == (url, "admin:generated")


def test_the_users_own_address_stays_and_gets_no_password_of_ours(argv):
    leave_files("http://127.0.0.1:4200/api", "admin:generated")
    os.environ["PREFECT_API_URL"] = "http://10.0.0.1:4200/api"
    plugin.setup_environment(ctx=CONTEXT)
    assert sys.argv[3] == "build-hmr-skel/build-hmr-skel"
    assert found() == ("http://10.0.0.1:4200/api", None)


@pytest.mark.parametrize("own", [None, "me:word"])
@pytest.mark.parametrize("spelt", ["http://localhost:4200/api", "http://127.0.0.1:4200/api/"])
def test_who_names_our_address_gets_the_password_unless_it_has_one(argv, monkeypatch, spelt, own):
    """Such as `prefect worker start`."""
    monkeypatch.setattr(sys, "argv", ["prefect", "worker", "start", "--pool", "hmr-skel"])
    os.environ["PREFECT_API_URL"] = spelt
    if own is not None:
        os.environ["PREFECT_API_AUTH_STRING"] = own
    leave_files("http://127.0.0.1:4200/api", "admin:generated")
    plugin.setup_environment(ctx=CONTEXT)
    assert found() == (spelt, own or "admin:generated")


@pytest.mark.parametrize("left", [None, "http://127.0.0.1:1/api", "nonsense", ""])
def test_no_server_is_a_clear_message(argv, left, capsys):
    if left is not None:
        address_file().parent.mkdir()
        address_file().write_text(left)
    with pytest.raises(SystemExit) as stopped:
        plugin.setup_environment(ctx=CONTEXT)
    assert stopped.value.code == 2
    assert "make serve" in capsys.readouterr().err


def test_other_commands_are_left_alone(argv, monkeypatch):
    leave_files("http://127.0.0.1:4200/api", "admin:generated")
    monkeypatch.setattr(sys, "argv", ["prefect", "version"])
    plugin.setup_environment(ctx=CONTEXT)
    assert sys.argv == ["prefect", "version"]
    assert found() == (None, None)
