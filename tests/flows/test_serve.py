"""`make serve` in one terminal, `prefect deployment run build-hmr-skel` in another."""

import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from flows.serve import serve
from flows.server import free_port
from hmr_skel.errors import UserError
from tests.flows.processes import ROOT, hmr_skel, processes_with, run, running


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_served_and_run_by_its_short_name(small: Path, tmp_path: Path):
    # Run in a folder like the repository's root: its pyproject.toml enables the plugin, its data/ is its own.
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    prefect = [sys.executable, "-m", "prefect", "deployment", "run"]
    parameters = ["-p", f"manifest={small}", "-p", f"out={tmp_path / 'out'}", "-p", "device=cpu", "-p", "shards=0-1"]
    with running(hmr_skel("serve", "--port", str(free_port())), tmp_path, tmp_path / "log", tmp_path) as process:
        deadline = time.monotonic() + 120
        while "ready:" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        short = run([*prefect, "build-hmr-skel", "--watch", *parameters], tmp_path, cwd=tmp_path)
        log = (tmp_path / "log").read_text()
        assert short.returncode == 0, short.stdout + short.stderr + log
        assert len(list((tmp_path / "out" / "meta").iterdir())) == 2
        full = run([*prefect, "build-hmr-skel/build-hmr-skel"], tmp_path, cwd=tmp_path)
        assert full.returncode == 0, full.stderr
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0
        assert time.monotonic() - begin < 25
    assert processes_with(tmp_path) == []
    gone = run([*prefect, "build-hmr-skel"], tmp_path, cwd=tmp_path)
    assert gone.returncode == 2
    assert "make serve" in gone.stderr


def test_a_taken_port_is_a_clear_message():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*PORT="):
            serve(port)
