"""Compiled kernels on disk: for the calls that the fit makes, shared by all with the same sources, compiled once."""

import ast
import inspect
import shutil
import threading
from pathlib import Path

import numba
import pytest
from numba.core.dispatcher import Dispatcher

import fitting
from fitting.lanes import arrive, cache, newton, quadratic, skeleton, surface
from fitting.lanes.cache import calls

KERNELS = (arrive, newton, quadratic, skeleton, surface)


def test_the_list_of_kernels_is_whole():
    of_modules = {value for module in KERNELS for value in vars(module).values() if isinstance(value, Dispatcher)}
    whole = {kernel for kernel in of_modules if kernel.targetoptions.get("inline") != "always"}
    assert whole == {kernel for kernel, _ in calls()}


def test_a_fit_calls_every_kernel_as_it_was_compiled(people, smpl, model):
    """A call with other types would compile for seconds in the middle of a fit: of parameters, or of meshes."""
    fitting.fit_batch(people, model)
    fitting.fit_meshes(smpl(people.global_orient, people.body_pose, people.betas, people.transl).vertices, model)
    for kernel, arguments in calls():
        found = [tuple(signature) for signature in kernel.signatures]
        assert found == [tuple(numba.typeof(argument) for argument in arguments)], kernel


@pytest.mark.parametrize("module", KERNELS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_kernels_have_no_number_from_outside_their_folder(module):
    """It would be compiled in, and the folder's name would not change with it."""
    imported, assigned = {}, {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign):
            assigned |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
    outside = {name for name, source in imported.items() if source != "math" and "fitting.lanes" not in source}
    used = {
        name
        for kernel in vars(module).values()
        if isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module.__name__
        for name in kernel.py_func.__code__.co_names
    }
    for name in used & assigned.keys():
        used |= {node.id for node in ast.walk(assigned[name]) if isinstance(node, ast.Name)}
    assert not used & outside


def test_clones_share_what_is_compiled_and_other_sources_do_not(model, tmp_path, monkeypatch):
    """A copy elsewhere has the same folder; a changed number has one of its own."""
    assert not sum(sum(kernel.stats.cache_misses.values()) for kernel, _ in calls())  # all loaded from there
    sources = tmp_path / "lanes"
    shutil.copytree(cache._SOURCES, sources)
    monkeypatch.setattr(cache, "_SOURCES", sources)
    assert cache.folder.__wrapped__() == cache.folder()
    (sources / "state.py").write_text((sources / "state.py").read_text().replace("LANES = 64", "LANES = 32"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "empty"))
    other = cache.folder.__wrapped__()
    assert other.parent == tmp_path / "empty/hmr-skel"
    assert other.name != cache.folder().name


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
    assert capsys.readouterr().err.startswith("compiling the fit for this CPU, once")


def test_where_nothing_can_be_kept_it_says_so(own_folder, monkeypatch, capsys):
    own_folder.touch()  # a file is in the way
    monkeypatch.setattr(cache, "keep", lambda: pytest.fail("there is no folder to keep anything in"))
    cache.ready.__wrapped__()
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err
