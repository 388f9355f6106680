"""`python tools/set_up.py [EXTRA]`: make .venv and install the project in it, with the packages of an extra or without.

The Makefile calls it; it needs only the standard library. uv installs, because it takes a tenth of pip's time. It gets
pip's configuration: indexes, folders of wheels, constraints, certificates, a proxy. If uv is not available, or fails
with that configuration, pip installs. Each step prints a line with its seconds.
"""

import argparse
import ast
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

VENV = Path(".venv")
PYTHON, PIP, UV = VENV / "bin/python", VENV / "bin/pip", VENV / "uv/bin/uv"
PINS, TORCH = VENV / "constraints.txt", VENV / "torch.txt"
TORCH_FOR_GPUS = "torch==2.13.0"  # on Linux the package index has its CUDA build under this name
SECONDS_PER_DOT = 5.0
LINES_OF_A_FAILURE = 15

VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX",),
    "extra-index-url": ("UV_INDEX",),
    "find-links": ("UV_FIND_LINKS",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "retries": ("UV_HTTP_RETRIES",),
}
"""uv's environment variable for each option of pip. All users could read passwords in arguments."""

FLAGS = {"no-index": "--no-index", "no-cache-dir": "--no-cache"}
"""Option of pip that is on or off -> uv's."""

NO_MATTER = {
    *("break-system-packages", "cache-dir", "config-file", "disable-pip-version-check", "log", "no-color", "no-input"),
    *("no-python-version-warning", "no-warn-script-location", "progress-bar", "quiet", "require-virtualenv"),
    *("root-user-action", "verbose"),
}
"""Options of pip that change neither what is installed nor where it comes from."""

ADVICE = (
    ("No space left on device", "the disk is full: the packages need 2 GB, and uv's cache as much"),
    (
        "NewConnection|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection broken",
        "the package index was not reached. See the network, and the index, the proxy and the certificate that\n"
        "       pip is configured with: .venv/bin/pip config list",
    ),
    (
        r"No matching distribution found for torch\b|\(constraint\) torch\b",
        "no package index that pip is configured with has this torch for this Python. Name one that has its CPU build\n"
        "       (https://pytorch.org/get-started names them), make setup TORCH_INDEX=...,\n"
        "       or another build, make setup TORCH=torch==2.13.0",
    ),
    (
        "No matching distribution found|ResolutionImpossible|Failed building wheel|subprocess-exited-with-error",
        "no package index that pip is configured with (.venv/bin/pip config list) has a version that constraints.txt\n"
        "       allows, for this Python and machine. All have wheels for Python 3.11: make setup PYTHON=python3.11",
    ),
    ("", "pip could not install, its last lines above say why"),
)
"""Patterns in pip's output when it fails (the first match counts), and the advice for each."""


class SetUpError(Exception):
    """A failed step of the set-up. The text says what failed, and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", nargs="?", help="an extra of pyproject.toml")
    parser.add_argument("--torch", help="another build of torch than that in constraints.txt; later set-ups keep it")
    parser.add_argument("--torch-index", help="a package index that has it, besides those that pip is configured with")
    parser.add_argument("--cuda", action="store_true", help="for fits on NVIDIA GPUs: torch's CUDA build, numba-cuda")
    options = parser.parse_args(arguments)
    torch = options.torch
    if torch is None and options.cuda:
        torch = TORCH_FOR_GPUS
    if torch is None:  # an empty one asks for that in constraints.txt again
        torch = TORCH.read_text().strip() if TORCH.exists() else ""
    try:
        driver = cuda_driver() if options.cuda else None
        make_venv()
        if driver is not None and built_for() == "None":  # else it would do, by its version
            run("without torch's CPU build", [str(PIP), "uninstall", "--yes", "torch"])
        install(options.extra, torch, options.torch_index)
        TORCH.write_text(f"{torch}\n")
        if driver is not None:
            install(extra_for(driver), torch, options.torch_index)
            must("a kernel on the GPU", [str(PYTHON), "-m", "fitting.gpu"])
        if options.extra is None:
            must("kernels for this CPU", [str(PYTHON), "-m", "fitting.lanes"])
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the next set-up goes on from here", file=sys.stderr)
        return 130
    return 0


def make_venv() -> None:
    """Make .venv with this version of Python, unless it is there."""
    about, version = VENV / "pyvenv.cfg", ".".join(map(str, sys.version_info[:3]))
    there = PIP.exists() and PYTHON.exists() and about.exists()
    if not (there and f"version = {version}\n" in about.read_text()):
        must(f"{VENV} with Python {version}", [sys.executable, "-m", "venv", "--clear", str(VENV)])


def install(extra: str | None, torch: str, index: str | None) -> None:
    """Install the project with uv, or else with pip."""
    pins = Path("constraints.txt").read_text()
    # Another build of torch is for other CUDA libraries than those that the tests are pinned to.
    PINS.write_text(re.sub("^(torch==|cuda-|nvidia-).*\n", "", pins, flags=re.MULTILINE) if torch else pins)
    what = ["-c", str(PINS), "-e", f".[{extra}]" if extra else ".", *([torch] if torch else [])]
    title = f"packages for {extra or 'running'}"

    listed = subprocess.run([PIP, "config", "list"], capture_output=True, text=True)
    if listed.returncode != 0:
        raise SetUpError(f"pip cannot read its configuration: {listed.stderr.strip()}")
    configured = pip_options(listed.stdout)
    unknown = configured.keys() - {"constraint"} - VARIABLES.keys() - FLAGS.keys() - NO_MATTER
    if unknown:
        print(f"uv has no counterpart of pip's {', '.join(sorted(unknown))}: pip installs instead, in some minutes")
    elif uv := find_uv():
        indexes = " ".join(filter(None, (configured.get("extra-index-url"), index)))
        arguments, variables = for_uv(configured | {"extra-index-url": indexes})
        command = [uv, "pip", "install", "--python", str(PYTHON), *arguments, *what]
        if run(title, command, variables, live=sys.stderr.isatty())[0] == 0:
            return
        print("uv failed: pip installs instead, in some minutes")
    else:
        print("uv cannot be had: pip installs instead, in some minutes")
    from_index = ["--extra-index-url", index] if index else []
    status, said = run(title, [str(PIP), "install", "--disable-pip-version-check", *from_index, *what])
    if status != 0:
        raise SetUpError(next(text for pattern, text in ADVICE if re.search(pattern, said)))


def cuda_driver() -> tuple[int, int]:
    """The newest CUDA that this machine's NVIDIA driver runs."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError as error:
        failed = error
    if failed:
        raise SetUpError(
            f"no NVIDIA driver was found ({failed}). CUDA=1 is for machines that have one: install the driver,\n"
            "       or set up for the CPU, without CUDA=1"
        )
    return version.value // 1000, version.value % 1000 // 10


