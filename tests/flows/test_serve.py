"""`make serve` in one terminal, `prefect deployment run build-hmr-skel` in another."""

import base64
import contextlib
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.serve import serve
from flows.server import free_port
from hmr_skel.errors import UserError
from tests.flows.processes import ROOT, hmr_skel, processes_with, run, running


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")
def test_a_pool_behind_a_password(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One machine of two GPUs: a worker each, a run each, one dataset. Who has no password gets nothing."""
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    port = free_port()
    prefect = [sys.executable, "-m", "prefect"]
    ask = [*prefect, "deployment", "run", "build-hmr-skel"]
    parameters = ["-p", f"manifest={small}", "-p", f"out={tmp_path / 'out'}", "-p", "device=cpu"]
    with contextlib.ExitStack() as stack:

        def start(name: str, command: list[str], **extra: str) -> Path:
            log = tmp_path / f"{name}.log"
            stack.enter_context(running(command, tmp_path, log, tmp_path, extra))
            return log

        serve_log = start("serve", hmr_skel("serve", "--port", str(port), "--pool", "gpus"), **SERVER_PASSWORD)
        wait_for("ready:", serve_log)
        url = f"http://127.0.0.1:{port}/api"
        assert status(f"{url}/flows/count") == 401
        assert status(f"{url}/flows/count", "me:wrong") == 401
        assert status(f"{url}/flows/count", "me:word") == 200
        refused = run(ask, tmp_path, cwd=tmp_path)
        assert refused.returncode != 0
        assert "401" in refused.stderr + refused.stdout

        clients = {"PREFECT_API_AUTH_STRING": "me:word", "PREFECT_API_URL": url, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        worker = [*prefect, "worker", "start", "--pool", "gpus", "--limit", "1"]
        logs = [start(f"worker{i}", worker, **clients, CUDA_VISIBLE_DEVICES=str(i)) for i in range(2)]
        runs = [
            run(
                [*prefect, "deployment", "run", "build-hmr-skel", *watch, *parameters], tmp_path, 200, tmp_path, clients
            )
            for watch in ([], ["--watch"])
        ]
        assert [done.returncode for done in runs] == [0, 0], runs[1].stdout + "".join(log.read_text() for log in logs)
        for log in logs:
            wait_for("Finished in state Completed", log)
        built = re.findall(r"' - shard (\d) of 4: .* rows/s", "".join(log.read_text() for log in logs))
        assert sorted(built) == ["0", "1", "2", "3"]
    assert len(list((tmp_path / "out" / "meta").iterdir())) == 4


SERVER_PASSWORD = {"PREFECT_SERVER_API_AUTH_STRING": "me:word"}


def wait_for(words: str, log: Path) -> None:
    deadline = time.monotonic() + 200
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def status(url: str, password: str | None = None) -> int:
    """Of a POST with no content."""
    headers = {"Content-Type": "application/json"}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(password.encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_taken_port_is_a_clear_message():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*PORT="):
            serve(port)
