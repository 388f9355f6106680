"""Set-up: which arguments the installers get, when pip takes over from uv, what is printed. Nothing is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import set_up

ROOT = Path(__file__).parents[2]
CONFIGURATION = r"""
global.extra-index-url='file:///a/simple\nhttps://name:word@b.example/simple'
global.find-links='/wheels ~/more'
global.timeout='60'
global.constraint='/etc/c.txt'
install.timeout='90'
:env:.find-links='/other ~/more'
:env:.proxy='http://p:1'
:env:.cert='/etc/ca.crt'
:env:.no-index='1'
:env:.disable-pip-version-check='1'
freeze.timeout='10'
"""
NOT_FOUND = """\
ERROR: Could not find a version that satisfies the requirement {0} (from versions: 2.10)
ERROR: No matching distribution found for {0}
"""
CONFLICT = """\
    hmr-skel 0.1.0 depends on {0}>=0.61
    The user requested (constraint) {0}==0.68.1
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a .venv in which python and pip are stand-ins that write their arguments to a file `calls`."""
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "pyvenv.cfg").write_text(f"version = {'.'.join(map(str, sys.version_info[:3]))}\n")
    (tmp_path / "configuration").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    program(tmp_path / ".venv" / "bin" / "python")
    program(tmp_path / ".venv" / "bin" / "pip", '[ "$1" = config ] && cat configuration')
    return tmp_path


def program(path: Path, *lines: str) -> None:
    """A stand-in: what the lines do, after a note of its arguments and of what uv takes from the environment."""
    path.parent.mkdir(exist_ok=True, parents=True)
    note = f'echo "{path.name} $*" "$UV_INDEX" >> calls'
    path.write_text("\n".join(("#!/bin/sh", note, *lines, "exit 0")))
    path.chmod(0o755)


def uv(clone: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A stand-in of uv, on PATH."""
    program(clone / "path" / "uv", '[ "$1" = --version ] && echo "uv 0.5.0" && exit 0', *lines)
    monkeypatch.setenv("PATH", f"{clone / 'path'}:/usr/bin:/bin")


def installs(clone: Path) -> list[str]:
    """The commands that installed the project, in their order."""
    return [call for call in (clone / "calls").read_text().splitlines() if " -e ." in call]


def test_uv_gets_what_pip_is_configured_with(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    arguments, variables = set_up.for_uv(set_up.pip_options(CONFIGURATION))
    assert arguments == ["--index-strategy", "unsafe-best-match", "-c", "/etc/c.txt", "--no-index"]
    assert variables == {
        "UV_INDEX": "file:///a/simple https://name:word@b.example/simple",
        "UV_FIND_LINKS": "/other,/home/somebody/more",
        "UV_HTTP_TIMEOUT": "90",
        "SSL_CERT_FILE": "/etc/ca.crt",
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://p:1"),
    }


@pytest.mark.parametrize(("extra", "what"), [(None, "."), ("test", ".[test]")])
def test_uv_installs(clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, extra, what: str):
    uv(clone, monkeypatch)
    (clone / "configuration").write_text("global.extra-index-url='https://a.example'\n")
    assert set_up.main(["--torch-index", "https://b.example", *([extra] if extra else [])]) == 0
    (call,) = installs(clone)
    assert call.startswith("uv pip install --python .venv/bin/python ")
    assert call.endswith(f"-c .venv/constraints.txt -e {what} https://a.example https://b.example")
    kernels = [] if extra else ["kernels for this CPU: 0 s"]  # an extra is only packages
    assert capfd.readouterr().out.splitlines() == [f"packages for {extra or 'running'}: 0 s", *kernels]
    assert ("python -m fitting.lanes" in (clone / "calls").read_text()) == (extra is None)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no uv", "uv cannot be had: pip installs instead"),
        ("uv fails", "uv failed: pip installs instead"),
        ("an option that uv has not", "uv has no counterpart of pip's only-binary: pip installs instead"),
    ],
)
def test_pip_takes_over(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, case: str, said: str
):
    if case != "no uv":
        uv(clone, monkeypatch, *(["echo no solution", "exit 2"] if case == "uv fails" else []))
    if case == "an option that uv has not":
        (clone / "configuration").write_text(":env:.only-binary=':all:'\n")
    assert set_up.main([]) == 0
    assert installs(clone)[-1].split()[:2] == ["pip", "install"]
    output = capfd.readouterr().out
    assert said in output
    assert ("    no solution\n" in output) == (case == "uv fails")


def test_a_uv_too_old_for_our_variables_is_not_used(clone: Path, monkeypatch: pytest.MonkeyPatch):
    program(clone / "path" / "uv", "echo uv 0.4.9")
    monkeypatch.setenv("PATH", f"{clone / 'path'}:/usr/bin:/bin")
    assert set_up.main(["test"]) == 0
    assert "pip install --disable-pip-version-check --target .venv/uv uv" in (clone / "calls").read_text()


def test_cuda_packages_do_not_come_unasked(clone: Path, monkeypatch: pytest.MonkeyPatch):
    uv(clone, monkeypatch)
    assert set_up.main([]) == 0
    pins = Path(".venv/constraints.txt").read_text()
    assert 'torch==2.13.0+cpu ; sys_platform == "linux"\n' in pins

    assert set_up.main(["--torch", "torch==2.13.0+cu130"]) == 0
    assert set_up.main(["test"]) == 0  # does not bring the CPU build back
    other = Path(".venv/constraints.txt").read_text()
    assert set(pins.splitlines()) - set(other.splitlines()) == {
        pin for pin in pins.splitlines() if pin.startswith(("torch==", "cuda-", "nvidia-"))
    }
    assert [" torch==2.13.0+cu130" in call for call in installs(clone)] == [False, True, True]


