"""Compiled kernels on disk: for the calls that the fit makes, shared by all with the same sources, compiled once."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numba
import pytest
from numba.core.dispatcher import Dispatcher

import fitting.lanes
from fitting.lanes import arrive, cache, newton, quadratic, skeleton, surface
from fitting.lanes.cache import calls

SOURCES = Path(fitting.lanes.__file__).parent
ROOT = SOURCES.parents[1]
KERNELS = (arrive, newton, quadratic, skeleton, surface)


def test_the_list_of_kernels_is_whole():
    of_modules = {value for module in KERNELS for value in vars(module).values() if isinstance(value, Dispatcher)}
    whole = {kernel for kernel in of_modules if kernel.targetoptions.get("inline") != "always"}
    assert whole == {kernel for kernel, _ in calls()}


def test_a_fit_calls_every_kernel_as_it_was_compiled(people, model):
    """A call with other types would compile for seconds in the middle of a fit."""
    fitting.fit_batch(people, model)
    for kernel, arguments in calls():
        found = [tuple(signature) for signature in kernel.signatures]
        assert found == [tuple(numba.typeof(argument) for argument in arguments)], kernel


def _module_level(module) -> tuple[dict[str, str], dict[str, ast.expr]]:
    """Names imported from where, and names assigned to what."""
    imported, assigned = {}, {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign):
            assigned |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
    return imported, assigned


@pytest.mark.parametrize("module", KERNELS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_kernels_have_no_number_from_outside_their_folder(module):
    """It would be compiled in, and the folder's name would not change with it."""
    imported, assigned = _module_level(module)
    outside = {name for name, source in imported.items() if source not in ("math",) and "fitting.lanes" not in source}
    used = {
        name
        for kernel in vars(module).values()
        if isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module.__name__
        for name in kernel.py_func.__code__.co_names
    }
    assert not used & outside
    for name in used & assigned.keys():
        parts = {node.id for node in ast.walk(assigned[name]) if isinstance(node, ast.Name)}
        assert not parts & outside, name


def test_clones_share_what_is_compiled_and_other_sources_do_not(model, tmp_path, monkeypatch):
    """A copy of the package elsewhere loads the same kernels; a changed number has a folder of its own."""
    shutil.copytree(ROOT / "fitting", tmp_path / "fitting", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "from fitting.lanes import cache; cache.keep(); cache.compile_share(21, 23); "
        "print(cache.folder(), sum(sum(kernel.stats.cache_misses.values()) for kernel, _ in cache.calls()))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.returncode) == (f"{cache.folder()} 0\n", 0), done.stderr
    shape = tmp_path / "fitting/lanes/state.py"
    shape.write_text(shape.read_text().replace("LANES = 64", "LANES = 32"))
    monkeypatch.setattr(cache, "_SOURCES", tmp_path / "fitting/lanes")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "empty"))
    other = cache.folder.__wrapped__()
    assert other.parent == tmp_path / "empty/hmr-skel"
    assert other.name != cache.folder().name
    assert not (tmp_path / "empty").exists()


@pytest.fixture
def own_folder(monkeypatch, tmp_path) -> Path:
    """An empty folder; numba is left alone."""
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "kernels")
    monkeypatch.setattr(cache, "keep", lambda: None)
    return tmp_path / "kernels"


def test_of_two_at_once_one_compiles(own_folder, monkeypatch, capsys):
    """The first waits with it until the second waits for the first."""
    compiled, second_waits = [], threading.Event()

    def compile_once():
        second.start()
        assert second_waits.wait(600)
        compiled.append(1)

    def say(text):
        assert text == "waiting for another process that compiles the fit for this CPU"
        second_waits.set()

    ready = cache.ready.__wrapped__
    second = threading.Thread(target=ready)
    monkeypatch.setattr(cache, "_compile", compile_once)
    monkeypatch.setattr(cache, "_say", say)
    ready()
    second.join()
    ready()
    assert compiled == [1]
    assert (own_folder / "done").exists()


def test_what_a_process_that_died_leaves_is_compiled_all_the_same(own_folder, monkeypatch, capsys):
    shares = []
    monkeypatch.setattr(cache.sys, "executable", "false")
    monkeypatch.setattr(cache, "compile_share", lambda *share: shares.append(share))
    cache.ready.__wrapped__()
    assert shares == [(0, 1)]
    assert (own_folder / "done").exists()
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "compiling the fit for this CPU, once"
    assert last.startswith("compiled in ")


def test_where_nothing_can_be_kept_it_says_so(own_folder, monkeypatch, capsys):
    own_folder.touch()  # a file is in the way
    monkeypatch.setattr(cache, "keep", lambda: pytest.fail("there is no folder to keep anything in"))
    cache.ready.__wrapped__()
    error = capsys.readouterr().err
    assert "cannot be kept" in error
    assert "set NUMBA_CACHE_DIR" in error


def test_the_users_cache_folder_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder.__wrapped__().parent == tmp_path / "hmr-skel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder.__wrapped__().parent == tmp_path / "home/.cache/hmr-skel"