def extra_for(driver: tuple[int, int]) -> str:
    """The extra with numba-cuda for the CUDA of the torch that is installed, which the driver must know."""
    cuda, found = built_for(), f"the driver runs CUDA {driver[0]}.{driver[1]}"
    name = "make setup CUDA=1 TORCH=... TORCH_INDEX=... (https://pytorch.org/get-started names builds)"
    if not re.fullmatch(r"1[23]\.\d+", cuda):
        raise SetUpError(
            f"{found}, but the torch that was installed is for CUDA {cuda or '?'}, expected 12 or 13:\n       {name}"
        )
    if int(cuda[:2]) > driver[0]:
        raise SetUpError(
            f"{found}, but the torch that was installed needs {cuda}: update the driver, or\n       {name}"
        )
    extra = "cuda" if cuda.startswith("13") else "cuda12"
    print(f"{found}; chosen: torch for CUDA {cuda}, the extra {extra}")
    return extra


def built_for() -> str:
    """The CUDA that the installed torch is built for; `None` is torch's word for its CPU build."""
    command = [PYTHON, "-c", "import torch; print(torch.version.cuda)"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def find_uv() -> str | None:
    """A uv that runs: from PATH, or .venv/uv, where pip puts it if need be. None where pip cannot."""
    for uv in (shutil.which("uv"), str(UV)):
        if uv and runs(uv):
            return uv
    where = ["--target", str(UV.parents[1])]
    status, _ = run("uv", [str(PIP), "install", "--disable-pip-version-check", *where, "uv"])
    return str(UV) if status == 0 and runs(str(UV)) else None


def runs(program: str) -> bool:
    """Whether it is a uv that knows the variables of `VARIABLES`: an older one would ask the public index."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return False
    version = re.match(r"uv (\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= (0, 5)


def pip_options(listing: str) -> dict[str, str]:
    """Option -> value that `pip install` would use, from the output of `pip config list`.

    As in pip, [install] overrides [global], and environment variables override both.
    """
    found = {}
    for section in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                found[name.removeprefix(section)] = ast.literal_eval(value)
    return found


def for_uv(configured: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment variables for `uv pip install`.

    Where several indexes have a package, the best version of all counts, as with pip; uv's own rule is the first index.
    """
    arguments, variables = ["--index-strategy", "unsafe-best-match"], {}
    for name, value in configured.items():
        values = [os.path.expanduser(part) for part in value.split()]
        if name == "constraint":
            arguments += [part for path in values for part in ("-c", path)]
        elif name in FLAGS and value.lower() in ("1", "true", "yes", "on"):
            arguments.append(FLAGS[name])
        for variable in VARIABLES.get(name, ()) if values else ():
            variables[variable] = ("," if name == "find-links" else " ").join(values)
    return arguments, variables


def must(title: str, command: Sequence[str]) -> None:
    """Run a command that the set-up needs."""
    if run(title, command)[0] != 0:
        raise SetUpError(f"`{' '.join(command)}` failed, see above")


def run(
    title: str, command: Sequence[str], variables: Mapping[str, str] | None = None, live: bool = False
) -> tuple[int, str]:
    """Run a command: a line with a title, a dot every few seconds, and the seconds that it took.

    Live, the command shows what it likes on the terminal. Otherwise its last lines are shown where it fails.

    Returns its exit status and, unless live, what it said.
    """
    print(f"{title}:", end="\n" if live else "", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=None if live else file,
            stderr=None if live else subprocess.STDOUT,
            env=os.environ | dict(variables or {}),
        )
        while True:
            try:
                status = process.wait(None if live else SECONDS_PER_DOT)
                break
            except subprocess.TimeoutExpired:
                print(" .", end="", flush=True)
        file.seek(0)
        said = file.read()
    seconds = f"{time.monotonic() - start:.0f} s"
    print((f"{title}:" if live else "") + (f" {seconds}" if status == 0 else f" failed after {seconds}"), flush=True)
    if status != 0:
        print("".join(f"    {line}\n" for line in said.splitlines()[-LINES_OF_A_FAILURE:]), end="", flush=True)
    return status, said


if __name__ == "__main__":
    sys.exit(main())