@pytest.mark.parametrize(
    ("driver", "cuda", "extra", "said"),
    [
        (None, "13.0", None, "error: no NVIDIA driver was found (no such library). CUDA=1 is for machines that have"),
        ((12, 8), "13.0", None, "error: the driver runs CUDA 12.8, but the torch that was installed needs 13.0: "),
        ((13, 0), "None", None, "error: the driver runs CUDA 13.0, but the torch that was installed is for CUDA None"),
        ((13, 1), "13.0", "cuda", "the driver runs CUDA 13.1; chosen: torch for CUDA 13.0, the extra cuda"),
        ((13, 1), "12.6", "cuda12", "the driver runs CUDA 13.1; chosen: torch for CUDA 12.6, the extra cuda12"),
    ],
)
def test_cuda_is_what_the_driver_runs(clone: Path, monkeypatch, capfd, driver, cuda: str, extra: str | None, said: str):
    def library(name: str):
        raise OSError("no such library")

    uv(clone, monkeypatch)
    program(clone / ".venv" / "bin" / "python", f'[ "$1" = -c ] && echo {cuda}')
    monkeypatch.setattr(set_up.ctypes, "CDLL", library)
    if driver:
        monkeypatch.setattr(set_up, "cuda_driver", lambda: driver)
    assert set_up.main(["--cuda"]) == (0 if extra else 2)
    assert said in "".join(capfd.readouterr())
    calls = (clone / "calls").read_text() if driver else ""
    assert ("pip uninstall --yes torch" in calls) == (cuda == "None")
    if extra:
        assert [call.split(" -e ")[1].strip() for call in installs(clone)] == [
            ". torch==2.13.0", f".[{extra}] torch==2.13.0"
        ]  # fmt: skip
        assert "python -m fitting.gpu" in (clone / "calls").read_text()
        assert "cuda-bindings" not in Path(".venv/constraints.txt").read_text()


@pytest.mark.parametrize(
    ("says", "advice"),
    [
        (NOT_FOUND.format("torch>=2.6"), "make setup TORCH_INDEX="),
        (CONFLICT.format("numba"), "make setup PYTHON="),
        ("WARNING: Retrying after NewConnectionError\n" + NOT_FOUND.format("torch>=2.6"), "index was not reached"),
        ("ERROR: something else", "its last lines above say why"),
    ],
)
def test_the_advice_is_about_what_failed(
    clone: Path, capfd: pytest.CaptureFixture, says: str, advice: str, monkeypatch: pytest.MonkeyPatch
):
    uv(clone, monkeypatch, "exit 2")
    (clone / "says").write_text(says)
    program(clone / ".venv" / "bin" / "pip", '[ "$1" = config ] && exit 0', "cat says", "exit 1")
    assert set_up.main([]) == 2
    out, err = capfd.readouterr()
    assert f"    {says.splitlines()[-1]}\n" in out
    assert err.startswith("error: ")
    assert advice in err
    assert ("TORCH" in err) == ("TORCH" in advice)


def test_a_configuration_that_pip_cannot_read(clone: Path, capfd: pytest.CaptureFixture):
    program(clone / ".venv" / "bin" / "pip", "echo broken >&2", "exit 3")
    assert set_up.main([]) == 2
    assert capfd.readouterr().err == "error: pip cannot read its configuration: broken\n"


def test_venv_is_made_anew_for_another_python(clone: Path, monkeypatch: pytest.MonkeyPatch):
    (clone / ".venv" / "pyvenv.cfg").write_text("version = 3.10.1\n")
    monkeypatch.setattr(sys, "executable", "true")
    monkeypatch.setattr(set_up, "install", lambda *arguments: None)
    ran = []
    monkeypatch.setattr(set_up, "must", lambda title, command: ran.append(command))
    assert set_up.main(["test"]) == 0
    assert ran == [["true", "-m", "venv", "--clear", ".venv"]]


@pytest.mark.parametrize(("target", "extra"), [("fit", None), ("test", "test")])
def test_a_target_brings_what_it_needs(tmp_path: Path, target: str, extra: str | None):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(["make", "-n", target, "SHARD=0"], cwd=tmp_path, capture_output=True, text=True, check=True)
    calls = [line.split() for line in done.stdout.splitlines() if "tools/set_up.py" in line]
    assert [call[2:] for call in calls] == [[], *([[extra]] if extra else [])]


def test_fit_asks_for_a_shard_before_it_sets_up(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    # As by hand, also where these tests are run by make, which would say that it enters a folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", "fit"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: make fit fits one shard. Name it: make fit SHARD=07\n")


def test_compiled_modules_are_kept(monkeypatch: pytest.MonkeyPatch):
    """uv compiles nothing, so each process would compile torch anew where that variable reached Python."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    # Called by `make test`, this make would say which folder it enters.
    command = ["make", "--no-print-directory", "--eval", "show: ; @echo [$$PYTHONDONTWRITEBYTECODE]", "show"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_skip_fails_where_none_is_expected(tmp_path: Path):
    (tmp_path / "conftest.py").write_text("from tests.skips import *\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_one(): pytest.skip('not installed')\n"
        "@pytest.mark.skipif(True, reason='allowed: no device')\n"
        "def test_two(): pass\n"
    )
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('there_is_none')\n")
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", ".", "--continue-on-collection-errors"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--skips-fail", "."], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert "1 failed, 1 skipped, 1 error" in done.stdout, done.stdout
