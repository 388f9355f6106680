"""Compiled kernels on disk: several processes compile them once per CPU; all users of the same sources share them.

numba by itself keeps compiled code by the path and the content of the one file that a function is in: every clone
compiles anew, processes that start together all do, and a number that a kernel has from another file may change unseen.
Here the folder's name is a hash of all sources in this folder, of numba's version and of the CPU.
"""

import fcntl
import functools
import hashlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba.core.caching import _CacheLocator

from fitting.lanes.arrive import corrective_tilt, judge, learn, pose_coefficients, pull_joints, stand
from fitting.lanes.newton import _accept, _aim, _bound, _correct, _move, _solve, any_of
from fitting.lanes.quadratic import _curvature, _energy, _gauss_newton, _gradient, _sum_moments, _wrenches, anchor
from fitting.lanes.skeleton import _rotate, _shift, glide_curvatures, twists
from fitting.lanes.state import BEST, BONES, LANES, PART, POSED, REDUCED, SEEN, TREE, new_desk, records
from fitting.lanes.surface import add_up, collapse, regress, skin, take_in, take_off

_CONFIG: Any = numba.config  # its settings are made at run time, unseen by a type checker
_SOURCES = Path(__file__).parent
_PROCESSES = 4  # at most: starting one costs as much as compiling a kernel
_NEWS_EVERY = 5.0  # seconds


def calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """Every kernel, with arguments of the types that the fit calls it with; those that compile longest come first."""
    tree, part, bones, desk, seen = records(TREE), records(PART), records(BONES), new_desk(), records(SEEN)
    posed, reduced, rows, bools = records(POSED), records(REDUCED), np.zeros(LANES, np.int64), np.zeros(LANES, bool)
    tried = np.zeros(LANES, np.int32)
    wide, moments, mesh = _lanes(), _lanes(1, 4, 4, dtype=np.float32), _lanes(1, 3, dtype=np.float32)
    q, bend, scale = _lanes(46), _lanes(1, 1), _lanes(1)
    starts, columns, values = np.zeros(2, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32)
    transforms, turn = _lanes(24, 3, 4, dtype=np.float32), _lanes(3, 4, dtype=np.float32)
    return [
        (collapse, (mesh, mesh, columns, values, starts, columns, values, True, mesh, posed, seen)),
        (_solve, (part, wide, desk)),
        (_rotate, (tree, bones, q, desk)),
        (_curvature, (tree, part, bend, scale, desk)),
        (_sum_moments, (part, moments, desk)),
        (twists, (tree, bones, q, desk)),
        (_gauss_newton, (tree, part, desk)),
        (_energy, (part, moments, bend, scale, q, reduced, desk, wide)),
        (corrective_tilt, (tree, part, q, desk, reduced)),
        (skin, (mesh, columns, transforms, starts, columns, values, _lanes(3, dtype=np.float32), turn, mesh)),
        (glide_curvatures, (bones, q, desk)),
        (_shift, (bones, q, desk)),
        (_wrenches, (tree, part, desk)),
        (_gradient, (tree, part, bend, scale, q, reduced, desk)),
        (learn, (part, q, q, bend[0], bend[0], wide, desk)),
        (_bound, (part, q, desk)),
        (anchor, (part, q, reduced, desk)),
        (
            judge,
            (part, q, reduced, values, values, 1.0, 1.0, 1, True, tried, rows, bools, bools, q, q, records(BEST), desk),
        ),
        (pose_coefficients, (tree, values[:, None] * mesh[0, 0], desk, posed)),
        (pull_joints, (part, bones, _lanes(24, 3, dtype=np.float32), desk, reduced)),
        (stand, (q, desk, reduced)),
        (any_of, (bools, True)),
        (_accept, (part, 1.0, q, wide, tried, bools, desk)),
        (_correct, (part, q, desk)),
        (_aim, (part, q, desk)),
        (_move, (part, q, desk)),
        (add_up, (seen, desk, reduced)),
        (take_off, (columns, turn[0, 0, None], wide[None])),
        (regress, (starts, columns, values, mesh, mesh)),
        (take_in, (np.zeros((LANES, 1, 3), np.float32), 1, mesh[0], turn[:, :3].copy(), mesh[0], mesh)),
    ]


def _lanes(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.zeros((*shape, LANES), dtype)


class Locator(_CacheLocator):
    """Tells numba where the kernels' compiled code is."""

    def __init__(self, line: int) -> None:
        self.line = line

    @classmethod
    def from_function(cls, py_func, py_file: str) -> "Locator | None":
        return cls(py_func.__code__.co_firstlineno) if Path(py_file).parent == _SOURCES else None

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return folder().name

    def get_disambiguator(self) -> str:
        return str(self.line)


@functools.cache
def folder() -> Path:
    """In `NUMBA_CACHE_DIR` where that is set, else in the user's cache folder."""
    cpu = (
        _CONFIG.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
        _CONFIG.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten(),
    )
    key = hashlib.sha256(repr((numba.__version__, platform.python_version(), cpu)).encode())
    for path in sorted(_SOURCES.glob("*.py")):
        key.update(path.name.encode() + path.read_bytes())
    caches = _CONFIG.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "hmr-skel", f"kernels-{key.hexdigest()[:16]}")


@functools.cache
def ready() -> None:
    """Make sure that the kernels are compiled, which takes some seconds on a CPU that has not seen them.

    Of several processes one compiles and the others wait. Where the folder cannot be written each compiles for itself.
    """
    try:
        done = folder() / "done"
        folder().mkdir(parents=True, exist_ok=True)
        lock = None if done.exists() else (folder() / "lock").open("w")
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home is known
        _say(f"the compiled fit cannot be kept ({error}); set NUMBA_CACHE_DIR to a folder that can be written")
        return
    keep()
    if lock is None:
        return
    with lock:  # closing it lets the next one in, and so does a process that dies
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process that compiles the fit for this CPU")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _compile()
            done.touch()


def keep() -> None:
    """Have numba look for compiled kernels in the folder, and put them there."""
    before, _CONFIG.CACHE_LOCATOR_CLASSES = _CONFIG.CACHE_LOCATOR_CLASSES, f"{__name__}.Locator"
    try:
        for kernel, _ in calls():
            kernel.enable_caching()
    finally:
        _CONFIG.CACHE_LOCATOR_CLASSES = before


def compile_share(number: int, of: int) -> None:
    """Every `of`-th kernel, from `number`."""
    for kernel, arguments in calls()[number::of]:
        kernel.compile(tuple(numba.typeof(argument) for argument in arguments))


def _compile() -> None:
    start = time.monotonic()
    _say("compiling the fit for this CPU, once")
    # Less optimised than by numba's default, the code runs as fast and compiles in five sixths of the time.
    environment = {"NUMBA_OPT": "2", **os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    count = min(os.cpu_count() or 1, _PROCESSES)
    shares = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "fitting.lanes", str(number), str(count)],
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for this process, which ends them
        )
        for number in range(count)
    ]
    try:
        for share in shares:
            while share.poll() is None:
                try:
                    share.wait(_NEWS_EVERY)
                except subprocess.TimeoutExpired:
                    found = len(list(folder().glob("*.nbi")))
                    _say(f"compiling the fit: {found} of {len(calls())} kernels after {time.monotonic() - start:.0f} s")
    finally:
        for share in shares:
            share.kill()
            share.wait()
    compile_share(0, 1)  # loads what they have compiled; of one that died, compiles the rest
    _say(f"compiled in {time.monotonic() - start:.0f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
