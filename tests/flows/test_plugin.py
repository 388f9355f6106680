"""`prefect deployment run build-hmr-skel`, rewritten; and nothing else."""

import logging
import socket
import sys

import pytest
from prefect.plugins import HookContext

from flows import plugin
from flows.address import address_file

CONTEXT = HookContext(prefect_version="3.8.8", api_url=None, logger_factory=logging.getLogger)


@pytest.mark.parametrize(
    ("argv", "ours"),
    [
        (["/x/.venv/bin/prefect", "deployment", "run", "build-hmr-skel"], True),
        (["prefect", "deployment", "run", "build-hmr-skel", "--watch"], True),
        (["prefect", "deployment", "run", "build-hmr-skel/build-hmr-skel"], True),
        (["-m", "deployment", "run", "build-hmr-skel"], True),
        (["prefect", "deployment", "run", "build-hmr-skel/other"], False),
        (["prefect", "deployment", "run", "another"], False),
        (["prefect", "deployment", "inspect", "build-hmr-skel"], False),
        (["prefect", "deployment", "run"], False),
        (["prefect", "deployment", "run", "--id", "build-hmr-skel"], False),
        (["pytest", "deployment", "run", "build-hmr-skel"], False),
        (["prefect"], False),
        ([], False),
    ],
)
def test_which_commands_are_ours(argv, ours):
    assert plugin.is_ours(argv) is ours


@pytest.fixture
def argv(monkeypatch, tmp_path):
    """`prefect deployment run build-hmr-skel --watch`, in an empty folder, without a server configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HMR_SKEL_DATA", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    argv = ["prefect", "deployment", "run", "build-hmr-skel", "--watch"]
    monkeypatch.setattr(sys, "argv", argv)
    return argv


def test_name_and_address_are_completed(argv):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        address_file().parent.mkdir()
        address_file().write_text(url)
        result = plugin.setup_environment(ctx=CONTEXT)
    assert sys.argv == ["prefect", "deployment", "run", "build-hmr-skel/build-hmr-skel", "--watch"]
    assert result.env == {"PREFECT_API_URL": url}


def test_the_users_own_address_stays(argv, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://10.0.0.1:4200/api")
    assert plugin.setup_environment(ctx=CONTEXT) is None
    assert sys.argv[3] == "build-hmr-skel/build-hmr-skel"


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
    monkeypatch.setattr(sys, "argv", ["prefect", "version"])
    assert plugin.setup_environment(ctx=CONTEXT) is None
    assert sys.argv == ["prefect", "version"]
