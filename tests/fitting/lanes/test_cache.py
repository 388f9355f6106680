"""Compiled kernels on disk: for the calls that the fit makes, shared by all with the same sources, compiled once."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
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
# Two small kernels stand for all of them.
FEW = "from fitting.lanes import cache; cache.calls = lambda every=cache.calls: every()[-2:]; "


def _run(script: str, root: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(ROOT))), **environment},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _output(process: subprocess.Popen[str], given: str = "") -> tuple[str, str]:
    out, err = process.communicate(given, timeout=600)
    assert process.returncode == 0, err
    return out, err


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


def test_clones_share_what_is_compiled_and_other_sources_do_not(model, tmp_path):
    """Nothing is written at import; a copy of the package elsewhere loads, and a changed number has its own folder."""
    script = (
        "from fitting.lanes import cache; cache.keep(); cache.compile_share(21, 23); "
        "print(cache.folder(), sum(sum(kernel.stats.cache_misses.values()) for kernel, _ in cache.calls()))"
    )
    shutil.copytree(ROOT / "fitting", tmp_path / "fitting", ignore=shutil.ignore_patterns("__pycache__"))
    assert _output(_run(script, tmp_path))[0] == f"{cache.folder()} 0\n"
    shape = tmp_path / "fitting/lanes/state.py"
    shape.write_text(shape.read_text().replace("LANES = 64", "LANES = 32"))
    empty = tmp_path / "empty"
    out, _ = _output(
        _run(
            "from fitting.lanes.cache import folder; print(folder())",
            tmp_path,
            NUMBA_CACHE_DIR=str(empty),
        )
    )
    assert Path(out.strip()).parent == empty / "hmr-skel"
    assert Path(out.strip()).name != cache.folder().name
    assert not empty.exists()


def test_of_two_processes_one_compiles(tmp_path):
    """The first waits with it until the second waits for the first."""
    script = FEW + (
        "cache._compile = lambda: (print('compiles', flush=True), input(), cache.compile_share(0, 1)); "
        "cache.ready(); cache.compile_share(0, 1); "
        "print(sum(sum(kernel.stats.cache_misses.values()) for kernel, _ in cache.calls()))"
    )
    first = _run(script, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.stdout is not None
    assert first.stdout.readline() == "compiles\n"
    second = _run(script, NUMBA_CACHE_DIR=str(tmp_path))
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting for another process that compiles the fit for this CPU\n"
    assert _output(first, "go on\n") == ("2\n", "")
    assert _output(second) == ("0\n", "")


def test_what_a_process_that_died_leaves_is_compiled_all_the_same(tmp_path):
    script = FEW + "cache.sys.executable = 'false'; cache.ready(); print((cache.folder() / 'done').exists())"
    out, err = _output(_run(script, NUMBA_CACHE_DIR=str(tmp_path)))
    assert out == "True\n"
    first, *_, last = err.splitlines()
    assert first == "compiling the fit for this CPU, once"
    assert last.startswith("compiled in ")
    assert len(list(tmp_path.rglob("*.nbc"))) == 2


def test_where_nothing_can_be_kept_it_says_so_and_compiles(tmp_path):
    file = tmp_path / "file"
    file.touch()
    script = FEW + "cache.ready(); cache.compile_share(0, 1); print(len(cache.calls()[0][0].signatures))"
    out, err = _output(_run(script, NUMBA_CACHE_DIR=str(file)))
    assert out == "1\n"
    assert "cannot be kept" in err
    assert "set NUMBA_CACHE_DIR" in err


def test_the_users_cache_folder_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder.__wrapped__().parent == tmp_path / "hmr-skel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder.__wrapped__().parent == tmp_path / "home/.cache/hmr-skel"
