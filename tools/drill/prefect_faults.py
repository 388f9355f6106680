"""Kills of the flow and of its Prefect server, at seeded moments of a whole `hmr-skel dataset`.

As a user would start it: a process that runs the flow and fits, and below it the server. Linux only (`/proc`).
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

from tools.drill.damage import states
from tools.drill.faults import TIMEOUT_S, Fault, Result, Setting, compare
from tools.drill.processes import flow_command, flow_environment
from tools.processes import children


def _start(setting: Setting, out: Path) -> subprocess.Popen:
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            flow_command(setting.manifest, out),
            env=flow_environment(setting.manifest.parent / "prefect") | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def time_flow(setting: Setting, out: Path) -> float:
    """Seconds that an undisturbed flow takes, its server's start included. Raises `RuntimeError` where it fails."""
    start = time.monotonic()
    flow = _start(setting, out)
    if _ended(flow) != 0:
        raise RuntimeError(f"the undisturbed flow failed, see {out.with_suffix('.log')}")
    return time.monotonic() - start


def prefect_faults(flow_s: float) -> Mapping[str, Fault]:
    """The two kills. `flow_s`: what an undisturbed flow takes."""

    def kill_flow(setting: Setting, folder: Path, rng: Random) -> Result:
        out = folder / "out"
        flow = _start(setting, out)
        servers = _wait(flow, rng.uniform(0, flow_s))
        flow.kill()
        flow.wait(TIMEOUT_S)
        note = _gone(servers)
        return _finish("kill -9 of the flow", setting, out, note)

    def kill_server(setting: Setting, folder: Path, rng: Random) -> Result:
        out = folder / "out"
        flow = _start(setting, out)
        for pid in _wait(flow, rng.uniform(0.3 * flow_s, flow_s)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # it leads a group
        note = "" if _ended(flow) is not None else "the flow hung without its server"
        return _finish("kill -9 of the server", setting, out, note)

    return {"kill -9 of the flow": kill_flow, "kill -9 of the server": kill_server}


def _finish(fault: str, setting: Setting, out: Path, note: str) -> Result:
    before, restarts = states(out), 0
    while restarts < 3:
        restarts += 1
        if _ended(_start(setting, out)) == 0:
            break
    else:
        note = note or f"not done after {restarts} restarts"
    return compare(fault, setting, out, before, restarts, note=note)


def _wait(flow: subprocess.Popen, seconds: float) -> list[int]:
    """Wait so long, or until the flow ends; returns the process numbers of its children, of the last moment."""
    deadline, started = time.monotonic() + seconds, []
    while time.monotonic() < deadline and flow.poll() is None:
        started = children(flow.pid) or started
        time.sleep(0.01)
    return started


def _gone(servers: list[int]) -> str:
    """Servers end with their flow, by themselves."""
    deadline = time.monotonic() + 60
    while servers and time.monotonic() < deadline:
        servers = [pid for pid in servers if Path(f"/proc/{pid}").exists()]
        time.sleep(0.05)
    for pid in servers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return "the server outlived its flow" if servers else ""


def _ended(flow: subprocess.Popen) -> int | None:
    """The exit status; None where it had to be killed."""
    try:
        return flow.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        flow.kill()
        flow.wait(TIMEOUT_S)
        return None
